"""What the steps of the study on a GPU write where something is wrong, run on the CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_moe.studies.gpu.__main__ import LIMITS, NO_TIME, TOGETHER, TOTAL_SECONDS, not_passed, run
from genesis_moe.studies.gpu.cases import worst
from genesis_moe.studies.gpu.facts import QUERY
from genesis_moe.studies.record import anonymous, finite

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


def test_a_record_does_not_say_whose_machine_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    root = Path(__file__).resolve().parents[4]
    uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef"
    value = {
        "devices": [{"name": "H200", "uuid": uuid}],
        "output_tail": [
            f'File "{root}/bindings/a.py"',
            "/home/somebody/x: not found",
            "/home/somebody-else/x",
            f"lost {uuid}",
        ],
        "processes": {"portable": {"pid": 7, "device": "cuda"}},
        "path": "/home/somebody",
        "seconds": 1.5,
    }
    assert anonymous(value) == {
        "devices": [{"name": "H200"}],
        "output_tail": [
            'File "./bindings/a.py"' if (root / ".git").exists() else f'File "{root}/bindings/a.py"',
            "~/x: not found",
            "/home/somebody-else/x",
            "lost GPU",
        ],
        "processes": {"portable": {"device": "cuda"}},
        "path": "~",
        "seconds": 1.5,
    }
    assert "uuid" not in QUERY


def test_what_resumes_is_not_begun_with_little_time_and_that_is_no_failure(tmp_path: Path) -> None:
    outcome = run("compare", tmp_path, 89.0, 1)
    assert (outcome["status"], outcome["exit_status"]) == (NO_TIME, None)
    assert not list(tmp_path.iterdir())
    late = {"status": NO_TIME}
    assert not_passed({"facts": {"status": "passed"}, "compare": late, "ncu": late}) == ["ncu"]
    assert not_passed({"compare": {"status": "failed"}}) == ["compare"]


def test_the_limits_of_all_steps_but_the_last_fit() -> None:
    alone = sum(limit for name, limit in LIMITS.items() if name not in (*TOGETHER, "compare"))
    assert alone + max(LIMITS[name] for name in TOGETHER) <= TOTAL_SECONDS


@pytest.mark.parametrize("values", [[math.nan, 0.0], [0.0, math.nan], [0.0, math.nan, 1.0]])
def test_nan_is_the_worst_difference(values):
    assert not worst(values) <= 1e-5
    assert (worst([0.5, 2.0, 1.0]), worst([])) == (2.0, 0.0)
