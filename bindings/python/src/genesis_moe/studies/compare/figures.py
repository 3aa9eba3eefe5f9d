"""The study's pictures, drawn from its record alone.

Colours are Okabe and Ito's, which colour-blind readers tell apart; the marker differs too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from genesis_moe.studies.compare.summary import Row, rows

# Colour, marker, line style by arm; the many other arms are drawn in grey.
LEAD = {
    "mixtral-top-2": ("#000000", "s", "-"),
    "mixtral-top-1": ("#000000", "s", ":"),
    "deepseek": ("#0072B2", "D", "-"),
    "hamiltonian-top-2": ("#E69F00", "o", "-"),
    "hamiltonian-1.25": ("#D55E00", "o", "-"),
    "hamiltonian-1.00": ("#CC79A7", "o", "-"),
    "dense": ("#009E73", "^", "-"),
}
GREY = "#9a9a9a"
FAMILIES = {
    "hamiltonian": ("#D55E00", "o"),
    "mixtral": ("#000000", "s"),
    "deepseek": ("#0072B2", "D"),
    "dense": ("#009E73", "^"),
    "hash": ("#56B4E9", "v"),
}


Curve = tuple[list[float], list[float]]


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Writes loss.png, expert_flops.png, bars.png and pareto.png, and of a study on a GPU, which has it to itself,
    pareto_seconds.png and pareto_joules.png; returns their paths.

    A figure for which the record holds nothing is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    style = {
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "axes.axisbelow": True,
        "font.size": 11,
        "savefig.dpi": 150,
    }
    paths = []
    with plt.rc_context(style):
        for name, make in (
            ("loss", _loss),
            ("expert_flops", _expert_flops),
            ("bars", _bars),
            ("pareto", _pareto),
            ("pareto_seconds", _pareto_seconds),
            ("pareto_joules", _pareto_joules),
        ):
            figure = make(record)
            if figure is None:
                continue
            if record["partial"]:
                figure.text(0.99, 0.005, "partial: runs are missing", ha="right", color="#b00020", fontsize=9)
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
    return paths


def _by_arm(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {arm["name"]: [] for arm in record["arms"]}
    for run in record["runs"]:
        found[run["arm"]].append(run)
    return {name: runs for name, runs in found.items() if runs}


def _style(name: str, arms: int) -> dict[str, Any]:
    """The line of an arm; with few arms none is grey."""
    if name in LEAD:
        color, _, line = LEAD[name]
        return {"color": color, "linestyle": line, "linewidth": 1.8, "zorder": 3}
    return {"color": GREY, "linewidth": 1.0 if arms > 6 else 1.8, "zorder": 2}


def _lines(
    record: dict[str, Any], axes: Axes, values: Callable[[dict[str, Any]], Curve], *, band: bool
) -> None:
    """Draws, for each arm, the mean over its seeds of values(run) -> (x, y); band: their range."""
    labels = {arm["name"]: arm["label"] for arm in record["arms"]}
    groups = _by_arm(record)
    others = False
    for name, runs in groups.items():
        curves = [values(run) for run in runs]
        length = min(len(x) for x, _ in curves)
        if length == 0:
            continue
        x = np.array(curves[0][0][:length])
        y = np.array([curve[:length] for _, curve in curves])
        style = _style(name, len(groups))
        label = labels[name]
        if name not in LEAD:
            label = None if others else "other arms"
            others = True
        axes.plot(x, y.mean(axis=0), label=label, **style)
        if band and name in LEAD and len(runs) > 1:
            axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=style["color"], alpha=0.12, linewidth=0)


def _loss(record: dict[str, Any]) -> Figure | None:
    """Left the losses; right, where arms lie too close to tell, their paired differences."""
    if not any(run["curves"]["held_out"] for run in record["runs"]):
        return None
    tokens = _tokens_per_step(record) / 1e6
    figure: Figure
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
    baseline = {
        run["seed"]: dict(run["curves"]["held_out"])
        for run in record["runs"]
        if run["arm"] == record["baseline"]
    }

    def losses(run: dict[str, Any]) -> Curve:
        points = run["curves"]["held_out"]
        return [step * tokens for step, _ in points], [loss for _, loss in points]

    def differences(run: dict[str, Any]) -> Curve:
        base = baseline.get(run["seed"], {})
        points = [(step, loss - base[step]) for step, loss in run["curves"]["held_out"] if step in base]
        return [step * tokens for step, _ in points], [difference for _, difference in points]

    _lines(record, left, losses, band=True)
    _lines(record, right, differences, band=True)
    for axes in (left, right):
        axes.set_xlabel("bytes of training, millions")
    left.set_ylabel("held-out loss, nats per byte")
    left.set_title("Held-out loss" + _seeds_note(record), loc="left", fontsize=11)
    right.set_title(f"The same less {record['baseline']}, seed by seed", loc="left", fontsize=11)
    # The first points are so high that they would flatten the rest.
    ends = [run["curves"]["held_out"] for run in record["runs"] if run["curves"]["held_out"]]
    high = statistics.median(points[min(1, len(points) - 1)][1] for points in ends)
    low = min(points[-1][1] for points in ends)
    if high > low:
        left.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    left.legend(frameon=False)
    figure.tight_layout()
    return figure


def _expert_flops(record: dict[str, Any]) -> Figure | None:
    """Cumulative joules where all runs were metered, else cumulative expert FLOPs."""
    if not record["runs"]:
        return None
    tokens = _tokens_per_step(record) / 1e6
    figure: Figure
    figure, axes = plt.subplots(figsize=(8, 5))

    def values(run: dict[str, Any]) -> Curve:
        flops = run["curves"]["expert_flops_per_step"]
        every = run["curve_every"]
        steps = [min((point + 1) * every, run["steps"]) for point in range(len(flops))]
        widths = np.diff([0, *steps])
        return [step * tokens for step in steps], list(np.cumsum(widths * flops) / 1e12)

    _lines(record, axes, values, band=False)
    axes.set_xlabel("bytes of training, millions")
    axes.set_ylabel("expert TFLOP so far, forward and backward")
    axes.set_title("Work of the experts (energy: no meter, not measured)", loc="left")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(*_together(axes), frameon=False)
    return figure


def _together(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of the legend: lines that coincide share one entry."""
    groups: dict[float, tuple[Any, list[str]]] = {}
    for line in axes.get_lines():
        end = round(float(np.asarray(line.get_ydata())[-1]), 3)
        label = str(line.get_label())
        if label == "other arms":
            groups[-1.0] = (line, [label])  # last, whatever they come to
        elif not label.startswith("_"):
            groups.setdefault(end, (line, []))[1].append(label)
            groups[end] = (line, groups[end][1])  # the line on top is the one that is seen
    ordered = [groups[end] for end in sorted(groups, reverse=True)]
    return [line for line, _ in ordered], [" ·\n".join(labels) for _, labels in ordered]


