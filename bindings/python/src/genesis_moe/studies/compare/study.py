"""The plan of arms and seeds, carried out here or in side-by-side processes.

Runs are independent folders, so a study can be stopped at any time, even by kill -9, and
continued: what is done is skipped and what had begun goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty
from typing import Any

import torch

import genesis_moe as gm
from genesis_moe.studies.compare.arms import ARMS, BASELINE, Arm
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.compare.training import HERE, Place, Run, Settings, TrainingInterruptedError
from genesis_moe.studies.gpu.facts import smi
from genesis_moe.studies.progress import Progress
from genesis_moe.studies.record import environment, read_json, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """What to run, and where."""

    tier: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    settings: Settings
    out: Path
    threads: int = 1  # of each process
    jobs: int = 1  # processes side by side
    baseline: str = BASELINE
    place: Place = HERE
    seconds: float | None = None  # after which it stops in order; the next call goes on

    @property
    def pieces(self) -> list[tuple[Arm, int]]:
        """Seeds outside, arms inside: a study that is cut short has compared all arms."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def folder(self, arm: Arm, seed: int) -> Path:
        return self.out / "runs" / f"{arm.name}-seed-{seed}"

    def done(self) -> int:
        """How many of the runs have their result."""
        return sum((self.folder(*piece) / "result.json").exists() for piece in self.pieces)

    @property
    def record_path(self) -> Path:
        return self.out / "compare.json"

    @property
    def corpus_path(self) -> Path:
        return self.out / "corpus.npz"


def carry_out(
    plan: Plan, stop: Callable[[], bool] = lambda: False, *, show_progress: bool = True
) -> dict[str, Any]:
    """Runs what is not done yet and writes compare.json, also when it is stopped or at the end of the plan's time.

    stop: asked before every step; True ends the work in order. Returns the record; record["partial"] says whether
    runs are missing.
    """
    corpus = prepare_corpus(plan)
    restore(plan, corpus)
    end = math.inf if plan.seconds is None else time.monotonic() + plan.seconds
    with Progress(f"compare {plan.tier}", len(plan.pieces), enabled=show_progress) as progress:
        execute = _here if plan.jobs == 1 else _side_by_side
        execute(plan, lambda: stop() or time.monotonic() > end, progress)
    record = collect(plan, corpus)
    write_json(plan.record_path, record)
    return record


def prepare_corpus(plan: Plan) -> Corpus:
    """The corpus of this study: built once, then the same bytes for every continuation."""
    if not plan.corpus_path.exists():
        build().save(plan.corpus_path)
    return Corpus.load(plan.corpus_path)


def restore(plan: Plan, corpus: Corpus) -> None:
    """Puts the results that the record in the study's folder has, and that folder's runs/ has not, back:
    a committed record is continued without training its runs again.

    Raises ValueError where the record is of another text or other settings, which would be lost.
    """
    record = _earlier(plan)
    if record is None:
        return
    for name, wanted, found in (
        ("corpus", corpus.sha256, record["corpus"]["sha256"]),
        ("settings", json.loads(json.dumps(asdict(plan.settings))), record["settings"]),
        ("place", asdict(plan.place), record.get("place", asdict(HERE))),
    ):
        if found != wanted:
            raise ValueError(
                f"{plan.record_path}: a record with another {name} than this one; choose another --out, "
                "or start anew with --no-resume"
            )
    arms = {arm.name: arm for arm in plan.arms}
    for run in record["runs"]:
        if run["done"] and (arm := arms.get(run["arm"])):
            path = plan.folder(arm, run["seed"]) / "result.json"
            if not path.exists():
                # A run of before runs had an environment was made in that of the record.
                write_json(path, {"environment": record["environment"], **run})


def _earlier(plan: Plan) -> dict[str, Any] | None:
    found: dict[str, Any] | None = read_json(plan.record_path) if plan.record_path.exists() else None
    return found


