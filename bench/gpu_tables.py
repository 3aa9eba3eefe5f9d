"""The results tables of a GPU, from the record that ``make gpu`` leaves in bench/gpu."""

from __future__ import annotations

from typing import Any

OURS = ("portable", "hopper")
RIVALS = ("grouped_mm", "torch_grouped_mm", "scatter", "eager")
NAMES = {
    "grouped_mm": "HF grouped_mm",
    "torch_grouped_mm": "torch grouped_mm",
    "scatter": "scatter (Triton)",
    "eager": "HF eager",
    "dense": "dense",
    "hopper_plain": "hopper, plain order",
}


def row(*cells: object) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def heading(*cells: str, words: int) -> list[str]:
    """A line of headings, of which so many have words below, the others numbers."""
    return [row(*cells), row(*["---"] * words, *["--:"] * (len(cells) - words))]


def of_shape(record: dict[str, Any]) -> str:
    shape = record["shape"]
    return ", ".join(str(shape[k]) for k in ("hidden_size", "intermediate_size", "num_experts", "top_k"))


def number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def found(data: dict[str, Any], step: str) -> dict[str, Any]:
    """What a step left; empty where it was not run."""
    return data["steps"].get(step, {}).get("found") or {}


def card(data: dict[str, Any]) -> str:
    cards = found(data, "facts").get("nvidia_smi") or [{}]
    versions = data["environment"]["versions"]
    one = cards[0]
    return (
        f"{one.get('name', 'GPU')}, driver {one.get('driver_version', 'unknown')}, power limit "
        f"{one.get('power.limit', 'unknown')}, torch {versions['torch']}"
    )


def layer_table(benchmark: dict[str, Any]) -> list[str]:
    """Rates, share of the dense rate, and how many times faster than each rival."""
    records = [r for r in benchmark["records"] if r["tokens"] > 64]
    if not records:
        return []
    ceilings = benchmark["ceilings"]
    lines = [
        "Rates in TFLOP/s, bfloat16; of dense: the share of the rate of plain products of the same work, in the same "
        "rounds; times: faster than that rival. A large dense product ran at "
        f"{ceilings['dense_teraflops_per_second']:.0f} TFLOP/s, a large copy at "
        f"{ceilings['copy_terabytes_per_second']:.2f} TB/s.",
        "",
        *heading(
            "H, I, E, k", "T", "passes", *OURS, "of dense", *(NAMES[n] for n in RIVALS), "dense",
            "times grouped_mm", "times scatter", "peak GiB: ours", "grouped_mm", "scatter",
            words=3,
        ),
    ]  # fmt: skip
    for r in records:
        rates = r["teraflops_per_second"]
        best = max((n for n in OURS if n in rates), key=lambda n: rates[n], default="")
        speedup, memory = r["speedup"].get(best, {}), r["peak_bytes"]

        def gib(name: str, memory: dict[str, int] = memory) -> str:
            return number(memory[name] / 2**30) if name in memory else ""

        of_dense = r.get("of_dense", {}).get(best)
        lines.append(
            row(
                of_shape(r), r["tokens"], r["passes"], *(number(rates.get(n), ".0f") for n in OURS),
                number(of_dense, ".0%"), *(number(rates.get(n), ".0f") for n in (*RIVALS, "dense")),
                number(speedup.get("grouped_mm")), number(speedup.get("scatter")),
                gib(best), gib("grouped_mm"), gib("scatter"),
            )
        )  # fmt: skip
    return lines


def few_table(benchmark: dict[str, Any]) -> list[str]:
    records = [r for r in benchmark["records"] if "reading" in r]
    if not records:
        return []
    arms = [n for n in (*OURS, "tiles", *RIVALS) if any(n in r["milliseconds"] for r in records)]
    lines = [
        "Few tokens: microseconds of a forward pass, from a CUDA graph where it can be captured (else *), and beside "
        "them the least that reading the weights of the experts drawn takes at the rate of a copy.",
        "",
        *heading(
            "H, I, E, k",
            "T",
            "reading",
            *(NAMES.get(n, n) for n in arms),
            "best of ours, times reading",
            words=1,
        ),
    ]
    for r in records:
        times = {n: one["median"] * 1e3 for n, one in r["milliseconds"].items()}
        marks = {n: "" if r["graph"].get(n) else "*" for n in times}
        best = min((r["over_reading"][n] for n in OURS if n in r["over_reading"]), default=None)
        cells = (f"{times[n]:.1f}{marks[n]}" if n in times else "" for n in arms)
        reading = f"{1e3 * r['reading']['milliseconds']:.1f}"
        lines.append(row(of_shape(r), r["tokens"], reading, *cells, number(best)))
    return lines


def routing_lines(benchmark: dict[str, Any]) -> list[str]:
    """Routing and plan as a share of the forward pass."""
    lines = []
    for profile in benchmark["profiles"]:
        for kernels, routing in profile.get("routing", {}).items():
            shares = ", ".join(f"{mode} {share:.1%}" for mode, share in routing["share"].items())
            lines.append(f"- {of_shape(profile)}, T={profile['tokens']}, {kernels}: {shares}")
    return ["Routing and plan, of router and experts forward:", "", *lines] if lines else []


def energy_table(joules: dict[str, Any]) -> list[str]:
    experts, routers = joules.get("experts", {}), joules.get("routers", {})
    lines: list[str] = []
    quality = joules["meter"].get("quality")
    for part, what in ((experts, "experts"), (routers, "layers with their routers")):
        if not any(value is not None for value in part.get("joules_per_token", {}).values()):
            continue
        lines += [
            f"Energy of {what}, forward and backward, H, I, E, k = {of_shape(part)} ({quality}, "
            f"{joules['meter']['source']}; whole device; idle {number(joules['idle']['watts'], '.0f')} W).",
            "",
            *heading("arm", "mJ/token", "rounds", "a reading's uncertainty, mJ/token", words=1),
        ]
        for name, value in part["joules_per_token"].items():
            if value is None:
                continue
            windows = part["windows"][name]
            rounds = ", ".join(f"{1e3 * w['joules_per_token']:.3f}" for w in windows)
            bounds = [w["joules_per_token_uncertainty"] for w in windows]
            bound = "" if None in bounds else f"{1e3 * max(bounds):.3f}"
            lines.append(row(NAMES.get(name, name), f"{1e3 * value:.3f}", rounds, bound))
        lines += [
            "",
            *(
                f"- {s['run']} against {s['baseline']}: {s['saved_joules_per_token'] * 1e3:+.3f} mJ/token saved, "
                f"{s['efficiency_percent']:+.1f} %"
                for s in part["savings"]
            ),
            "",
        ]
    if lines and routers.get("mean_active"):
        active = ", ".join(f"{name} {value:.2f}" for name, value in routers["mean_active"].items())
        lines += [f"Experts per token: {active}.", ""]
    return lines[:-1]


def tables(data: dict[str, Any], source: str) -> list[str]:
    """Everything that there is a figure of, and which steps did not pass."""
    lines = [f"**GPU** ({card(data)})."]
    benchmark, joules = found(data, "benchmark"), found(data, "joules")
    parts = []
    if benchmark.get("records"):
        parts += [layer_table(benchmark), few_table(benchmark), routing_lines(benchmark)]
    if joules.get("meter") and "not_run" not in joules:
        parts.append(energy_table(joules))
    for part in parts:
        if part:
            lines += ["", *part]
    steps = ", ".join(f"{name} {outcome['status']}" for name, outcome in data["steps"].items())
    return [*lines, "", f"Steps: {steps}. Raw: `bench/{source}`."]
