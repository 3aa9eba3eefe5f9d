"""The step fp8 of the study on a GPU, run on the CPU: the same code but for events and the profiler's kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

STEP = """
import sys
from pathlib import Path
from genesis_moe.studies.gpu import fp8

fp8.CASES = fp8.CASES[:6]
fp8.LAYERS, fp8.TOKENS = [(64, 32, 4, 2)], (8,)
sys.exit(fp8.run(Path(sys.argv[1]), 120.0))
"""


def test_the_step_finds_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "fp8.json"
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(path)],
        env={**os.environ, "GMOE_GPU_STUDY_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert len(found["cases"]) == 12 and all(case["passed"] for case in found["cases"].values())
    # Not by comparing a thing with itself: float32 sums differ from the reference's.
    assert any(case["differences"]["output"] > 0 for case in found["cases"].values())
    (times,) = found["times"].values()
    assert times["milliseconds"]["e4m3"]["median"] > 0 and times["milliseconds"]["bfloat16"]["median"] > 0
    assert set(times["graph"]) == set(times["milliseconds"]) and not any(times["graph"].values())
    assert "scaled_grouped_mm" in {**times["errors"], **times["milliseconds"]}
