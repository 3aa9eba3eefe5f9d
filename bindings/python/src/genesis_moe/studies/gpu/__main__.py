"""``python -m genesis_moe.studies.gpu``: runs the steps and writes one JSON of what they found."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.record import anonymous, environment, read_json, write_json

# Seconds that each step may take, in the order of what is missed most without it. What some leave over the
# later ones have, of which the last are left out where there is none, so that all end within TOTAL_SECONDS.
LIMITS = {
    "facts": 30,
    "correctness": 100,
    "inference": 100,
    "hopper": 100,
    "sanitizer": 100,
    "tests": 100,
    "benchmark": 115,
    "fp8": 75,
    "joules": 75,
    "ncu": 45,
    "graphs": 25,
    "compare": 450,
}
# These say right or wrong and time nothing, so they run side by side: the references on the CPU take longest.
TOGETHER = ("correctness", "inference", "hopper", "sanitizer", "tests")
TOTAL_SECONDS, LEAST_SECONDS = 465.0, 25.0
# These go on where an earlier call ended: with less than so many seconds left there is nothing to gain, and not to
# begin is no failure.
RESUMED = {"compare": 90.0}
NO_TIME = "not run: no time left"
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
    for names in batches(options.steps.split(",")):
        left = end - time.monotonic()
        threads = max(1, (os.cpu_count() or 1) // len(names))
        with ThreadPoolExecutor(len(names)) as pool:
            outcomes = {name: pool.submit(run, name, options.out / "parts", left, threads) for name in names}
        for name, future in outcomes.items():
            outcome = future.result()
            print(*outcome.get("output_tail", [])[-30:], sep="\n")
            print(f"--- {name}: {outcome['status']} in {outcome['seconds']:.0f} s", flush=True)
            if name == "facts" and outcome["exit_status"] == NO_GPU:
                print("no GPU that the library can use: nothing was run and nothing written", file=sys.stderr)
                return NO_GPU
            record["steps"][name] = outcome
        write_json(options.out / "gpu.json", anonymous(record))  # after each step: what was found is not lost
    failed = not_passed(record["steps"])
    print(f"wrote {options.out / 'gpu.json'}" + (f"; not passed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def not_passed(steps: dict[str, dict[str, Any]]) -> list[str]:
    """The names of the steps that the exit status is for."""
    return [
        name
        for name, outcome in steps.items()
        if outcome["status"] != "passed" and not (name in RESUMED and outcome["status"] == NO_TIME)
    ]


def batches(names: list[str]) -> Iterator[list[str]]:
    """The steps in their order, those that may run side by side as one, where the first of them is."""
    together = [name for name in names if name in TOGETHER]
    for name in names:
        if name not in TOGETHER:
            yield [name]
        elif name == together[0]:
            yield together


def run(name: str, folder: Path, left: float, threads: int) -> dict[str, Any]:
    """Runs a step within its limit and the time left; what it wrote before it failed or was stopped is kept."""
    if left < RESUMED.get(name, LEAST_SECONDS):
        return {"status": NO_TIME, "exit_status": None, "seconds": 0.0}
    limit = min(left, LIMITS.get(name) or ON_REQUEST[name])
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
                "OMP_NUM_THREADS": str(threads),
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
