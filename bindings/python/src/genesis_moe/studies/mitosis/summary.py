"""The table of the study, from its record: arms against mitosis, seed by seed."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

from genesis_moe.studies.statistics import paired

MARGIN_NATS = 0.01


def by_arm(record: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Finished runs: arm to seed to run."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in record["runs"]:
        if run["done"]:
            found.setdefault(run["arm"], {})[run["seed"]] = run
    return found


def total_flops(run: dict[str, Any]) -> float:
    """Experts and routers, forward and backward, and what watching for splits takes."""
    return float(run["expert_flops"] + run["router_flops"] + run["watching_flops"])


def loss_at(run: dict[str, Any], flops: float) -> float:
    """The held-out loss when the run had done so much work, between two evaluations in a straight line."""
    each = total_flops(run) / run["steps"]
    points = [(0.0, None), *((e["step"] * each, e["loss"]) for e in run["evaluations"])]
    for (x0, y0), (x1, y1) in pairwise(points):
        if flops <= x1 * (1 + 1e-12):
            return float(y1 if y0 is None else y0 + (y1 - y0) * (flops - x0) / (x1 - x0))
    return float(points[-1][1] or 0.0)


def markdown(record: dict[str, Any]) -> str:
    """One row an arm; differences are paired by seed."""
    arms = by_arm(record)
    lines = [
        "| arm | experts at the end, by layer and seed | held-out loss, nats/byte | less mitosis (95 %) | "
        "the same at equal FLOPs | FLOPs | mutual information, nats (null) | SSI (random, shuffled) | SSI_adj |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ours = arms.get("mitosis", {})
    for name, label in record["arms"].items():
        if name not in arms:
            continue
        runs = arms[name]
        seeds = sorted(runs.keys() & ours.keys())
        differences = ["", ""]
        relative = (
            statistics.fmean(total_flops(runs[s]) / total_flops(ours[s]) for s in seeds) if seeds else None
        )
        if name != "mitosis" and seeds:
            budgets = {s: min(total_flops(runs[s]), total_flops(ours[s])) for s in seeds}
            differences = [
                _difference(
                    [runs[s]["held_out"]["loss"] for s in seeds], [ours[s]["held_out"]["loss"] for s in seeds]
                ),
                _difference(
                    [loss_at(runs[s], budgets[s]) for s in seeds],
                    [loss_at(ours[s], budgets[s]) for s in seeds],
                ),
            ]
        experts = "; ".join(
            "+".join(str(layer["experts"]) for layer in run["layers"]) for run in runs.values()
        )

        def mean(key: str, runs: dict[int, dict[str, Any]] = runs) -> float:
            return statistics.fmean(
                layer[key] for run in runs.values() for layer in run["evaluations"][-1]["layers"]
            )

        loss = statistics.fmean(run["held_out"]["loss"] for run in runs.values())
        lines.append(
            f"| {label} | {experts} | {loss:.4f} | {differences[0]} | {differences[1]} | "
            f"{'-' if relative is None else f'{relative:.3f}x'} | "
            f"{mean('mutual_information'):.3f} ({mean('mutual_information_null'):.3f}) | "
            f"{mean('ssi'):.3f} ({mean('ssi_random_vectors'):.3f}, {mean('ssi_shuffled'):.3f}) | "
            f"{mean('ssi_adjusted'):.3f} |"
        )
    settings = record["settings"]
    tokens = settings["batch"] * settings["shape"]["sequence"] * settings["steps"]
    lines += [
        "",
        f"- {tokens / 1e6:.2f} million bytes of training; finished seeds by arm: "
        + ", ".join(f"{name} {len(runs)}" for name, runs in arms.items())
        + ". A positive difference is a loss above that of mitosis.",
        "- Verdict in brackets: decided when the 95 % interval excludes 0; equal when two one-sided tests bound the "
        f"difference by {MARGIN_NATS} nats.",
        "- Every token has two experts of one width in every arm, so equal tokens are equal expert FLOPs; FLOPs add "
        "routers and watching. Memory is not equal: it grows with the experts.",
    ]
    if record["partial"]:
        lines.append(
            f"- PARTIAL: not finished: {', '.join(f'{arm} seed {seed}' for arm, seed in record['missing'])}."
        )
    return "\n".join(lines)


def _difference(values: list[float], baseline: list[float]) -> str:
    found = paired(values, baseline, MARGIN_NATS)
    if found.half_width is None:
        return f"{found.mean:+.4f}"
    if abs(found.mean) > found.half_width:
        verdict = "worse" if found.mean > 0 else "better"
    else:
        verdict = "equal" if found.equivalent else "undecided"
    return f"{found.mean:+.4f} ± {found.half_width:.4f} ({verdict})"
