"""The step ``sanitizer``: NVIDIA's compute-sanitizer over small calls, one tool and one set of kernels at a time."""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu import bounded
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.record import write_json

PLACES = ("/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer")
FOUND_SOMETHING = 86  # what the sanitizer exits with then
# What says most first. Only memcheck looks at every operation; the others are slow and have the experts alone.
RUNS = (
    ("memcheck", "hopper", "experts"),
    ("racecheck", "hopper", "experts"),
    ("synccheck", "hopper", "experts"),
    ("memcheck", "portable", "all"),
    ("racecheck", "portable", "experts"),
    ("initcheck", "hopper", "experts"),
    ("initcheck", "portable", "experts"),
    ("synccheck", "portable", "experts"),
)
AT_ONCE = 4


def main(path: Path) -> int:
    program = shutil.which("compute-sanitizer") or next((p for p in PLACES if Path(p).exists()), None)
    if program is None:
        write_json(path, {"not_run": "compute-sanitizer is not installed"})
        print("compute-sanitizer is not installed: not run")
        return 0
    end = time.monotonic() + seconds_of_step(95)
    found: dict[str, Any] = {"program": program, "tools": {}}

    def look(tool: str, kernels: str, calls: str) -> None:
        found["tools"][f"{tool} {kernels} {calls}"] = outcome = run(
            program, tool, kernels, calls, end - time.monotonic()
        )
        print(f"{tool} {kernels} {calls}: {outcome['status']}", flush=True)

    # Most of it is what importing torch takes, so side by side.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(look, *zip(*RUNS, strict=True)))
    write_json(path, found)
    bad = [tool for tool, outcome in found["tools"].items() if outcome["status"] == "found errors"]
    return 1 if bad else 0


def run(program: str, tool: str, kernels: str, calls: str, seconds: float) -> dict[str, Any]:
    if seconds < 5:
        return {"status": "not run: no time left"}
    # Without torch's cache each tensor is an allocation of its own, whose ends are watched.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", **KERNELS[kernels]}
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND_SOMETHING), "--print-limit", "20"]
    target = [sys.executable, "-m", "genesis_moe.studies.gpu.small", calls]
    start = time.monotonic()
    try:
        for only_ours in (["--kernel-name", "kns=gmoe_"], []):  # torch's kernels are not ours to look at
            done = bounded.run(
                [*command, *only_ours, *target], environment, seconds - (time.monotonic() - start)
            )
            if done.status in (None, 0, FOUND_SOMETHING) or "kernel-name" not in done.text:
                break  # else a release that calls the option otherwise
    except OSError as error:
        return {"status": f"not run: {error}"}
    lines = done.text.splitlines()
    known = {0: "no errors", FOUND_SOMETHING: "found errors", None: f"not finished in {seconds:.0f} s"}
    status = known.get(done.status, f"exit status {done.status}")
    if status != "no errors":
        print(f"{tool} {kernels} {calls}", *lines[-20:], sep="\n")
    return {"status": status, "seconds": time.monotonic() - start, "output_tail": lines[-40:]}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
