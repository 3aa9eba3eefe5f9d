"""Writes the results tables of README.md from the JSON that the studies left in bench/."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import gpu_tables
from gpu_tables import row

BENCH = Path(__file__).resolve().parent
README = BENCH.parent / "README.md"


def load(name: str) -> Any:
    path = BENCH / name
    return json.loads(path.read_text()) if path.exists() else None


def layer_table(data: dict[str, Any], source: str) -> list[str]:
    lines = [
        f"**Layer, CPU** ({data['environment']['machine']['processor']}, {data['threads']} threads, torch "
        f"{data['environment']['versions']['torch']}). Times faster than "
        "Hugging Face's `grouped_mm`, its default; above 1 is a win.",
        "",
        row(
            "H, I, E, k",
            "T",
            "f32 forward",
            "f32 forward+backward",
            "of dense GEMM rate",
            "bf16 forward",
            "bf16 f+b",
        ),
        row(*["---"] * 7),
    ]
    cells: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for r in data["records"]:
        shape = r["shape"]
        name = ", ".join(str(shape[k]) for k in ("hidden_size", "intermediate_size", "num_experts", "top_k"))
        cells.setdefault((name, r["tokens"]), {})[f"{r['dtype']} {r['passes']}"] = r

    def ratio(records: dict[str, dict[str, Any]], key: str) -> str:
        return f"{records[key]['speedup']['grouped_mm']:.2f}" if key in records else ""

    for (name, tokens), records in cells.items():
        dense = records["float32 forward+backward"].get("fraction_of_dense_rate")
        lines.append(
            row(
                name,
                tokens,
                ratio(records, "float32 forward"),
                ratio(records, "float32 forward+backward"),
                f"{dense:.0%}" if dense else "",
                ratio(records, "bfloat16 forward"),
                ratio(records, "bfloat16 forward+backward"),
            )
        )
    memory = ", ".join(f"{m['ratio']:.2f}" for m in data["memory"])
    shares = ", ".join(f"{mode} {s['forward+backward']:.1%}" for mode, s in data["router"]["share"].items())
    lines += [
        "",
        f"Memory that forward+backward adds, relative to what must be there (x, z, gradients): {memory}, with the "
        "scratch that the engine keeps. "
        f"Router's share of the layer at T=2048, E=64, forward+backward: {shares}. {_spread(data)} "
        f"Raw: `bench/{source}`.",
    ]
    return lines


def _spread(data: dict[str, Any]) -> str:
    """How far rounds of the same thing lie apart: what a ratio of medians is worth."""
    rounds = [arm["all"] for record in data["records"] for arm in record["seconds"].values()]
    wide = sum(max(times) > 1.5 * min(times) for times in rounds)
    return (
        f"Virtual machines are noisy: in {wide} of {len(rounds)} cases the slowest round took over 1.5 times "
        "the fastest one, so single ratios mean little and a rate above 100% means that the dense one was disturbed."
    )


def overhead_table(
    data: dict[str, Any],
    metering: dict[str, Any] | None,
    console: dict[str, Any] | None,
    threads: dict[str, Any] | None,
) -> list[str]:
    """The rows of each part that has been measured. metering, console, threads: their records, or None."""
    micro = 1e6
    parts = {"cpu": data, "metering": metering, "console": console, "threads": threads}
    raw = [name for name, record in parts.items() if record]
    c = data["c_call_ns"]
    return [
        "**Overhead** (medians).",
        "",
        row("what", "cost"),
        row("---", "---"),
        *([row("C call into Go", f"{c['into_go_ns']:.0f} ns")] if c else []),
        row("ctypes call", f"{data['ctypes_call_seconds']['median'] * micro:.1f} us"),
        row(
            "torch operator, smallest layer",
            f"{data['torch_operator_seconds']['median'] * micro:.1f} us",
        ),
        row("`import genesis_moe`", f"{data['import_seconds']['median'] * 1e3:.0f} ms"),
        row("library", f"{data['library_bytes'] / 2**20:.1f} MiB"),
        *(metering_rows(metering["metering"]) if metering else []),
        *(console_rows(console["console"]) if console else []),
        *(threads_rows(threads["threads"]) if threads else []),
        "",
        f"Raw: {', '.join(f'`bench/overhead/{name}.json`' for name in raw)}.",
    ]


def metering_rows(found: dict[str, Any]) -> list[str]:
    """Processor time added to a training step: the sum of its parts, and blocks with and without in turn."""
    low, high = found["paired"]["interval"]
    step = f"a step of {found['step_processor_seconds'] * 1e3:.0f} ms"
    return [
        row(f"metering and recording {step}, its parts added up", f"{found['parts']['added']:.2%}"),
        row(
            f"the same, {found['paired']['pairs']} pairs of blocks with and without (95 %)",
            f"{low:+.1%} to {high:+.1%}",
        ),
    ]


def console_rows(found: dict[str, Any]) -> list[str]:
    size = f"{found['layers']} layers of {found['experts']} experts, {found['steps_per_second']:.0f} steps a second"
    return [
        row(f"console of {size}, nobody watching", f"{found['lines_core_share']:.2%} of a core"),
        row("the same while a page is open", f"{found['watched_core_share']:.2%} of a core"),
    ]


def threads_rows(found: dict[str, Any]) -> list[str]:
    """A call right after an operator of torch, whose threads spin meanwhile, by whose threads it runs on."""

    def each(whose: str) -> str:
        ratios = [case[whose]["ratio"] for case in found["cases"]]
        return f"{min(ratios):.2f} to {max(ratios):.2f} times a call alone"

    tokens = sorted({case["tokens"] for case in found["cases"]})
    what = f"forward of {tokens[0]} to {tokens[-1]} tokens right after an operator of torch"
    return [
        row(f"{what}, on torch's threads", each("openmp")),
        row("the same on threads of our own (`GENESIS_MOE_THREADS=own`)", each("own")),
    ]


def balance_table(studies: list[dict[str, Any]]) -> list[str]:
    """Prices against the sign rule at its best rate, the one with the lowest MaxVio at the end."""

    def cells(runs: list[dict[str, Any]]) -> list[str]:
        ends = [run["max_violation_mean_of_last_50_steps"] for run in runs]
        steps = [run["steps_to_1.5_times_the_floor"] for run in runs]
        return [f"{statistics.fmean(ends):.3f}", "never" if -1 in steps else f"{statistics.fmean(steps):.0f}"]

    lines = [
        "**Balance** of a skewed stream, without an auxiliary loss (MaxVio: load of the fullest expert over the mean, "
        "less 1). Floor: what sampling alone leaves. Steps: until within 1.5 of it.",
        "",
        row("E, k", "floor", "start", "prices: end", "steps", "sign rule: end", "steps", "its best rate"),
        row("---", *["--:"] * 7),
    ]
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for study in studies:
        groups.setdefault((study["experts"], study["top_k"]), []).append(study)
    for (experts, top_k), group in groups.items():
        by_rule: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for study in group:
            for run in study["runs"]:
                by_rule.setdefault((run["rule"], run["rate"]), []).append(run)
        start = statistics.fmean(run["max_violation_at_start"] for study in group for run in study["runs"])
        price = next(runs for (rule, _), runs in by_rule.items() if rule == "price")
        sign = min(
            ((rate, runs) for (rule, rate), runs in by_rule.items() if rule == "sign"),
            key=lambda pair: sum(run["max_violation_mean_of_last_50_steps"] for run in pair[1]),
        )
        floor = f"{group[0]['sampling_floor']:.3f}"
        name = f"{experts}, {top_k}"
        lines.append(row(name, floor, f"{start:.2f}", *cells(price), *cells(sign[1]), f"{sign[0]:g}"))
    seeds = len({study["seed"] for study in studies})
    command = "go test ./router -run TestBalance -record testdata/balance.json"
    return [
        *lines,
        "",
        f"{seeds} streams each. Raw: `router/testdata/balance.json` (`{command}`).",
    ]


def compare_table() -> list[str]:
    text = (BENCH / "compare" / "README.md").read_text()
    table = (
        text.split("<!-- table: generated from compare.json -->")[1].split("<!-- end of table -->")[0].strip()
    )
    if not table:
        return []
    return [
        "**Comparison** of routers trained on real text: [bench/compare](bench/compare/README.md).",
        "",
        table,
    ]


def gpu_blocks(folder: Path) -> list[list[str]]:
    """What a GPU's records in a folder say: of the layer, and of the comparison of routers there."""
    blocks = []
    record, table = folder / "gpu.json", folder / "compare" / "table.md"
    if record.exists():
        blocks.append(gpu_tables.tables(json.loads(record.read_text()), "gpu/gpu.json"))
        blocks += [
            [f"![{path.stem}](bench/gpu/figures/{path.name})"]
            for path in sorted((folder / "figures").glob("*.png"))
        ]
    if table.exists():
        blocks.append(["**Comparison** of routers on a GPU.", "", table.read_text().strip()])
    return blocks


