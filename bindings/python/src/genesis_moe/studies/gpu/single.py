"""One pass over a layer of the benchmark's kind, forward, backward and for few tokens: what ``ncu`` looks at."""

from __future__ import annotations

import torch

import genesis_moe as gm
from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DEVICE, Experts, run_experts
from genesis_moe.studies.gpu.timing import synchronize

TRAINED, FEW = Experts(8192, 2048, 1024, 32, 4), Experts(16, 2048, 1024, 32, 4)


def main() -> None:
    inputs = TRAINED.inputs(torch.bfloat16)
    router = gm.Router(TRAINED.hidden, TRAINED.experts, TRAINED.slots, dtype=torch.bfloat16, device=DEVICE)
    router(inputs["hidden_states"])
    run_experts(inputs, torch.ones_like(inputs["hidden_states"]), {})
    with torch.no_grad():
        functional.experts(**FEW.inputs(torch.bfloat16))
    synchronize()
    print("done")


if __name__ == "__main__":
    main()