def collect(plan: Plan, corpus: Corpus) -> dict[str, Any]:
    """The record of a study from the results in its folder, and the runs of the record that is there already
    with other arms or seeds than the plan's."""
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    missing = set()
    earlier = _earlier(plan) or {"runs": [], "missing": [], "arms": [], "seeds": []}
    planned = {(arm.name, seed) for arm, seed in plan.pieces}
    for run in earlier["runs"]:
        if (run["arm"], run["seed"]) not in planned:
            runs[run["arm"], run["seed"]] = {"environment": earlier["environment"], **run}
    for piece in earlier["missing"]:
        if (piece["arm"], piece["seed"]) not in planned:
            missing.add((piece["arm"], piece["seed"]))
    for arm, seed in plan.pieces:
        folder = plan.folder(arm, seed)
        found = [folder / name for name in ("result.json", "partial.json")]
        stored = next((path for path in found if path.exists()), None)
        if stored is not None:
            runs[arm.name, seed] = read_json(stored)
        if stored is None or not runs[arm.name, seed]["done"]:
            missing.add((arm.name, seed))
    arms = {arm["name"]: arm for arm in (*earlier["arms"], *(asdict(arm) for arm in plan.arms))}
    order = {name: place for place, name in enumerate(arms)}
    seeds = sorted({*plan.seeds, *earlier["seeds"]})

    def in_order(piece: tuple[str, int]) -> tuple[int, int]:
        return piece[1], order[piece[0]]

    return {
        "study": "compare",
        "schema": SCHEMA,
        "tier": plan.tier,
        "partial": bool(missing),  # of what was asked for, in this call or an earlier one
        "environment": environment(),
        "place": asdict(plan.place),
        "nvidia_smi": smi() if plan.place.device == "cuda" else [],
        "threads": plan.threads,
        "jobs": plan.jobs,
        "settings": asdict(plan.settings),
        "corpus": corpus.describe(),
        "baseline": plan.baseline,
        "arms": list(arms.values()),
        "seeds": seeds,
        "missing": [{"arm": arm, "seed": seed} for arm, seed in sorted(missing, key=in_order)],
        "not_run": {name: "not asked for" for name in ARMS if name not in arms},
        "timing": earlier.get("timing"),
        "runs": [runs[piece] for piece in sorted(runs, key=in_order)],
    }


@contextmanager
def stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """A question whether Ctrl-C was pressed. The first one ends the work in order; a second
    one raises KeyboardInterrupt at once."""
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _here(plan: Plan, stop: Callable[[], bool], progress: Progress) -> None:
    torch.set_num_threads(plan.threads)  # of the library too: it follows torch
    for arm, seed in plan.pieces:
        name = f"{arm.name} seed {seed}"

        def show(step: int, loss: float, name: str = name) -> None:
            progress.advance(name, step, plan.settings.steps, f"loss {loss:.3f}")

        try:
            _run(plan, arm, seed, stop, show)
        except TrainingInterruptedError:
            return
        progress.finish(name)


def _run(
    plan: Plan,
    arm: Arm,
    seed: int,
    stop: Callable[[], bool],
    show: Callable[[int, float], None],
) -> None:
    corpus = _stored_corpus(plan.corpus_path)
    # A meter sees the whole machine: of runs side by side nobody can say whose energy it was.
    meter = _meter() if plan.jobs == 1 else None
    Run(arm, seed, plan.settings, corpus, plan.folder(arm, seed), meter, plan.place).train(stop, show)


@lru_cache(maxsize=1)
def _meter() -> gm.EnergyMeter:
    return gm.EnergyMeter()


@lru_cache(maxsize=1)
def _stored_corpus(path: Path) -> Corpus:
    return Corpus.load(path)


# ------------------------------------------------------------ side by side


def _side_by_side(plan: Plan, stop: Callable[[], bool], progress: Progress) -> None:
    # spawn, not fork: the Go runtime of the library does not survive a fork.
    context = multiprocessing.get_context("spawn")
    stopped, messages = context.Event(), context.Queue()
    with ProcessPoolExecutor(
        plan.jobs, context, _begin_worker, (plan, os.getpid(), stopped, messages)
    ) as pool:
        # The workers begin with Ctrl-C blocked, which they inherit: the parent says when to stop,
        # also while they are still importing.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            waiting: set[Future[None]] = {pool.submit(_work, arm, seed) for arm, seed in plan.pieces}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _show(messages, progress)
                if stop() and not stopped.is_set():
                    stopped.set()
                    waiting = {future for future in waiting if not future.cancel()}
                for future in done:
                    if not isinstance(error := future.exception(), TrainingInterruptedError | None):
                        raise error
        except BaseException:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _show(messages: Any, progress: Progress) -> None:
    try:
        while True:
            name, step, steps, note = messages.get_nowait()
            if steps:
                progress.advance(name, step, steps, note)
            else:
                progress.finish(name)
    except Empty:
        pass


_worker: dict[str, Any] = {}  # of a worker process, set when it begins


def _begin_worker(plan: Plan, parent: int, stopped: Any, messages: Any) -> None:
    torch.set_num_threads(plan.threads)
    _worker.update(plan=plan, parent=parent, stopped=stopped, messages=messages)


def _work(arm: Arm, seed: int) -> None:
    plan, messages = _worker["plan"], _worker["messages"]
    name = f"{arm.name} seed {seed}"

    def show(step: int, loss: float) -> None:
        messages.put((name, step, plan.settings.steps, f"loss {loss:.3f}"))

    def stop() -> bool:
        if os.getppid() != _worker["parent"]:
            os._exit(1)  # the parent was killed: nobody waits for this result
        return bool(_worker["stopped"].is_set())

    _run(plan, arm, seed, stop, show)
    messages.put((name, 0, 0, ""))
