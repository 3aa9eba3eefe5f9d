"""Small calls, for the sanitizer: nothing is compared. ``python -m genesis_moe.studies.gpu.small [all|experts]``"""

from __future__ import annotations

import sys

import torch

import genesis_moe as gm
from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DEVICE, DTYPES, Experts, run_experts
from genesis_moe.studies.gpu.timing import synchronize

CASES = [
    Experts(1, 64, 32, 4, 2),
    Experts(17, 72, 40, 5, 2, bias=True, routing="absent"),
    Experts(150, 129, 67, 7, 3, routing="few"),
    Experts(33, 72, 40, 5, 2, transposed=True, bias=True, options={"interleaved": True}),
]
# In bfloat16, with widths that the kernels for Hopper take: spans of one and of several tiles, tails of both.
ALIGNED = [
    Experts(17, 72, 40, 5, 2, bias=True, routing="absent"),
    Experts(150, 136, 264, 3, 2, routing="few"),
    Experts(33, 72, 40, 5, 2, transposed=True),
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


def experts(cases: list[Experts], dtype: torch.dtype) -> None:
    for case in cases:
        grad = torch.ones(case.tokens, case.hidden, device=DEVICE, dtype=dtype)
        run_experts(case.inputs(dtype), grad, case.options)
    with torch.no_grad():  # which has kernels of its own
        for case in INFERENCE:
            functional.experts(**case.inputs(dtype))


def routers(dtype: torch.dtype) -> None:
    for mode, options in ROUTERS.items():
        router = gm.Router(72, 16, 2, mode=mode, dtype=dtype, device=DEVICE, **options)  # type: ignore[arg-type]
        routing = router(torch.randn(45, 72, device=DEVICE, dtype=dtype, requires_grad=True))
        (routing.weights.sum() + routing.logits.square().sum()).backward()
        router.update(router.counts, 45)
        functional.report(router.options, routing.logits, routing.index, router.price)


def main(calls: str) -> None:
    if calls == "experts":
        experts(ALIGNED, torch.bfloat16)
    else:
        for dtype in DTYPES.values():
            experts(CASES, dtype)
            routers(dtype)
    synchronize()
    print("done")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all")
