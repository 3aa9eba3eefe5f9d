"""``python -m genesis_moe.studies.gpu``: runs the steps and writes one JSON of what they found."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.record import environment, read_json, write_json

# Seconds that each step may take, in the order of what is missed most without it. What some leave over the
# later ones have, of which the last are left out where there is none, so that all end within TOTAL_SECONDS.
LIMITS = {
    "facts": 20,
    "correctness": 90,
    "inference": 25,
    "hopper": 40,
    "benchmark": 115,
    "joules": 80,
    "ncu": 40,
    "sanitizer": 50,
    "graphs": 25,
    "tests": 40,
    "compare": 450,
}
TOTAL_SECONDS, LEAST_SECONDS = 465.0, 25.0
# Asked for by name: it takes its two minutes whatever the GPU (``make gpu-energy``).
ON_REQUEST = {"energy": 170}
# Of a step's process: kernels are chosen before the library is loaded.
ENVIRONMENTS: dict[str, dict[str, str]] = {"hopper": KERNELS["hopper"]}
NO_GPU = 3  # exit status of the step facts


def main() -> int:
    parser = argparse.ArgumentParser(prog="genesis_moe.studies.gpu", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("bench/gpu"), help="folder for the record (default: %(default)s)"
    )
    parser.add_argument("--steps", default=",".join(LIMITS), help="comma separated; default: all but energy")
    parser.add_argument(
        "--seconds", type=float, default=TOTAL_SECONDS,
        help="for all steps together; those that no time is left for are listed as not run (default: %(default).0f)",
    )  # fmt: skip
    options = parser.parse_args()
    unknown = set(options.steps.split(",")) - set(LIMITS) - set(ON_REQUEST)
    if unknown:
        parser.error(
            f"--steps: {', '.join(sorted(unknown))}, want some of {', '.join([*LIMITS, *ON_REQUEST])}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"study": "gpu", "environment": environment(), "steps": {}}
    end = time.monotonic() + options.seconds
    for name in options.steps.split(","):
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            outcome = {"status": "not run: no time left", "exit_status": None, "seconds": 0.0}
        else:
            outcome = run(name, options.out / "parts", min(left, LIMITS.get(name) or ON_REQUEST[name]))
        print(f"{name}: {outcome['status']} in {outcome['seconds']:.0f} s", flush=True)
        if name == "facts" and outcome["exit_status"] == NO_GPU:
            print("no GPU that the library can use: nothing was run and nothing written", file=sys.stderr)
            return NO_GPU
        record["steps"][name] = outcome
        write_json(options.out / "gpu.json", record)  # after each step: what was found is not lost
    failed = [name for name, outcome in record["steps"].items() if outcome["status"] != "passed"]
    print(f"wrote {options.out / 'gpu.json'}" + (f"; not passed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run(name: str, folder: Path, limit: float) -> dict[str, Any]:
    """Runs a step within its limit; what it wrote before it failed or was stopped is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    part, log = folder / f"{name}.json", folder / f"{name}.log"
    part.unlink(missing_ok=True)
    print(f"--- {name} (at most {limit:.0f} s)", flush=True)
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"genesis_moe.studies.gpu.{name}", str(part)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "GMOE_GPU_STEP_SECONDS": str(limit),
                **ENVIRONMENTS.get(name, {}),
            },
        )
        try:
            exit_status: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            exit_status = None
            os.killpg(process.pid, 9)
            process.wait()
    status = "timed out" if exit_status is None else "passed" if exit_status == 0 else "failed"
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-30:]), flush=True)
    return {
        "status": status,
        "exit_status": exit_status,
        "seconds": time.monotonic() - start,
        "limit_seconds": limit,
        "output_tail": lines[-60:],
        "found": read_json(part) if part.exists() else None,
    }


if __name__ == "__main__":
    sys.exit(main())
