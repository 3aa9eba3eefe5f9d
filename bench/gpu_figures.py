"""The pictures of a GPU's record: rates by shape, few tokens beside reading, energy of a token.

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from gpu_tables import NAMES, found, of_shape
from matplotlib.axes import Axes

COLORS = {
    "portable": "#E69F00",
    "hopper": "#D55E00",
    "hopper_plain": "#CC79A7",
    "grouped_mm": "#000000",
    "torch_grouped_mm": "#56B4E9",
    "scatter": "#0072B2",
    "eager": "#9a9a9a",
    "dense": "#009E73",
}


def bars(axes: Axes, groups: list[tuple[str, dict[str, float]]], unit: str, title: str) -> None:
    """Bars by arm for each group, from 0."""
    arms = [name for name in COLORS if any(name in values for _, values in groups)]
    width = 0.8 / max(1, len(arms))
    for place, name in enumerate(arms):
        at = [i + (place - len(arms) / 2 + 0.5) * width for i in range(len(groups))]
        heights = [values.get(name, 0.0) for _, values in groups]
        axes.bar(at, heights, width, color=COLORS[name], label=NAMES.get(name, name))
    axes.set_xticks(range(len(groups)), [label for label, _ in groups], fontsize=8)
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.14))


def groups_of(data: dict[str, Any]) -> dict[str, tuple[list[tuple[str, dict[str, float]]], str, str]]:
    """What each picture shows, by its name; a picture of nothing is left out."""
    records = found(data, "benchmark").get("records", [])
    most = max((r["tokens"] for r in records), default=0)
    pictures = {}
    for passes, name in (("forward", "forward"), ("forward+backward", "training")):
        rates = [
            (of_shape(r), r["teraflops_per_second"])
            for r in records
            if r["tokens"] == most and r["passes"] == passes and "reading" not in r
        ]
        pictures[name] = rates, "TFLOP/s", f"{passes}, T={most}, by H, I, E, k: higher is better"
    few = [
        (f"{of_shape(r)}\nT={r['tokens']}", {n: v for n, v in r["over_reading"].items() if n != "eager"})
        for r in records
        if r.get("over_reading")  # the loop over experts, which would hide the others, is in the table
    ]
    pictures["few"] = few, "times reading", "Few tokens, over reading the weights drawn: lower is better"
    joules = found(data, "joules")
    windows = joules.get("experts", {}).get("windows", {})
    energy = {
        name: 1e3 * statistics.median(w["joules_per_token"] for w in of_arm)
        for name, of_arm in windows.items()
        if of_arm and all(w["joules_per_token"] is not None for w in of_arm)
    }
    label = of_shape(joules["experts"]) if energy else ""
    quality = joules.get("meter", {}).get("quality")
    pictures["energy"] = (
        [(label, energy)] if energy else [],
        "mJ/token",
        f"Experts' energy, forward+backward ({quality}): lower is better",
    )
    return {name: picture for name, picture in pictures.items() if picture[0]}


def draw(data: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the pictures into a folder; returns their paths."""
    paths = []
    for name, (groups, unit, title) in groups_of(data).items():
        figure, axes = plt.subplots(figsize=(max(6.0, 1.6 * len(groups)), 4.5))
        bars(axes, groups, unit, title)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], bbox_inches="tight", dpi=150, metadata={"Software": None})
        plt.close(figure)
    return paths
