"""The step ``joules``: what a token costs in our layer and in its rivals, by the GPU's own counter.

Windows of one arm each, in turn, A B C A B C, long enough for the counter's updates; what a reading leaves open
stands beside it. Then three layers with their routers: Mixtral's top-2, ours with exactly two experts and ours with a
budget, on the same tokens. Savings are signed, and stated as joules of the first less those of the other; one GPU,
one sitting and few rounds, so their spread is that of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import genesis_moe as gm
from genesis_moe.energy import Reading
from genesis_moe.studies.gpu.benchmark import ARMS
from genesis_moe.studies.gpu.facts import smi
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.gpu.workers import KERNELS, WorkerError, Workers
from genesis_moe.studies.layer import Shape
from genesis_moe.studies.record import write_json

WINDOW_SECONDS, ROUNDS, IDLE_SECONDS = 1.5, 2, 2.0
LAYER, TOKENS = Shape(4096, 1024, 128, 8), 32768
COMPARED = ("portable", "hopper", "hopper_plain", "grouped_mm", "torch_grouped_mm", "scatter", "dense")
ROUTED, ROUTED_TOKENS, BUDGET = Shape(4096, 14336, 8, 2), 8192, 1.25
ROUTERS = ("mixtral top-2", "hamiltonian top-2", "hamiltonian budget")


def window(meter: gm.EnergyMeter, load: Callable[[], dict[str, Any]], tokens: int) -> dict[str, Any]:
    """One window: joules per token of a load, each of whose calls has so many tokens."""
    with meter.window() as metered:
        done = load()
    assert metered.reading is not None
    return {"calls": done["calls"], **per_token(metered.reading, done["calls"] * tokens)}


def per_token(reading: Reading, tokens: int) -> dict[str, Any]:
    bound = reading.uncertainty
    return {
        "reading": asdict(reading),
        "tokens": tokens,
        "joules_per_token": reading.per_token(tokens),
        "joules_per_token_uncertainty": None if bound is None or tokens == 0 else bound / tokens,
    }


def in_turn(
    meter: gm.EnergyMeter, loads: dict[str, Callable[[], dict[str, Any]]], tokens: int, end: float
) -> dict[str, Any]:
    """Windows by arm, round by round; an arm that fails is left out from then on, and named. No window is begun
    after the end, in monotonic seconds."""
    windows: dict[str, list[dict[str, Any]]] = {name: [] for name in loads}
    failed: dict[str, str] = {}
    for _ in range(ROUNDS):
        for name, load in loads.items():
            if name in failed or time.monotonic() > end:
                continue
            try:
                windows[name].append(window(meter, load, tokens))
            except WorkerError as error:
                failed[name] = str(error)
    return {"windows": windows, "failed": failed}


def summary(windows: dict[str, list[dict[str, Any]]]) -> dict[str, float | None]:
    """The median of each arm's joules per token."""
    found = {}
    for name, of_arm in windows.items():
        values = [one["joules_per_token"] for one in of_arm]
        found[name] = statistics.median(values) if values and None not in values else None
    return found


def savings(windows: dict[str, list[dict[str, Any]]], baseline: str, run: str) -> dict[str, Any] | None:
    """What run consumes less than baseline, signed, within each round; None where either was not measured."""
    pairs = [
        (a["joules_per_token"], b["joules_per_token"])
        for a, b in zip(windows.get(baseline, []), windows.get(run, []), strict=False)
    ]
    if not pairs or any(None in pair for pair in pairs):
        return None
    saved = [a - b for a, b in pairs]
    tokens = sum(one["tokens"] for one in windows[run])
    return {
        "baseline": baseline,
        "run": run,
        "saved_joules_per_token": statistics.median(saved),
        "saved_joules_per_token_of_rounds": saved,
        "efficiency_percent": 100 * statistics.median(1 - b / a for a, b in pairs),
        "tokens": tokens,
        "saved_joules": statistics.median(saved) * tokens,
    }


