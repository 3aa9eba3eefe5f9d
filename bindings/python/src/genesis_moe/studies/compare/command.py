"""The command line: `genesis-moe compare`, also `python -m genesis_moe.studies.compare`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genesis_moe._extras import install_command
from genesis_moe.studies.compare.arms import ARMS, BASELINE, VARIED, Arm, variants, variations
from genesis_moe.studies.compare.model import Shape
from genesis_moe.studies.compare.study import Plan, carry_out, prepare_corpus, restore, stopped_by_ctrl_c
from genesis_moe.studies.compare.summary import Row, energy_label, markdown_table, rows, text_table
from genesis_moe.studies.compare.training import HERE, Place, Settings
from genesis_moe.studies.record import read_json, write_atomically, write_json

DEMO_ARMS = ("mixtral-top-2", "deepseek", "hamiltonian-1.25")


class Tier(NamedTuple):
    """A size of the study. learning_rate: of every arm, in place of its own, which is for the small model.
    seconds: after which a call stops in order."""

    settings: Settings
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    place: Place = HERE
    learning_rate: float | None = None
    seconds: float | None = None


# 252 million parameters, of which a token has 82 at top-2; 7.9 million bytes, about once through the text.
H200 = Settings(
    shape=Shape(hidden_size=1024, layers=6, heads=16, sequence=512, experts=8, intermediate_size=1536),
    batch=32,
    steps=480,
    evaluate_every=120,
    evaluation_windows=16,
    final_windows=160,
    checkpoint_every=480,  # 3 GB each: a call that stops writes one
)
# What the claim hangs on first, as a call may end before the others.
H200_ARMS = (
    "mixtral-top-2", "hamiltonian-1.25", "hamiltonian-top-2", "mixtral-lowered", "deepseek", "mixtral-top-p",
    "hamiltonian-1.50", "hamiltonian-1.10", "hamiltonian-1.00", "dense",
)  # fmt: skip
TIERS: dict[str, Tier | tuple[Any, ...]] = {
    "smoke": Tier(Settings(), tuple(ARMS), (0, 1, 2)),
    "demo": Tier(Settings(steps=240, evaluate_every=30, final_windows=96), DEMO_ARMS, (0,)),
    "h200": Tier(H200, H200_ARMS, (0, 1, 2), Place("cuda", "bfloat16"), learning_rate=1e-3, seconds=450.0),
}
SEARCH_SEED = 1000  # not one of the study's
SHORT = 10  # --short divides the tokens by this
MARKS = ("<!-- table: generated from compare.json -->", "<!-- end of table -->")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tier",
        choices=TIERS,
        default="smoke",
        help="smoke (default): every arm, 3 seeds, 1.2 million bytes each; demo: three arms, minutes; h200: a "
        "larger model in bfloat16 on a GPU, 10 arms, 3 seeds, 7.9 million bytes each, 450 seconds a call, resumable",
    )
    parser.add_argument("--demo", action="store_const", dest="tier", const="demo", help="as --tier demo")
    parser.add_argument("--arms", metavar="A,B", help=f"arms, by comma: {', '.join(ARMS)}")
    parser.add_argument("--seeds", metavar="0,1", help="seeds, by comma")
    parser.add_argument(
        "--search",
        action="store_true",
        help="train each arm at several learning rates (the sign rule at several rates too), with a quarter of the "
        f"tokens and seed {SEARCH_SEED}, into OUT/search",
    )
    parser.add_argument(
        "--vary",
        action="store_true",
        help=f"train {VARIED} with one option of its router changed at a time, with a quarter of the tokens and seed "
        f"{SEARCH_SEED}, into OUT/variations",
    )
    parser.add_argument("--tokens", type=int, help="bytes of training a run, rounded to whole steps")
    parser.add_argument("--short", action="store_true", help=f"1/{SHORT} of the tokens: does it all work?")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of each process (default: all cores / jobs)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each its own process")
    parser.add_argument(
        "--seconds", type=float, help="stop in order after so long, to be continued (default: the tier's)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to train (default: the tier's; h200: cuda)"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder of the study (default: runs/TIER)")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue the study in --out, skipping what is done (default); --no-resume trains anew",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument(
        "--timing-only", action="store_true", help="time trained arms of --out in turn; train nothing"
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds of --timing-only")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE",
        help="draw figures and write the table of a record into --out (default: beside it); train nothing",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Carries out the command; returns the exit status: 130 when Ctrl-C left it partial, 0 when its own time was up."""
    try:
        return _carry_out(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"genesis-moe compare: {error}", file=sys.stderr)
        return 1


