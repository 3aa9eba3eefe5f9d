"""What other runs are compared with: the energy per token of finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genesis_moe.energy.record import read_record
from genesis_moe.errors import InvalidArgumentError


def baseline_of(paths: Sequence[str | Path], name: str, phase: str = "train") -> dict[str, Any]:
    """The baseline that the records of some runs give: one run for each seed.

    The runs must have been metered by the same source, on the same devices with the same power
    limits and drivers, and have the same shape. Its joules per token are their mean; its uncertainty is the
    larger of half their spread and the mean of their own. Errors name the record.
    """
    if not paths:
        raise InvalidArgumentError("paths: none, want the record of at least one run")
    runs = [_run(Path(path), phase) for path in paths]
    first = runs[0]
    for run in runs[1:]:
        for key in ("source", "quality", "devices", "shape"):
            if run[key] != first[key]:
                raise InvalidArgumentError(
                    f"{run['path']}: {key} {run[key]}, want {first[key]} as {first['path']}"
                )
    values = [run["joules_per_token"] for run in runs]
    own = [run["uncertainty"] for run in runs]
    spread = (max(values) - min(values)) / 2
    uncertainty = None if None in own else max(spread, statistics.fmean(own))
    return {
        "kind": "baseline",
        "name": name,
        "phase": phase,
        "joules_per_token": {
            "value": statistics.fmean(values),
            "uncertainty": uncertainty,
            "source": first["source"],
            "quality": first["quality"],
        },
        "seeds": len(runs),
        "tokens": round(statistics.fmean(run["tokens"] for run in runs)),
        "devices": first["full_devices"],
        "shape": first["shape"],
    }


def _run(path: Path, phase: str) -> dict[str, Any]:
    head, last, ended = None, None, False
    for line in read_record(path):
        if line["kind"] == "run":
            head = line
        elif line["kind"] == "step" and line["phase"] == phase:
            last = line
        elif line["kind"] == "end":
            ended = True
    if head is None or last is None:
        raise InvalidArgumentError(f"{path}: has no step of phase {phase!r}")
    if not ended:
        raise InvalidArgumentError(f"{path}: has no end: the run did not finish")
    energy = last["energy"]["run_joules_per_token"]
    if energy["value"] is None:
        raise InvalidArgumentError(f"{path}: its energy was not measured ({energy['source']})")
    devices = head.get("devices", [])
    return {
        "path": path,
        "joules_per_token": energy["value"],
        "uncertainty": energy["uncertainty"],
        "tokens": last["total_tokens"],
        "source": energy["source"],
        "quality": energy["quality"],
        "devices": [(d.get("name"), d.get("driver"), d["limit_watts"]) for d in devices],
        "full_devices": devices,
        "shape": head.get("shape", {}),
    }
