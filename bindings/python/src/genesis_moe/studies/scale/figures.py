"""The study's pictures, drawn from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from genesis_moe.studies.scale.fabrics import FABRICS
from genesis_moe.studies.scale.paper import GPUS, PLACEMENTS
from genesis_moe.studies.scale.summary import pick

# Okabe and Ito's colours.
COLORS = {
    "mixtral-top-2": "#000000",
    "hamiltonian-top-2": "#0072B2",
    "hamiltonian-1.25": "#D55E00",
}
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
          "savefig.dpi": 130}  # fmt: skip


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Writes scale-cost.png and scale-check.png; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(_STYLE):
        return [_costs(record, folder / "scale-cost.png"), _check(record, folder / "scale-check.png")]


def _costs(record: dict[str, Any], path: Path) -> Path:
    figure, grid = plt.subplots(2, 3, figsize=(15, 8), sharex=True)
    quantities = (
        ("seconds_per_token", 1e9, "ns a token (modelled)"),
        ("network_bytes_per_token", 1e-3, "network kB a token (modelled)"),
        ("joules_per_token", 1e6, "µJ a token (modelled)"),
    )
    for row, spread in zip(grid, ("groups", "wide"), strict=True):
        for axes, (key, factor, title) in zip(row, quantities, strict=True):
            for arm, color in COLORS.items():
                for placement, line in zip(PLACEMENTS, ("-", ":"), strict=True):
                    y = [factor * pick(record, arm, n, placement, spread=spread)[key] for n in GPUS]
                    axes.plot(GPUS, y, line, color=color, label=f"{arm}, {placement}")
            if key == "seconds_per_token":
                y = [
                    factor * pick(record, "mixtral-top-2", n, PLACEMENTS[0], "direct", spread)[key]
                    for n in GPUS
                ]
                axes.plot(GPUS, y, "--", color="#9a9a9a", label="mixtral-top-2, by number, direct")
            axes.set_xscale("log", base=2)
            axes.set_xticks(GPUS, [str(n) for n in GPUS], fontsize=8)
            axes.set_title(f"{title}\n{_SPREAD[spread]}", loc="left", fontsize=10)
            if spread == "wide":
                axes.axvspan(64, GPUS[-1], color="#f4f4f4", zorder=0)
                axes.set_xlabel("GPUs")
    lines, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        lines, names, frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0.01, 0.0)
    )
    figure.text(
        0.99, 0.01, f"{FABRICS[0].name}, node first;\ngrey ground: trace extrapolated", ha="right", fontsize=9
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return _save(figure, path)


_SPREAD = {
    "groups": "a copy of the 64 experts in every group of 64 GPUs",
    "wide": "one group of all GPUs, an expert or more on each",
}


def _check(record: dict[str, Any], path: Path) -> Path:
    checks = record["check"] or []
    figure, grid = plt.subplots(1, max(1, len(checks)), figsize=(12, 5), squeeze=False)
    for axes, found in zip(grid[0], checks, strict=False):
        for kind, color, marker in (("fitted", "#9a9a9a", "o"), ("predicted", "#D55E00", "s")):
            points = [point for point in found["points"] if point["kind"] == kind]
            medians = [point["measured_seconds"]["median"] for point in points]
            errors = [
                [m - point["measured_seconds"]["q25"] for m, point in zip(medians, points, strict=True)],
                [point["measured_seconds"]["q75"] - m for m, point in zip(medians, points, strict=True)],
            ]
            axes.errorbar([point["predicted_seconds"] for point in points], medians, yerr=errors, fmt=marker,
                          color=color, markersize=4, linewidth=0.8, label=kind)  # fmt: skip
        ends = [f(point["predicted_seconds"] for point in found["points"]) for f in (min, max)]
        axes.plot(ends, ends, color="#000000", linewidth=0.8)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="model, seconds",
            ylabel="measured, seconds (median, quartiles)",
        )
        axes.set_title(f"Gloo, {found['ranks']} processes", loc="left", fontsize=10)
        axes.legend(frameon=False)
    figure.tight_layout()
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path
