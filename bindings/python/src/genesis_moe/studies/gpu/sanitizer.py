"""The step ``sanitizer``: NVIDIA's compute-sanitizer over small calls of every operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.record import write_json

SECONDS = seconds_of_step(95)
PLACES = ("/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer")
FOUND_SOMETHING = 86  # what the sanitizer exits with then


def main(path: Path) -> int:
    program = shutil.which("compute-sanitizer") or next((p for p in PLACES if Path(p).exists()), None)
    if program is None:
        write_json(path, {"not_run": "compute-sanitizer is not installed"})
        print("compute-sanitizer is not installed: not run")
        return 0
    start = time.monotonic()
    found: dict[str, Any] = {"program": program, "tools": {}}
    for tool, kernels in (
        ("memcheck", "portable"),
        ("racecheck", "portable"),
        ("synccheck", "portable"),
        ("memcheck", "hopper"),
    ):
        left = SECONDS - (time.monotonic() - start)
        found["tools"][f"{tool} {kernels}"] = outcome = (
            run(program, tool, kernels, left) if left > 10 else {"status": "not run: no time left"}
        )
        print(f"{tool} {kernels}: {outcome['status']}")
        write_json(path, found)
    bad = [tool for tool, outcome in found["tools"].items() if outcome["status"] == "found errors"]
    return 1 if bad else 0


def run(program: str, tool: str, kernels: str, seconds: float) -> dict[str, Any]:
    # Without torch's cache each tensor is an allocation of its own, whose ends are watched.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "GENESIS_MOE_EXPERT_KERNELS": kernels}
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND_SOMETHING), "--print-limit", "20"]
    command += [sys.executable, "-m", "genesis_moe.studies.gpu.small"]
    start = time.monotonic()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"status": f"not finished in {seconds:.0f} s"}
    lines = (done.stdout + done.stderr).splitlines()
    status = {0: "no errors", FOUND_SOMETHING: "found errors"}.get(
        done.returncode, f"exit status {done.returncode}"
    )
    if status != "no errors":
        print("\n".join(lines[-40:]))
    return {"status": status, "seconds": time.monotonic() - start, "output_tail": lines[-40:]}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
