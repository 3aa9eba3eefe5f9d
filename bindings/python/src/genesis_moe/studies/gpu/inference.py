"""The step ``inference``: forward passes without gradients, which have kernels of their own.

Few tokens and many small experts against float64 on the CPU, twice for the same bits, and which kernels ran. How
long few tokens take is the benchmark's.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DTYPES, TOLERANCE, Experts, differences, poison, wide
from genesis_moe.studies.gpu.hopper import kernels_of
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.record import finite, write_json

CASES = [
    Experts(1, 64, 32, 4, 2),
    Experts(1, 4096, 1024, 16, 8),
    Experts(7, 72, 40, 5, 2, bias=True),
    Experts(20, 136, 72, 4, 2, routing="absent", bias=True),
    Experts(33, 520, 1032, 7, 2, options={"interleaved": True}),
    Experts(64, 256, 512, 4, 2, routing="one"),
    Experts(64, 512, 128, 128, 16, bias=True),
    Experts(1, 576, 8, 192, 96),
    Experts(64, 576, 12, 96, 48, routing="absent"),
    Experts(2048, 576, 32, 48, 24),
    Experts(300, 136, 18, 9, 5, routing="few"),
]


def check(case: Experts, dtype: torch.dtype) -> dict[str, Any]:
    """The output against float64 on the CPU, and the same bits twice."""
    inputs = case.inputs(dtype)
    poison()
    with torch.no_grad():
        output = functional.experts(**inputs, **case.options)
        again = functional.experts(**inputs, **case.options)
        reference: dict[str, Any] = {name: wide(tensor) for name, tensor in inputs.items()}
        want = functional.experts(**reference, **case.options)
    found = differences({"output": output}, {"output": want})
    same = torch.equal(output, again)
    passed = same and found["output"] <= TOLERANCE[dtype]
    return {"differences": found, "deterministic": same, "passed": passed}


def main(path: Path) -> int:
    found: dict[str, Any] = {
        "variable": os.environ.get("GENESIS_MOE_EXPERT_KERNELS"),
        "cases": {},
        "kernels": {},
        "not_run": [],
    }
    start, limit, failed = time.monotonic(), seconds_of_step(40), 0
    for case in CASES:
        for name, dtype in DTYPES.items():
            key = f"{case} {name}"
            if time.monotonic() - start > limit:
                found["not_run"].append(key)
                continue
            write_json(path, finite({**found, "running": key}))
            try:
                result = check(case, dtype)
            except Exception as error:
                result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
            found["cases"][key] = result
            failed += not result["passed"]
            print(f"{key}: {'passed' if result['passed'] else result}", flush=True)
    for case in (CASES[0], CASES[7]):
        try:
            found["kernels"][str(case)] = kernels_of(case)
        except Exception as error:
            found["kernels"][str(case)] = [f"unknown: {type(error).__name__}: {error}"]
        print("kernels:", *found["kernels"][str(case)])
    write_json(path, finite(found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
