"""The step ``energy``: the GPU's sensors, idle and under load, and J/token of a layer.

A counter and an integral of power watch the same seconds; what a reading of either leaves open is
stated beside it. Every update of the counter is kept in ``energy_trace.jsonl`` beside the record: source
``replay`` plays it, so tests can meter what this GPU did.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import genesis_moe as gm
from genesis_moe.energy import Reading
from genesis_moe.studies.record import write_json

IDLE_SECONDS = LOADED_SECONDS = 60.0
TRACE_POLL_SECONDS = 0.004


def thin(source: Path, target: Path) -> list[float]:
    """Keeps the readings at which a counter changed; returns the seconds between changes of the first sensor."""
    last: dict[int, float] = {}
    changes: list[float] = []
    with source.open() as lines, target.open("w") as kept:
        kept.write(next(lines))
        for line in lines:
            seconds, sensor, value = json.loads(line)
            if last.get(sensor) == value:
                continue
            if sensor == 0 and sensor in last:
                changes.append(seconds)
            last[sensor] = value
            kept.write(line)
    return [after - before for before, after in pairwise(changes)]


def compare(counter: Reading, integral: Reading) -> dict[str, Any]:
    """Two readings of the same window."""
    found: dict[str, Any] = {
        "counter": asdict(counter),
        "integral": asdict(integral),
        "counter_watts": counter.watts,
    }
    if counter.joules is not None and integral.joules:
        found["counter_over_integral"] = counter.joules / integral.joules
    return found


def measure(
    folder: Path,
    work: Callable[[], int],
    idle_seconds: float = IDLE_SECONDS,
    loaded_seconds: float = LOADED_SECONDS,
) -> dict[str, Any]:
    """Idle, then ``work`` (one step; returns its tokens) again and again. Writes the trace into the folder."""
    raw = folder / "energy_trace.raw"
    with (
        gm.EnergyMeter("nvml_counter", poll_seconds=TRACE_POLL_SECONDS, trace_path=raw) as counter,
        gm.EnergyMeter("nvml_integrated") as power,
    ):
        with power.window() as integral, counter.window() as counted:
            time.sleep(idle_seconds)
        assert counted.reading is not None and integral.reading is not None
        idle = compare(counted.reading, integral.reading)
        work()
        tokens, steps, end = 0, 0, time.monotonic() + loaded_seconds
        with power.window() as integral, counter.window() as counted:
            while time.monotonic() < end:
                tokens += work()
                steps += 1
        assert counted.reading is not None and integral.reading is not None
        loaded = compare(counted.reading, integral.reading)
        described = counter.describe()
    ticks = thin(raw, folder / "energy_trace.jsonl")
    raw.unlink()
    per_token, bound = counted.reading.per_token(tokens), counted.reading.uncertainty
    idle_watts = idle["counter_watts"]
    net = None
    if per_token is not None and idle_watts is not None:
        net = per_token - idle_watts * counted.reading.seconds / tokens
    return {
        "meter": described["meter"],
        "devices": described["devices"],
        "updates": {
            "count": len(ticks),
            "median_seconds": statistics.median(ticks) if ticks else None,
            "least_seconds": min(ticks, default=None),
            "most_seconds": max(ticks, default=None),
            "polled_every_seconds": TRACE_POLL_SECONDS,
        },
        "idle": idle,
        "loaded": loaded,
        "layer": {
            "steps": steps,
            "tokens": tokens,
            "joules_per_token": per_token,
            "joules_per_token_uncertainty": None if bound is None else bound / tokens,
            "net_joules_per_token": net,
        },
    }


def layer_step(
    hidden: int = 2048, intermediate: int = 1024, experts: int = 64, top_k: int = 8, tokens: int = 8192
) -> Any:
    """Forward and backward of a layer in bfloat16; waits for the device, so that no work is queued ahead."""
    import torch

    from genesis_moe.studies.gpu.cases import DEVICE

    layer = gm.MoE(hidden, intermediate, experts, top_k=top_k).to(DEVICE, torch.bfloat16)
    x = torch.randn(tokens, hidden, device=DEVICE, dtype=torch.bfloat16)

    def step() -> int:
        layer(x).square().mean().backward()
        torch.cuda.synchronize()
        return tokens

    return step


def main(path: Path) -> int:
    found = measure(path.parent.parent, layer_step())
    write_json(path, found)
    updates, layer = found["updates"], found["layer"]
    print(f"the counter updates every {updates['median_seconds']} s, {updates['count']} times")
    for name in ("idle", "loaded"):
        one = found[name]
        print(f"{name}: {one['counter_watts']} W, counter over integral {one.get('counter_over_integral')}")
    print(f"layer: {layer['joules_per_token']} J/token, {layer['net_joules_per_token']} net of idle")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
