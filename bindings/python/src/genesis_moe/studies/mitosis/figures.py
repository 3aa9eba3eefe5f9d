"""The study's pictures, drawn from its record alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from genesis_moe.studies.mitosis.summary import by_arm

# Okabe and Ito's colours, and line styles for who does not see them.
STYLES = {
    "mitosis": ("#D55E00", "-"),
    "fixed-start": ("#000000", ":"),
    "fixed-end": ("#000000", "-"),
    "random-times": ("#0072B2", "--"),
    "random-experts": ("#009E73", "-."),
    "eager": ("#CC79A7", "-"),
}


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Writes growth.png: loss, experts, load and specialisation over time; returns the paths."""
    arms = by_arm(record)
    if not arms:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    tokens = record["settings"]["batch"] * record["settings"]["shape"]["sequence"] / 1e6

    def of_layers(key: str) -> Callable[[dict[str, Any]], float]:
        return lambda point: statistics.fmean(layer[key] for layer in point["layers"])

    def uneven(point: dict[str, Any]) -> float:
        return statistics.fmean(
            max(layer["loads"]) * len(layer["loads"]) / max(1, sum(layer["loads"])) - 1
            for layer in point["layers"]
        )

    panels: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("held-out loss, nats per byte", lambda point: float(point["loss"])),
        ("experts of a layer", of_layers("experts")),
        ("largest load of an expert over the mean, less 1", uneven),
        ("mutual information of expert and domain,\nless its null, nats", of_layers("mutual_information")),
        ("semantic stability index (SSI)", of_layers("ssi")),
        ("SSI_adj = 1 - Var within / Var all", of_layers("ssi_adjusted")),
    ]
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.color": "#e6e6e6", "savefig.dpi": 130}):  # fmt: skip
        figure, grid = plt.subplots(2, 3, figsize=(15, 8))
        for axes, (title, value) in zip(grid.flat, panels, strict=True):
            for name, runs in arms.items():
                color, line = STYLES[name]
                curves = [[value(point) for point in run["evaluations"]] for run in runs.values()]
                x = [point["step"] * tokens for point in next(iter(runs.values()))["evaluations"]]
                points = list(zip(*curves, strict=True))
                axes.plot(x, [statistics.fmean(p) for p in points], color=color, linestyle=line, label=name)
                axes.fill_between(x, [min(p) for p in points], [max(p) for p in points],
                                  color=color, alpha=0.1, linewidth=0)  # fmt: skip
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("bytes of training, millions")
        random = [layer["ssi_random_vectors"] for runs in arms.values() for run in runs.values()
                  for point in run["evaluations"] for layer in point["layers"]]  # fmt: skip
        grid.flat[4].axhline(statistics.fmean(random), color="#9a9a9a", linewidth=1)
        grid.flat[4].annotate(
            "random vectors", (0.5, statistics.fmean(random)), (0, -2), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8, color="#5f5f5f", ha="center", va="top",
        )  # fmt: skip
        grid.flat[0].legend(frameon=False)
        note = "mean over seeds; band: their range" + ("; PARTIAL" if record["partial"] else "")
        figure.text(0.99, 0.005, note, ha="right", fontsize=9, color="#555555")
        figure.tight_layout(rect=(0, 0.02, 1, 1))
        path = folder / "growth.png"
        figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    return [path]