def _bars(record: dict[str, Any]) -> Figure | None:
    table = rows(record)
    if not table:
        return None
    table = table[::-1]  # barh draws upwards
    metered = all(row.joules is not None for row in table)
    figure: Figure
    figure, panels = plt.subplots(1, 3, figsize=(13, 1.4 + 0.42 * len(table)), sharey=True)
    losses = [row.loss for row in table]
    work = [(row.joules or 0.0) if metered else row.flops / 1e12 for row in table]
    seconds = [_expert_milliseconds(record, row.name) for row in table]
    for axes, values, title, form in zip(
        panels,
        (losses, work, seconds),
        (
            "held-out loss, nats per byte",
            "energy, J" if metered else "expert TFLOP over the run\n(energy: not measured)",
            "expert part of a step, ms",
        ),
        ("{:.3f}", "{:.2f}", "{:.1f}"),
        strict=True,
    ):
        places = np.arange(len(table))
        axes.barh(
            places,
            np.nan_to_num(values),
            color=[_family(row.name)[0] for row in table],
            alpha=0.85,
            height=0.7,
        )
        axes.set_yticks(places, [row.label for row in table])
        axes.set_title(title, fontsize=11, loc="left")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for place, value in zip(places, values, strict=True):
            text = "not timed" if math.isnan(value) else form.format(value)
            axes.text(np.nan_to_num(value), place, " " + text, va="center", fontsize=9)
    # Bars of losses start where differences can be seen; the axis says so.
    low, high = min(losses), max(losses)
    margin = max(high - low, 0.01)
    panels[0].set_xlim(low - margin, high + 0.45 * margin)
    panels[0].set_xlabel("axis does not start at 0", fontsize=9, color="#555555")
    for axes, values in zip(panels[1:], (work, seconds), strict=True):
        axes.set_xlim(0, 1.2 * float(np.nanmax(values)))
    figure.tight_layout()
    return figure


