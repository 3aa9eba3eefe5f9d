"""The table of a study, from its record: arms against the baseline, seed by seed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from genesis_moe.studies.statistics import Difference, paired

MARGIN_NATS = 0.01  # of equivalence
END_POINTS = 5  # points of a curve that count as the end of the run


@dataclass(frozen=True)
class Row:
    """One arm. Relative values are means over the seeds that the baseline has too; loss is over
    those that most arms have, or else over its own, which is then said."""

    name: str
    label: str
    seeds: int
    experts_per_token: float | None
    loss: float
    loss_of_own_seeds: bool  # not to be compared with other arms' but by the difference
    difference: Difference | None  # to the baseline, nats per byte; None for the baseline
    flops: float  # expert FLOPs over the run
    relative_flops: float | None
    relative_flops_at_end: float | None
    relative_seconds: float | None  # of the expert part of a step
    max_violation: float | None
    training_seconds: float
    joules: float | None
    joules_per_token: float | None  # of training
    energy_source: str | None  # of joules
    energy_quality: str | None

    @property
    def verdict(self) -> str:
        """What the paired difference of losses lets one say."""
        if self.difference is None or self.difference.half_width is None:
            return ""
        if self.difference.mean - self.difference.half_width > 0:
            return "worse"
        if self.difference.mean + self.difference.half_width < 0:
            return "better"
        if self.difference.equivalent:
            return "equal"
        return "no worse" if self.difference.no_worse else "undecided"


def rows(record: dict[str, Any]) -> list[Row]:
    """One row for each arm with at least one finished run, in the order of the arms."""
    finished: dict[str, dict[int, dict[str, Any]]] = {}
    for run in record["runs"]:
        if run["done"]:
            finished.setdefault(run["arm"], {})[run["seed"]] = run
    shared = _of_most_arms(finished)
    return [
        _row(record, arm, finished[arm["name"]], finished.get(record["baseline"], {}), shared)
        for arm in record["arms"]
        if arm["name"] in finished
    ]


def _of_most_arms(finished: dict[str, dict[int, dict[str, Any]]]) -> set[int]:
    """The seeds with which more than half of the arms are finished: their mean losses can be compared."""
    count = Counter(seed for runs in finished.values() for seed in runs)
    return {seed for seed, arms in count.items() if 2 * arms > len(finished)}


def _row(
    record: dict[str, Any],
    arm: dict[str, Any],
    runs: dict[int, dict[str, Any]],
    baseline: dict[int, dict[str, Any]],
    shared: set[int],
) -> Row:
    common = sorted(runs.keys() & baseline.keys())

    def mean(value: Callable[[dict[str, Any]], Any]) -> float | None:
        found = [value(run) for run in runs.values()]
        return statistics.fmean(found) if None not in found else None

    def relative(value: Callable[[dict[str, Any]], Any]) -> float | None:
        pairs = [(value(runs[seed]), value(baseline[seed])) for seed in common]
        if not pairs or None in {item for pair in pairs for item in pair}:
            return None
        return statistics.fmean(mine / theirs for mine, theirs in pairs)

    difference = None
    if common and arm["name"] != record["baseline"]:
        mine, theirs = ([_loss(group[seed]) for seed in common] for group in (runs, baseline))
        difference = paired(mine, theirs, MARGIN_NATS)
    flops = mean(lambda run: run["expert_flops"])
    assert flops is not None
    return Row(
        name=arm["name"],
        label=arm["label"],
        seeds=len(runs),
        experts_per_token=mean(lambda run: run["held_out"]["experts_per_token"]),
        loss=statistics.fmean(
            _loss(runs[seed]) for seed in (shared if shared and shared <= runs.keys() else runs)
        ),
        loss_of_own_seeds=not shared <= runs.keys(),
        difference=difference,
        flops=flops,
        relative_flops=relative(lambda run: run["expert_flops"]),
        relative_flops_at_end=relative(flops_at_end),
        relative_seconds=_timed(record, arm["name"], relative),
        max_violation=mean(
            lambda run: (
                statistics.fmean(run["balance_at_end"]["max_violation_running"])
                if "balance_at_end" in run
                else None
            )
        ),
        training_seconds=statistics.fmean(training_seconds(run) for run in runs.values()),
        joules=mean(lambda run: run["energy"]["joules"]),
        joules_per_token=mean(_joules_per_token),
        energy_source=_only({run["energy"]["source"] for run in runs.values()}),
        energy_quality=_only({run["energy"]["quality"] for run in runs.values()}),
    )


def _joules_per_token(run: dict[str, Any]) -> float | None:
    joules: float | None = run["energy"]["joules"]
    return None if joules is None else joules / run["tokens"]


def _only(values: set[Any]) -> Any:
    """What all runs have in common; None when they differ."""
    return values.pop() if len(values) == 1 else None


def _loss(run: dict[str, Any]) -> float:
    return float(run["held_out"]["loss"])


def flops_at_end(run: dict[str, Any]) -> float:
    """Expert FLOPs of a step, mean over the last points of the curve."""
    return statistics.fmean(run["curves"]["expert_flops_per_step"][-END_POINTS:])


def training_seconds(run: dict[str, Any]) -> float:
    """Of all steps, without evaluations."""
    return statistics.fmean(run["curves"]["step_seconds"]) * float(run["steps"])


def _timed(
    record: dict[str, Any], arm: str, relative: Callable[[Callable[[dict[str, Any]], Any]], Any]
) -> float | None:
    """From `--timing-only` where it has been run, else from the end of each run, which is
    rougher: those were not taken in turn."""
    if timing := record.get("timing"):
        found = timing["arms"].get(arm)
        return float(found["relative_expert_seconds"]) if found else None
    value: float | None = relative(lambda run: run["seconds_at_end"]["experts"])
    return value


HEADINGS = (
    "arm",
    "seeds",
    "experts per token",
    "held-out loss, nats/byte",
    "difference (95 %)",
    "",
    "expert FLOPs, run",
    "expert FLOPs, end",
    "expert time",
    "MaxVio",
    "energy",
)


def cells(row: Row) -> tuple[str, ...]:
    difference = ""
    if row.difference is not None:
        difference = f"{row.difference.mean:+.4f}"
        if row.difference.half_width is not None:
            difference += f" ± {row.difference.half_width:.4f}"
    return (
        row.label,
        str(row.seeds),
        _number(row.experts_per_token, ".2f"),
        f"{row.loss:.4f}{'*' * row.loss_of_own_seeds}",
        difference,
        row.verdict,
        _number(row.relative_flops, ".2f", "x"),
        _number(row.relative_flops_at_end, ".2f", "x"),
        _number(row.relative_seconds, ".2f", "x"),
        _number(row.max_violation, ".2f"),
        energy_label(row),
    )


def energy_label(row: Row) -> str:
    """The energy with how it is known; "not measured" also when seeds had different meters."""
    if row.joules is None or row.energy_quality is None or row.energy_source is None:
        return "not measured"
    each = "" if row.joules_per_token is None else f", {row.joules_per_token:.3g} J/token"
    return f"{row.joules:.0f} J{each} ({row.energy_quality}, {row.energy_source})"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def text_table(record: dict[str, Any]) -> str:
    """The table for a terminal."""
    table = [HEADINGS, *(cells(row) for row in rows(record))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes(record)])


def _aligned(line: Iterable[str], widths: list[int]) -> Iterable[str]:
    for place, (cell, width) in enumerate(zip(line, widths, strict=True)):
        yield cell.ljust(width) if place in (0, 5) else cell.rjust(width)


def markdown_table(record: dict[str, Any]) -> str:
    """The table for a README."""
    lines = [
        "| " + " | ".join(HEADINGS) + " |",
        "|---|" + "--:|" * 4 + "---|" + "--:|" * (len(HEADINGS) - 6),
        *("| " + " | ".join(cells(row)) + " |" for row in rows(record)),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(record))])


def _shared_words(record: dict[str, Any]) -> str:
    finished: dict[str, dict[int, Any]] = {}
    for run in record["runs"]:
        if run["done"]:
            finished.setdefault(run["arm"], {})[run["seed"]] = run
    seeds = sorted(_of_most_arms(finished))
    if not seeds:
        return "an arm's own seeds, as most arms have none in common"
    words = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    if all(set(seeds) <= runs.keys() for runs in finished.values()):
        return words
    return f"{words}, or where there is a * over the seeds that the arm has"


def _widest(timing: dict[str, Any]) -> float:
    spans = (
        (arm["relative_expert_spread"][1] - arm["relative_expert_spread"][0]) / arm["relative_expert_seconds"]
        for arm in timing["arms"].values()
    )
    return float(max(spans, default=0.0))


def notes(record: dict[str, Any]) -> list[str]:
    """What a reader must know to read the table rightly."""
    settings = record["settings"]
    tokens = settings["steps"] * settings["batch"] * settings["shape"]["sequence"]
    place = record.get("place", {})
    where = "" if place.get("device", "cpu") == "cpu" else f" on {place['device']} in {place['dtype']}"
    found = [
        f"{tokens / 1e6:.2f} million bytes of training{where}. Held-out loss is the mean over {_shared_words(record)}; "
        f"differences are to {record['baseline']}, paired over all seeds that both have, with their 95 % interval. "
        f"Relative values are against it (1.00x).",
        f"Verdicts: worse or better when the interval excludes 0; equal when two one-sided tests "
        f"bound the difference by {MARGIN_NATS} nats; no worse when the upper of these does; else undecided.",
        "Energy: no meter, so no joules are stated; they are never inferred from time.",
    ]
    if any(run["energy"]["joules"] is not None for run in record["runs"]):
        del found[2]
    if timing := record.get("timing"):
        found.append(
            f"Expert time: models of seed {timing['seed']} in turn, {timing['rounds']} rounds, {timing['threads']} "
            f"threads of {timing['environment']['machine']['processor']}; median of the ratios within a round, at a "
            f"load average of {timing['load_average']:.0f}; the middle half of an arm's ratios spans up to "
            f"{_widest(timing):.0%} of their median."
        )
    else:
        found.append(
            "Expert time: median at the end of each run, beside other work; --timing-only takes it in turn."
        )
    if record["missing"]:
        lacking = ", ".join(f"{run['arm']} seed {run['seed']}" for run in record["missing"])
        found.append(f"PARTIAL: not finished: {lacking}.")
    if record["not_run"]:
        lacking = "; ".join(f"{name} ({why})" for name, why in record["not_run"].items())
        found.append(f"Not run: {lacking}.")
    return found
