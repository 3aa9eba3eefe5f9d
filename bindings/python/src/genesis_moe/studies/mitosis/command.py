"""The command line: `genesis-moe mitosis`, also `python -m genesis_moe.studies.mitosis`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genesis_moe as gm
from genesis_moe._extras import install_command
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.compare.model import Shape
from genesis_moe.studies.compare.study import stopped_by_ctrl_c
from genesis_moe.studies.compare.training import Settings, TrainingInterruptedError
from genesis_moe.studies.mitosis.measures import Stability
from genesis_moe.studies.mitosis.summary import markdown
from genesis_moe.studies.mitosis.training import GrowthArm, GrowthRun, splits_of
from genesis_moe.studies.progress import Progress
from genesis_moe.studies.record import environment, read_json, write_atomically, write_json

START, MOST = 4, 8
GROWTH = gm.MitosisOptions(interval=40, window=10, cooldown=40, ramp=20)
SMOKE = Settings(
    shape=Shape(hidden_size=64, layers=2, heads=4, sequence=64, experts=START, intermediate_size=64),
    batch=16,
    steps=400,
    evaluate_every=40,
    evaluation_windows=24,
    final_windows=24,
    checkpoint_every=100,
)
SMOKE_STABILITY = Stability(probes=2048, restarts=2, seeds=(0,))
SPECIALISATION_WINDOWS = 12  # a domain
EAGER_COSINE = 0.25  # sides may agree this far and still part
ARMS = ("mitosis", "fixed-start", "fixed-end", "random-times", "random-experts", "eager")
LABELS = {
    "mitosis": "mitosis",
    "fixed-start": f"{START} experts to the end",
    "fixed-end": "as many as mitosis ended with, from the start",
    "random-times": "as many splits, at random times",
    "random-experts": "splits of random experts, at mitosis' times",
    "eager": f"mitosis with max_cosine {EAGER_COSINE} instead of 0",
}
MARKS = ("<!-- table: generated from mitosis.json -->", "<!-- end of table -->")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", default="0,1,2", metavar="0,1", help="seeds, by comma")
    parser.add_argument(
        "--steps", type=int, default=SMOKE.steps, help=f"training steps (default {SMOKE.steps})"
    )
    parser.add_argument("--threads", type=int, default=None, help="threads (default: all cores)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/mitosis"), help="folder of the study; it is resumed"
    )
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="draw figures and table of a record anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carries out the command; returns the exit status: 130 when Ctrl-C left it partial."""
    try:
        if arguments.from_json is not None:
            _show(read_json(arguments.from_json), arguments.from_json.parent)
            return 0
        seeds = tuple(int(seed) for seed in arguments.seeds.split(","))
        if arguments.steps < 2 * GROWTH.interval:
            raise ValueError(f"--steps: {arguments.steps}, want at least {2 * GROWTH.interval}")
        record = _study(arguments.out, seeds, replace(SMOKE, steps=arguments.steps), arguments.threads)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"genesis-moe mitosis: {error}", file=sys.stderr)
        return 1
    _show(record, arguments.out)
    return 130 if record["partial"] else 0


def _study(out: Path, seeds: tuple[int, ...], settings: Settings, threads: int | None) -> dict[str, Any]:
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if not (out / "corpus.npz").exists():
        build().save(out / "corpus.npz")
    corpus = Corpus.load(out / "corpus.npz")
    pieces = [(name, seed) for seed in seeds for name in ARMS]
    results: list[dict[str, Any]] = []
    with Progress("mitosis", len(pieces)) as progress, stopped_by_ctrl_c() as stop:
        for name, seed in pieces:
            title = f"{name} seed {seed}"

            def show(step: int, loss: float, title: str = title) -> None:
                progress.advance(title, step, settings.steps, f"loss {loss:.3f}")

            arm = arm_of(name, seed, settings, out)
            try:
                piece = GrowthRun(
                    arm,
                    seed,
                    settings,
                    corpus,
                    folder_of(out, name, seed),
                    SMOKE_STABILITY,
                    SPECIALISATION_WINDOWS,
                )
                results.append(piece.train(stop, show))
            except TrainingInterruptedError:
                break
            progress.finish(title)
            write_json(out / "mitosis.json", _record(results, pieces, settings, seeds, corpus))
    record = _record(results, pieces, settings, seeds, corpus)
    write_json(out / "mitosis.json", record)
    return record


def _record(
    results: list[dict[str, Any]],
    pieces: list[tuple[str, int]],
    settings: Settings,
    seeds: tuple[int, ...],
    corpus: Corpus,
) -> dict[str, Any]:
    return {
        "study": "mitosis",
        "schema": 1,
        "tier": "smoke",
        "partial": len(results) < len(pieces),
        "missing": [list(piece) for piece in pieces[len(results) :]],
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
        "growth": asdict(GROWTH),
        "stability": asdict(SMOKE_STABILITY),
        "corpus": corpus.describe(),
        "arms": LABELS,
        "seeds": list(seeds),
        "runs": results,
    }


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{name}-seed-{seed}"


def arm_of(name: str, seed: int, settings: Settings, out: Path) -> GrowthArm:
    """The arm of a seed; the controls follow what mitosis did with that seed."""

    def arm(rule: str, **more: Any) -> GrowthArm:
        return GrowthArm(
            name, LABELS[name], "hamiltonian", 2.0, rule=rule, max_experts=MOST, mitosis=GROWTH, **more
        )

    if name == "mitosis":
        return arm("mitosis")
    if name == "fixed-start":
        return arm("none")
    if name == "eager":
        return replace(arm("mitosis"), mitosis=replace(GROWTH, max_cosine=EAGER_COSINE))
    splits = splits_of(folder_of(out, "mitosis", seed))
    if name == "fixed-end":
        return arm("none", first=tuple(START + len(times) for times in splits))
    if name == "random-experts":
        return arm("random experts", times=tuple(map(tuple, splits)))
    # After at least one whole window, so that there is a direction, each step at most once.
    generator = np.random.default_rng([seed, len(splits)])
    possible = np.arange(GROWTH.interval, settings.steps)
    times = [sorted(generator.choice(possible, size=len(found), replace=False)) for found in splits]
    return arm("random times", times=tuple(tuple(int(step) for step in one) for one in times))


def _show(record: dict[str, Any], out: Path) -> None:
    table = markdown(record)
    print(table)
    readme = out / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        before, begin, rest = text.partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if begin and end:
            write_atomically(readme, f"{before}{begin}\n{table}\n{end}{after}".encode())
    try:
        from genesis_moe.studies.mitosis.figures import draw
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        print(f"No figures; for them: {install_command('plots')}", file=sys.stderr)
        return
    for path in draw(record, out / "figures"):
        print(path)
