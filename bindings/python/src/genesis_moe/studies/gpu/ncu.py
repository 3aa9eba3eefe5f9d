"""The step ``ncu``: NVIDIA's Nsight Compute over one forward and backward pass, a few metrics of each kernel.

It needs the program ncu and the right to read the GPU's counters. Where either is missing the record says so in the
program's own words.
"""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu import bounded
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.record import write_json

PLACES = ("/usr/local/cuda*/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")
# The name in the record, and Nsight Compute's.
METRICS = {
    "microseconds": "gpu__time_duration.sum",
    "tensor_pipe_percent": "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "tensor_cycles_percent": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "dram_bytes": "dram__bytes.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "static_shared_bytes": "launch__shared_mem_per_block_static",
    "dynamic_shared_bytes": "launch__shared_mem_per_block_dynamic",
    "blocks_by_shared": "launch__occupancy_limit_shared_mem",
    "blocks_by_registers": "launch__occupancy_limit_registers",
}
UNKNOWN = re.compile(r"(?:Failed to find metric|metric not found:?)\s+[\"']?([\w.]+)", re.IGNORECASE)
# What ncu's units are of ours: seconds, bytes and percent.
SCALES = {
    "nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3, "second": 1e6, "s": 1e6,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9,
    "byte/block": 1.0, "Kbyte/block": 1e3,
}  # fmt: skip


def main(path: Path) -> int:
    program = shutil.which("ncu") or next(_globbed(PLACES), None)
    if program is None:
        write_json(path, {"not_run": "ncu is not installed"})
        print("ncu is not installed: not run")
        return 0
    found: dict[str, Any] = {"program": program, "metrics": METRICS, "runs": {}}
    end = time.monotonic() + seconds_of_step(45)
    for kernels in ("hopper", "portable"):
        left = end - time.monotonic()
        found["runs"][kernels] = one = (
            run(program, kernels, left) if left > 8 else {"status": "not run: no time left"}
        )
        print(f"{kernels}: {one['status']}, {len(one.get('kernels', []))} kernels", flush=True)
        write_json(path, found)
    return 0  # what cannot be read here is no failure of ours


def run(program: str, kernels: str, seconds: float) -> dict[str, Any]:
    """The metrics of our kernels in one process; names that this ncu does not know are left out and it is run anew."""
    names, end, unknown = dict(METRICS), time.monotonic() + seconds, []
    while True:
        command = [
            program, "--csv", "--page", "raw", "--kernel-name", "regex:gmoe_experts_|gmoe_router_|gmoe_plan_",
            "--metrics", ",".join(names.values()), "--launch-count", "40", "--replay-mode", "kernel",
            "--clock-control", "none",  # the clocks are the machine's owner's
            sys.executable, "-m", "genesis_moe.studies.gpu.single",
        ]  # fmt: skip
        done = bounded.run(command, KERNELS[kernels], end - time.monotonic())
        missing = set(UNKNOWN.findall(done.text)) & set(names.values())
        rows = parse(done.output, names)
        if missing and not rows:
            unknown += sorted(missing)
            names = {ours: theirs for ours, theirs in names.items() if theirs not in missing}
            continue
        status = "profiled" if rows else f"exit status {done.status}, nothing profiled"
        if done.status is None:
            status = f"not finished in {seconds:.0f} s"
        if "ERR_NVGPUCTRPERM" in done.text:
            status = "not permitted: ERR_NVGPUCTRPERM"
        return {"status": status, "kernels": rows, "unknown_metrics": unknown, **_said(done.text)}


def parse(text: str, names: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of ncu's raw page: a line of names, a line of units, a line for each launch; other lines around them."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    table = list(csv.reader(io.StringIO("\n".join(lines[start:]))))
    header, rows = table[0], [row for row in table[1:] if len(row) == len(table[0])]
    if not rows:
        return []
    units = dict(zip(header, rows[0], strict=True))
    found = []
    for row in rows[1:]:
        values = dict(zip(header, row, strict=True))
        one: dict[str, Any] = {"kernel": values.get("Kernel Name", "").split("(")[0]}
        for ours, theirs in names.items():
            if theirs in values:
                one[ours] = _number(values[theirs], units[theirs])
        found.append(one)
    return found


def _number(text: str, unit: str) -> float | None:
    try:
        value = float(text.replace(",", "")) * SCALES.get(unit, 1.0)
    except ValueError:
        return None  # "n/a"
    return value if math.isfinite(value) else None


def _said(text: str) -> dict[str, list[str]]:
    """What ncu says of itself, but for its progress."""
    return {
        "messages": [line for line in text.splitlines() if line.startswith(("==ERROR==", "==WARNING=="))][:20]
    }


def _globbed(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from sorted((str(p) for p in Path("/").glob(pattern.lstrip("/"))), reverse=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