def _pareto(record: dict[str, Any]) -> Figure | None:
    label = f"expert FLOPs over the run, relative to {record['baseline']}"
    return _loss_against(record, lambda row: row.relative_flops, label, "work")


def _pareto_seconds(record: dict[str, Any]) -> Figure | None:
    # Runs on a CPU were not alone there: their seconds say little.
    if record.get("place", {}).get("device", "cpu") == "cpu" or record["jobs"] > 1:
        return None
    return _loss_against(record, lambda row: row.training_seconds, "seconds of training", "time")


def _pareto_joules(record: dict[str, Any]) -> Figure | None:
    kinds = {(row.energy_quality, row.energy_source) for row in rows(record) if row.joules is not None}
    if len(kinds) != 1:
        return None
    quality, source = kinds.pop()
    label = f"joules of training, whole device ({quality}, {source})"
    return _loss_against(record, lambda row: row.joules, label, "energy")


def _loss_against(
    record: dict[str, Any], value: Callable[[Row], float | None], label: str, what: str
) -> Figure | None:
    """The loss of each arm, by its paired difference to the baseline's, against what it cost."""
    table = [(row, cost) for row in rows(record) if (cost := value(row)) is not None]
    base = next((row for row, _ in table if row.name == record["baseline"]), None)
    if base is None:
        return None
    figure: Figure
    figure, axes = plt.subplots(figsize=(9, 6))
    losses = {row.name: base.loss + (row.difference.mean if row.difference else 0.0) for row, _ in table}
    chain = [(cost, losses[row.name]) for row, cost in table if _is_budgeted(row.name)]
    axes.plot(
        [cost for cost, _ in chain], [loss for _, loss in chain],
        color="#D55E00", linewidth=1, alpha=0.6, zorder=2,
    )  # fmt: skip
    points = []
    for row, cost in table:
        color, marker = _family(row.name)
        loss = losses[row.name]
        axes.scatter(cost, loss, color=color, marker=marker, s=60, zorder=3)
        if row.difference and (half := row.difference.half_width):
            ends = [loss - half, loss + half]
            axes.plot([cost] * 2, ends, color=color, linewidth=1, alpha=0.5, zorder=2)
        points.append((cost, loss, row.label, color))
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.55 * (high - low))  # room for the labels of the points furthest right
    axes.set_xlabel(label)
    axes.set_ylabel(f"held-out loss, nats per byte: that of {base.label}\nand the paired difference, 95 %")
    axes.set_title(f"Loss against {what}: lower left is better", loc="left")
    _place_labels(figure, axes, points)
    return figure


