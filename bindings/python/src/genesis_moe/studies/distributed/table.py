"""The table of the study, from its record."""

from __future__ import annotations

from typing import Any

import numpy as np

from genesis_moe.studies.distributed.training import first_difference

NAMES = {"one": "one process", "ddp": "DDP", "fsdp2": "FSDP2", "experts": "experts spread, the rest DDP"}


def table(record: dict[str, Any]) -> str:
    """Markdown: one line for each run of seed 0, and what the seeds of one process differ by."""
    runs = record["runs"]
    ones = {(run["dtype"], run["seed"]): run for run in runs if run["layout"] == "one"}
    lines = [
        "| layout | processes | dtype | held-out loss | difference to one process | prices and gaps on all ranks |"
        " the same bits as one process |",
        "|---|--:|---|--:|--:|---|---|",
    ]
    first_seed = runs[0]["seed"]
    for run in sorted((r for r in runs if r["seed"] == first_seed), key=lambda r: r["dtype"]):
        one = ones[run["dtype"], run["seed"]]
        alone = run is one
        cells = (
            NAMES[run["layout"]],
            run["ranks"],
            run["dtype"],
            f"{run['held_out']:.5f}",
            "" if alone else _difference(run["held_out"] - one["held_out"]),
            "" if alone else _ranks(run),
            "" if alone else _bits(first_difference(one, run), run["steps"]),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    seeds = [run["held_out"] for (dtype, _), run in ones.items() if dtype == "float32"]
    settings, machine = record["settings"], record["environment"]["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"Arm {runs[0]['arm']} of the comparison's smoke tier, {settings['steps']} steps of "
            f"{settings['batch']} x {settings['shape']['sequence']} bytes, {settings['final_windows']} windows a "
            f"domain held out; nats per byte.{_double(record)} "
            f"Seeds {', '.join(str(s) for d, s in ones if d == 'float32')} of one process, "
            f"float32: {', '.join(f'{loss:.4f}' for loss in seeds)}; standard deviation "
            f"{np.std(seeds, ddof=1):.4f}. {machine['processor']}, torch "
            f"{record['environment']['versions']['torch']}, Gloo over loopback.{_missing(record)}",
            "",
        ]
    )


def _difference(value: float) -> str:
    return f"{value:+.5f}" if abs(value) >= 5e-6 else f"{value:+.0e}"


def _ranks(run: dict[str, Any]) -> str:
    parted = run["ranks_parted_at"]
    return f"same bits, all {run['steps']} steps" if parted is None else f"**part at step {parted}**"


def _bits(different: int | None, steps: int) -> str:
    return f"all {steps} steps" if different is None else f"first {different - 1} steps"


def _double(record: dict[str, Any]) -> str:
    settings = record.get("settings_float64", record["settings"])
    if settings == record["settings"]:
        return ""
    return f" In float64 a run of {settings['steps']} steps, {settings['final_windows']} windows."


def _missing(record: dict[str, Any]) -> str:
    runs = [f"{NAMES[layout]} on {ranks}, {dtype}" for layout, ranks, dtype in record["missing"]]
    return f" Not run: {'; '.join(runs)}." if runs else ""