def measure_experts(meter: gm.EnergyMeter, workers: Workers, shape: Shape, tokens: int, end: float) -> Any:
    """Forward and backward of the experts."""
    begun = workers.together("begin", 60.0, shape=list(vars(shape).values()), tokens=tokens)
    loads, unready = {}, {}
    for name in COMPARED:
        process, implementation = ARMS[name]
        if process not in begun:
            continue
        what: dict[str, Any] = {"name": implementation, "passes": "forward+backward"}
        try:
            workers.all[process].ask("prepare", **what)  # compiles and tunes outside the window
            loads[name] = _load(workers, process, "load", **what)
        except WorkerError as error:
            unready[name] = str(error)
    found = in_turn(meter, loads, tokens, end)
    found["failed"] |= unready
    workers.together("drop", 30.0)
    windows = found["windows"]
    return {
        "shape": asdict(shape),
        "passes": "forward+backward",
        **found,
        "joules_per_token": summary(windows),
        "savings": [
            saved
            for pair in (
                ("hopper_plain", "hopper"),
                *((rival, ours) for ours in ("hopper", "portable") for rival in ("grouped_mm", "scatter")),
            )
            if (saved := savings(windows, *pair)) is not None
        ],
    }


def measure_routers(meter: gm.EnergyMeter, workers: Workers, shape: Shape, tokens: int, end: float) -> Any:
    """Forward and backward of whole layers in one process, with the fastest kernels that work there."""
    found: dict[str, Any] = {"shape": asdict(shape), "budget": BUDGET, "failed": {}}
    for process in ("hopper", "portable"):
        if process not in workers.left():
            continue
        ask = workers.all[process].ask
        try:
            found["mean_active"] = ask(
                "begin_layers", 60.0, shape=list(vars(shape).values()), tokens=tokens, budget=BUDGET
            )["mean_active"]
            found["kernels"] = process
            break
        except WorkerError as error:
            found["failed"][process] = str(error)
    else:
        return found
    loads = {name: _load(workers, process, "load_layer", name=name) for name in ROUTERS}
    turned = in_turn(meter, loads, tokens, end)
    windows = turned["windows"]
    found["failed"] |= turned["failed"]
    found |= {"windows": windows, "joules_per_token": summary(windows)}
    pairs = ((ROUTERS[0], ROUTERS[2]), (ROUTERS[1], ROUTERS[2]), (ROUTERS[0], ROUTERS[1]))
    found["savings"] = [saved for pair in pairs if (saved := savings(windows, *pair)) is not None]
    return found


def _load(workers: Workers, process: str, do: str, **arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: workers.all[process].ask(do, 30.0, seconds=WINDOW_SECONDS, **arguments)


def run(path: Path, meter: gm.EnergyMeter, environments: dict[str, dict[str, str]], seconds: float) -> int:
    end = time.monotonic() + seconds
    found: dict[str, Any] = {"meter": meter.describe()["meter"], "nvidia_smi_before": smi()}
    if meter.source == "none":
        write_json(path, {**found, "not_run": "there is no meter here, and joules are not inferred"})
        print("no meter: not run")
        return 0
    failed = False
    with Workers({**environments, "rivals": {}}, path.parent) as workers:
        found["processes"] = workers.together("hello", 60.0)
        with meter.window() as idle:
            time.sleep(IDLE_SECONDS)
        assert idle.reading is not None
        found["idle"] = {"reading": asdict(idle.reading), "watts": idle.reading.watts}
        parts: dict[str, Callable[[], Any]] = {
            "experts": lambda: measure_experts(meter, workers, LAYER, TOKENS, end - 0.35 * seconds),
            "routers": lambda: measure_routers(meter, workers, ROUTED, ROUTED_TOKENS, end),
        }
        for name, part in parts.items():
            try:
                found[name] = part()
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
                failed = True
            print(name, found[name].get("joules_per_token") or found[name], flush=True)
            write_json(path, found)
        found["lost"] = workers.failures
    found["nvidia_smi_after"] = smi()
    write_json(path, found)
    return 1 if failed else 0


def main(path: Path) -> int:
    with gm.EnergyMeter() as meter:
        return run(path, meter, KERNELS, seconds_of_step(70))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
