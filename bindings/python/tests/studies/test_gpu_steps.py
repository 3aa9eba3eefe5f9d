"""What the steps of the study on a GPU write where something is wrong, run on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_moe.studies.record import finite

# One element of every output in a narrow type is infinite, and none of the reference's.
BROKEN = """
import sys
from pathlib import Path
import torch
from genesis_moe import functional
from genesis_moe.studies.gpu import {step} as step

experts = functional.experts

def broken(hidden_states, *arguments, **options):
    output = experts(hidden_states, *arguments, **options)
    return output if hidden_states.dtype == torch.float64 else output + torch.inf

functional.experts = broken
step.CASES = step.CASES[:2] * 4  # the kernels of some others are asked for by their place
if "{step}" == "fp8":
    step.LAYERS = []
    sys.exit(step.run(Path(sys.argv[1]), 600.0))
step.kernels_of = lambda case: []  # CUDA's profiler alone knows
sys.exit(step.main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("step", "cases"), [("inference", 4), ("hopper", 2), ("fp8", 4)])
def test_an_output_that_is_not_finite_ends_no_step(step: str, cases: int, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.replace("{step}", step), str(path)],
        env={**os.environ, "GMOE_GPU_STUDY_DEVICE": "cpu", "GMOE_GPU_STEP_SECONDS": "600"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert len(found["cases"]) == cases
    assert {case["differences"]["output"] for case in found["cases"].values()} == {"inf"}
    assert not any(case["passed"] for case in found["cases"].values())


def test_what_json_has_no_number_for_is_text() -> None:
    value = {"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": (None, "x", True)}
    assert finite(value) == {"a": [1.5, "inf"], "b": {"c": "nan"}, "d": [None, "x", True]}