def _carry_out(arguments: argparse.Namespace) -> int:
    if arguments.from_json is not None:
        return _redraw(arguments.from_json, arguments.out or arguments.from_json.parent)
    plan = plan_of(arguments)
    if arguments.timing_only:
        return _time(plan, arguments.rounds, as_json=arguments.json)
    if not arguments.resume:
        shutil.rmtree(plan.out / "runs", ignore_errors=True)
        for path in (plan.corpus_path, plan.record_path):
            path.unlink(missing_ok=True)
    restore(plan, prepare_corpus(plan))
    done = plan.done()
    if done and not arguments.json:
        print(
            f"{done} of {len(plan.pieces)} runs in {plan.out} are done already; --no-resume trains them anew."
        )
    with stopped_by_ctrl_c() as pressed:
        record = carry_out(plan, pressed, show_progress=not arguments.json)
    figures = _figures(record, plan.out / "figures")
    _write_tables(record, plan.out)
    if arguments.json:
        print(json.dumps([_row_as_json(row) for row in rows(record)], indent=1))
    else:
        print(text_table(record))
        print()
        for sentence in conclusion(record, plan.out, figures):
            print(sentence)
    return 130 if pressed() and record["partial"] else 0


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments describe; a wrong one raises ValueError that names it."""
    tier = Tier(*TIERS[arguments.tier])
    settings, names, seeds = tier.settings, tier.arms, tier.seeds
    if arguments.arms:
        names = tuple(name.strip() for name in arguments.arms.split(","))
    if arguments.seeds:
        seeds = _integers("--seeds", arguments.seeds)
    tokens = arguments.tokens if arguments.tokens is not None else settings.tokens
    if arguments.short:
        tokens //= SHORT
    if tokens < settings.tokens_per_step:
        raise ValueError(f"--tokens: {tokens}, want at least one step of {settings.tokens_per_step}")
    settings = replace(settings, steps=round(tokens / settings.tokens_per_step))
    cores = len(_affinity())
    threads = arguments.threads if arguments.threads is not None else max(1, cores // max(1, arguments.jobs))
    for name, value in (("--threads", threads), ("--jobs", arguments.jobs), ("--rounds", arguments.rounds)):
        if value < 1:
            raise ValueError(f"{name}: {value}, want at least 1")
    seconds = tier.seconds if arguments.seconds is None else arguments.seconds
    if seconds is not None and not seconds > 0:
        raise ValueError(f"--seconds: {seconds}, want more than 0")
    rate = tier.learning_rate
    arms = {name: replace(arm, learning_rate=rate or arm.learning_rate) for name, arm in ARMS.items()}
    plan = Plan(
        tier=arguments.tier,
        arms=tuple(_arm(name, arms) for name in names),
        seeds=seeds,
        settings=settings,
        out=arguments.out or Path("runs") / arguments.tier,
        threads=threads,
        jobs=arguments.jobs,
        place=_place(tier.place, arguments.device),
        seconds=seconds,
    )
    if arguments.search:
        wanted = tuple(variant for arm in plan.arms for variant in variants(arm))
        return _shortened(plan, wanted, "search", f"{BASELINE}@{arms[BASELINE].learning_rate:g}")
    if arguments.vary:
        return _shortened(plan, tuple(variations(arms)), "variations", BASELINE)
    return plan


def _place(place: Place, device: str | None) -> Place:
    place = replace(place, device=device or place.device)
    if place.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda, but torch finds no GPU here; want cpu, or a machine that has one")
    return place


def _shortened(plan: Plan, arms: tuple[Arm, ...], folder: str, baseline: str) -> Plan:
    """A quarter of the tokens and a seed that is not the study's: what was chosen by it has not seen the result."""
    settings = replace(plan.settings, steps=max(1, plan.settings.steps // 4))
    return replace(
        plan, arms=arms, seeds=(SEARCH_SEED,), settings=settings, out=plan.out / folder, baseline=baseline
    )


def conclusion(record: dict[str, Any], out: Path, figures: list[Path]) -> list[str]:
    """What was seen, and where it lies: plain sentences from the record's numbers."""
    table = {row.name: row for row in rows(record)}
    base = table.get(record["baseline"])
    best = [
        row
        for row in table.values()
        if row.name.startswith("hamiltonian") and row.relative_flops_at_end is not None
    ]
    sentences = []
    if base is not None and best:
        row = min(best, key=lambda row: abs((row.experts_per_token or 0) - 1.25))
        assert row.difference is not None
        assert row.relative_flops_at_end is not None
        better = "lower" if row.difference.mean < 0 else "higher"
        sentences.append(
            f"{row.label} ended {abs(row.difference.mean):.3f} nats per byte {better} than {base.label} "
            f"({row.difference.pairs} seed{'s' * (row.difference.pairs > 1)}, paired) with "
            f"{100 * (1 - row.relative_flops_at_end):.0f} % fewer expert FLOPs at the end; {_energy_words(row, base)}."
        )
    elif not table:
        sentences.append("No run was finished.")
    drawn = f", figures in {figures[0].parent}" if figures else ""
    again = " The same command continues it." if record["partial"] else ""
    sentences.append(f"The record is {out / 'compare.json'}, the table {out / 'table.md'}{drawn}.{again}")
    return sentences


def _time(plan: Plan, rounds: int, *, as_json: bool) -> int:
    from genesis_moe.studies.compare.timing import measure

    found = measure(plan, rounds)
    path = plan.record_path
    if path.exists():
        write_json(path, {**read_json(path), "timing": found})
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'arm':<22} {'expert FLOPs':>12} {'expert time':>12} {'quartiles':>15} {'step time':>10}")
    for name, arm in found["arms"].items():
        low, high = arm["relative_expert_spread"]
        print(
            f"{name:<22} {arm['relative_expert_flops']:>11.3f}x {arm['relative_expert_seconds']:>11.3f}x "
            f"{low:>7.3f}-{high:.3f}  {arm['relative_step_seconds']:>9.3f}x"
        )
    return 0


def _redraw(path: Path, out: Path) -> int:
    record = read_json(path)
    for figure in _figures(record, out / "figures"):
        print(figure)
    _write_tables(record, out)
    print(out / "table.md")
    return 0


def _write_tables(record: dict[str, Any], out: Path) -> None:
    """Writes table.md and, where a README beside it has the marks, the table between them."""
    table = markdown_table(record)
    write_atomically(out / "table.md", (table + "\n").encode())
    readme = out / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        before, begin, rest = text.partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if begin and end:
            write_atomically(readme, f"{before}{begin}\n{table}\n{end}{after}".encode())


def _figures(record: dict[str, Any], folder: Path) -> list[Path]:
    try:
        from genesis_moe.studies.compare.figures import draw
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        print(f"No figures; for them: {install_command('plots')}", file=sys.stderr)
        return []
    return draw(record, folder)


def _arm(name: str, arms: dict[str, Arm]) -> Arm:
    if name not in arms:
        raise ValueError(f"--arms: {name!r}, want one of {', '.join(arms)}")
    return arms[name]


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: {text!r}, want whole numbers separated by commas") from None


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _energy_words(row: Row, base: Row) -> str:
    if row.joules is None or not base.joules or row.energy_source != base.energy_source:
        return "energy was not measured"
    less = 100 * (1 - row.joules / base.joules)
    return f"{abs(less):.0f} % {'less' if less >= 0 else 'more'} energy ({row.energy_quality}, {row.energy_source})"


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        **asdict(row),
        "verdict": row.verdict,
        "energy": energy_label(row),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="genesis-moe compare",
        description="Trains the same small language model with different routers and compares "
        "held-out loss, expert FLOPs and time.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))