def _place_labels(figure: Figure, axes: Axes, points: list[tuple[float, float, str, str]]) -> None:
    """Labels beside their points, each moved to the first place that overlaps nothing.

    Three points or more that stand above each other have theirs in a column on the right.
    """
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken = []
    columns: dict[int, list[tuple[float, float, str, str]]] = {}
    for point in points:
        px, py = axes.transData.transform(point[:2])
        taken.append((px - 7, py - 7, px + 7, py + 7))
        columns.setdefault(round(px / 12), []).append(point)
    frame = axes.get_window_extent(renderer)

    def write(
        point: tuple[float, float, str, str], dx: float, dy: float, ha: str, va: str, line: bool
    ) -> Any:
        x, y, label, color = point
        return axes.annotate(
            label, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=9, color=color, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.6, "linewidth": 0.7} if line else None,
        )  # fmt: skip

    single: list[tuple[float, float, str, str]] = []
    for column in columns.values():
        if len(column) < 3:
            single += column
            continue
        column.sort(key=lambda point: point[1])
        heights = [axes.transData.transform(point[:2])[1] * 72 / figure.dpi for point in column]
        for point, height, place in zip(column, heights, _spread(heights, 13.0), strict=True):
            text = write(point, 30, place - height, "left", "center", True)
            box = _extent(text, renderer)
            taken.append((box.x0, box.y0, box.x1, box.y1))
    for point in sorted(single, key=lambda point: (point[0], point[1])):
        best = None
        for distance in (9, 18, 30, 44, 60, 80):
            for dx, dy, ha, va in (
                (1, 0, "left", "center"), (-1, 0, "right", "center"),
                (0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top"),
                (-0.7, 0.7, "right", "bottom"), (-0.7, -0.7, "right", "top"),
                (1, 0.35, "left", "center"), (1, -0.35, "left", "center"),
                (-1, 0.35, "right", "center"), (-1, -0.35, "right", "center"),
                (0, 1, "center", "bottom"), (0, -1, "center", "top"),
            ):  # fmt: skip
                text = write(point, dx * distance, dy * distance, ha, va, distance > 9)
                box = _extent(text, renderer)
                edges = (box.x0, box.y0, box.x1, box.y1)
                inside = (
                    edges[0] >= frame.x0
                    and edges[2] <= frame.x1
                    and edges[1] >= frame.y0
                    and edges[3] <= frame.y1
                )
                if inside and not any(_overlap(edges, other) for other in taken):
                    best = text
                    taken.append(edges)
                    break
                text.remove()
            if best is not None:
                break


def _extent(text: Annotation, renderer: Any) -> Any:
    """Where a label stands; its line is not part of it."""
    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


def _spread(heights: list[float], apart: float) -> list[float]:
    """Ascending heights moved as little as keeps them apart, about where they were."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + apart) if places else height)
    down = (sum(places) - sum(heights)) / len(heights)
    return [place - down for place in places]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _expert_milliseconds(record: dict[str, Any], name: str) -> float:
    """NaN for an arm that --timing-only, where it has been run, did not time: the clock of a run is no match."""
    if timing := record.get("timing"):
        return 1e3 * float(timing["arms"].get(name, {}).get("expert_seconds", math.nan))
    seconds: float = statistics.median(
        run["seconds_at_end"]["experts"] for run in record["runs"] if run["arm"] == name and run["done"]
    )
    return 1e3 * seconds


def _family(name: str) -> tuple[str, str]:
    return next((style for family, style in FAMILIES.items() if name.startswith(family)), (GREY, "o"))


def _is_budgeted(name: str) -> bool:
    return name.startswith("hamiltonian-") and name.removeprefix("hamiltonian-").replace(".", "").isdigit()


def _tokens_per_step(record: dict[str, Any]) -> int:
    settings = record["settings"]
    return int(settings["batch"] * settings["shape"]["sequence"])


def _seeds_note(record: dict[str, Any]) -> str:
    counts = {len(runs) for runs in _by_arm(record).values()}
    if max(counts, default=0) < 2:
        return ""
    few, many = min(counts), max(counts)
    return f" (mean of {few if few == many else f'{few} to {many}'} seeds; band: their range)"
