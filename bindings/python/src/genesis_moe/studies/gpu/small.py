"""Small calls of every operation, for the sanitizer: nothing is compared."""

from __future__ import annotations

import torch

import genesis_moe as gm
from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DEVICE, DTYPES, Experts, run_experts

CASES = [
    Experts(1, 64, 32, 4, 2),
    Experts(17, 72, 40, 5, 2, bias=True, routing="absent"),
    Experts(150, 129, 67, 7, 3, routing="few"),
    Experts(33, 72, 40, 5, 2, transposed=True, bias=True, options={"interleaved": True}),
]
INFERENCE = [
    Experts(3, 72, 136, 5, 2, bias=True, routing="absent"),
    Experts(40, 136, 264, 3, 2),
    Experts(70, 72, 12, 12, 5, routing="absent"),
]
ROUTERS = {
    "hamiltonian": {"budget": 1.25},
    "mixtral": {},
    "deepseek": {"num_groups": 4, "top_k_groups": 2},
}


def main() -> None:
    for dtype in DTYPES.values():
        for case in CASES:
            inputs = case.inputs(dtype)
            run_experts(
                inputs, torch.ones(case.tokens, case.hidden, device=DEVICE, dtype=dtype), case.options
            )
        with torch.no_grad():  # which has kernels of its own
            for case in INFERENCE:
                functional.experts(**case.inputs(dtype))
        for mode, options in ROUTERS.items():
            router = gm.Router(72, 16, 2, mode=mode, dtype=dtype, device=DEVICE, **options)  # type: ignore[arg-type]
            routing = router(torch.randn(45, 72, device=DEVICE, dtype=dtype, requires_grad=True))
            (routing.weights.sum() + routing.logits.square().sum()).backward()
            router.update(router.counts, 45)
            functional.report(router.options, routing.logits, routing.index, router.price)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