def results() -> str:
    blocks = gpu_blocks(BENCH / "gpu")
    for path in sorted(p for p in (BENCH / "layer").glob("cpu-*.json") if not p.stem.endswith("-quick")):
        source = str(path.relative_to(BENCH))
        blocks.append(layer_table(load(source) or {}, source))
    if data := load("overhead/cpu.json"):
        others = (load(f"overhead/{part}.json") for part in ("metering", "console", "threads"))
        blocks.append(overhead_table(data, *others))
    if balance := load("../router/testdata/balance.json"):
        blocks.append(balance_table(balance))
    if block := compare_table():
        blocks.append(block)
    return "\n\n".join("\n".join(block) for block in blocks)


def updated(text: str) -> str:
    return re.sub(
        r"(<!-- results:.*?-->\n).*?(<!-- /results -->)",
        lambda m: m[1] + results() + "\n" + m[2],
        text,
        flags=re.S,
    )


def main() -> int:
    text = README.read_text()
    if "--check" in sys.argv:
        if updated(text) != text:
            print(
                "README.md's results are not those of bench/: run `make tables`",
                file=sys.stderr,
            )
            return 1
        return 0
    if record := load("gpu/gpu.json"):  # first: the README shows what is there
        import gpu_figures

        gpu_figures.draw(record, BENCH / "gpu" / "figures")
    README.write_text(updated(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
