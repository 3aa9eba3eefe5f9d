"""The step ``hopper``: the experts' kernels for Hopper against float64 on the CPU, and which kernels ran."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genesis_moe import functional
from genesis_moe.studies.gpu.cases import Experts
from genesis_moe.studies.gpu.correctness import check_experts
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.record import finite, write_json

CASES = [
    Experts(1, 64, 32, 4, 2),
    Experts(17, 72, 40, 5, 2),
    Experts(128, 128, 256, 8, 2, bias=True),
    Experts(300, 520, 136, 7, 3, routing="absent", bias=True),
    Experts(300, 520, 136, 7, 3, transposed=True, bias=True),
    Experts(1000, 640, 264, 8, 2, routing="one"),
    Experts(1000, 640, 264, 8, 2, routing="few"),
    Experts(512, 576, 1536, 8, 2),
    Experts(2048, 1024, 512, 64, 8),
    Experts(4096, 2048, 768, 32, 4),
]


def kernels_of(case: Experts) -> list[str]:
    """The names of the kernels that a forward pass launches, from torch's profiler."""
    inputs = case.inputs(torch.bfloat16)
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile,
    ):
        functional.experts(**inputs)
        torch.cuda.synchronize()
    return sorted({event.key for event in profile.key_averages() if event.key.startswith("gmoe_")})


def main(path: Path) -> int:
    found: dict[str, Any] = {
        "variable": os.environ.get("GENESIS_MOE_EXPERT_KERNELS"),
        "cases": {},
        "not_run": [],
    }
    start, limit, failed = time.monotonic(), seconds_of_step(60), 0
    for case in CASES:
        if time.monotonic() - start > limit:
            found["not_run"].append(str(case))
            continue
        print(f"{case} ...", flush=True)  # where it hangs or dies, this is the last line
        write_json(path, finite({**found, "running": str(case)}))
        try:
            result = check_experts(case, torch.bfloat16)
        except Exception as error:
            result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        found["cases"][str(case)] = result
        failed += not result["passed"]
        print(f"{case}: {'passed' if result['passed'] else result}", flush=True)
        write_json(path, finite(found))
    try:
        found["kernels"] = kernels_of(CASES[2])
    except Exception as error:
        found["kernels"] = [f"unknown: {type(error).__name__}: {error}"]
    print("kernels:", *found["kernels"])
    write_json(path, finite(found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
