"""Study ``overhead``: what calling the library costs when there is nothing to compute."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .record import environment, write_json


def seconds_per_call(function: Callable[[], Any], calls: int, repeats: int = 7) -> dict[str, float]:
    """The median and the least of several repeats, in seconds a call."""
    function()
    results = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        results.append((time.perf_counter() - start) / calls)
    return {"median": statistics.median(results), "min": min(results)}


def c_call(library: Path, source: Path) -> dict[str, float] | None:
    """Nanoseconds of calls from C; None where the source or a compiler is missing."""
    include = source.parent.parent.parent / "include"
    if not source.exists() or not include.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "empty_call"
        command = ["cc", "-O2", "-std=c99", f"-I{include}", str(source), str(library), "-o", str(program)]
        subprocess.run(command, check=True)
        environment_ = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
        output = subprocess.run(
            [program], check=True, capture_output=True, text=True, env=environment_
        ).stdout
    nanoseconds: dict[str, float] = json.loads(output)
    return nanoseconds


def import_seconds(statement: str, repeats: int = 9) -> dict[str, float]:
    """Seconds that an import takes in a fresh interpreter, the interpreter's own start not counted."""
    code = f"import time; s = time.perf_counter(); {statement}; print(time.perf_counter() - s)"
    results = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        results.append(float(done.stdout))
    return {"median": statistics.median(results), "min": min(results)}


def metering(pairs: int = 60, steps: int = 2, calls: int = 400, rest: float = 5.0) -> dict[str, Any]:
    """What recording every step of training adds, in processor time of all threads.

    A layer of H 512, I 1024, E 8 and 1,024 tokens trains with and without an EnergyRecorder whose
    meter polls an invented counter. Told in two ways. ``parts``: what a call of recorder.step costs, by
    many calls without training between them, and what the meter's polling costs in a second, by
    waiting; both small numbers that noise elsewhere does not reach. ``paired``: blocks of a few steps
    with and without it, in turn, whose order changes from pair to pair: the median ratio, with the
    2.5 and 97.5 percentiles of 4,000 bootstrap samples of the pairs.
    """
    import numpy as np
    import torch

    import genesis_moe as gm

    layer = gm.MoE(512, 1024, 8, top_k=2)
    x = torch.randn(1024, 512)

    def step() -> None:
        layer(x).square().mean().backward()
        gm.step(layer)

    def block(recorder: gm.EnergyRecorder | None) -> float:
        begin = time.process_time()
        for _ in range(steps):
            step()
            if recorder is not None:
                recorder.step(1024, loss=1.0)
        if recorder is not None:
            recorder.flush()
        return (time.process_time() - begin) / steps

    with tempfile.TemporaryDirectory() as folder:

        def recorded(name: str) -> float:
            with (
                gm.EnergyMeter("mock") as meter,
                gm.EnergyRecorder(f"{folder}/{name}.jsonl", meter=meter, model=layer) as recorder,
            ):
                return block(recorder)

        step()
        bare, with_it = [], []
        for n in range(pairs):
            if n % 2:
                with_it.append(recorded(str(n)))
                bare.append(block(None))
            else:
                bare.append(block(None))
                with_it.append(recorded(str(n)))

        with (
            gm.EnergyMeter("mock") as meter,
            gm.EnergyRecorder(f"{folder}/calls.jsonl", meter=meter, model=layer) as recorder,
        ):
            begin = time.process_time()
            time.sleep(rest)
            polling = (time.process_time() - begin) / rest
            costs = []
            for _ in range(7):
                begin = time.process_time()
                for _ in range(calls):
                    recorder.step(1024, loss=1.0)
                recorder.flush()
                costs.append((time.process_time() - begin) / calls)
    bare_seconds = statistics.median(bare)
    call = statistics.median(costs)
    added = np.array(with_it) / np.array(bare) - 1
    samples = np.random.default_rng(0).choice(added, (4000, len(added)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return {
        "step_processor_seconds": bare_seconds,
        "parts": {
            "call_processor_seconds": call,
            "polling_processor_seconds_per_second": polling,
            # One thread or many: polling goes on for at most as long as the step's processor time.
            "added": call / bare_seconds + polling,
        },
        "paired": {
            "added": float(np.median(added)),
            "interval": [float(low), float(high)],
            "pairs": pairs,
            "steps_in_block": steps,
        },
    }


def console(
    layers: int = 60, experts: int = 128, seconds: float = 30.0, hertz: float = 4.0
) -> dict[str, Any]:
    """What a console costs its host in processor time, as shares of one core.

    A host logs a step of all experts, with tokens, FLOPs, bytes, joules and the terms of H, some times a second.
    ``lines``: by JSON, which is read, kept and counted. ``watched``: the same while a client in a process
    of its own reads the frames. The JSON is made beforehand; nothing else runs in the process.
    """
    import random

    import genesis_moe as gm

    draw = random.Random(0)

    def layer(number: int) -> dict[str, Any]:
        tokens = [draw.randrange(200) * draw.randrange(2) for _ in range(experts)]
        terms = {
            name: draw.random() for name in ("bind", "entropy", "cost", "h", "max_violation", "mean_active")
        }
        return {
            "layer": number,
            **terms,
            "tokens": tokens,
            "flops": [12582912 * n for n in tokens],
            "bytes": [4096 * n for n in tokens],
            "joules": [draw.random() * n for n in tokens],
            "joules_quality": "modelled",
        }

    def step(number: int) -> str:
        line = {"kind": "step", "step": number, "t": number / hertz, "duration_seconds": 1 / hertz}
        more = {"tokens": 4096, "total_tokens": 4096 * number, "loss": {"train": 2 + draw.random()}}
        return json.dumps({**line, **more, "layers": [layer(i) for i in range(layers)]})

    lines = [step(number) for number in range(1, int(seconds * hertz) + 1)]
    shape = [{"layer": i, "experts": experts, "top_k": 2} for i in range(layers)]
    header = {"kind": "run", "schema": 1, "id": "wide", "name": "wide", "layers": shape}
    watcher = "import sys, urllib.request as u\nfor _ in u.urlopen(sys.argv[1] + 'api/stream'): pass"

    def feed(monitor: gm.Monitor) -> float:
        monitor.log(header)
        begin, started = time.process_time(), time.monotonic()
        for number, text in enumerate(lines, 1):
            monitor.log(text)
            time.sleep(max(0.0, started + number / hertz - time.monotonic()))
        return (time.process_time() - begin) / (time.monotonic() - started)

    with gm.monitor("127.0.0.1:0") as monitor:
        alone = feed(monitor)
        client = subprocess.Popen([sys.executable, "-c", watcher, monitor.url], stderr=subprocess.DEVNULL)
        try:
            time.sleep(2)
            watched = feed(monitor)
        finally:
            client.kill()
            client.wait()
    return {
        "layers": layers,
        "experts": experts,
        "steps_per_second": hertz,
        "line_bytes": len(lines[0]),
        "lines_core_share": alone,
        "watched_core_share": watched,
    }


def threads(rounds: int = 3, calls: int = 30) -> dict[str, Any]:
    """How much longer a forward call takes right after a parallel operator of torch, whose threads spin for some
    milliseconds: on those threads, and on threads of our own. A process for each, in turn."""
    found: dict[str, list[list[tuple[float, float]]]] = {"openmp": [], "own": []}
    for _ in range(rounds):
        for whose, results in found.items():
            done = subprocess.run(
                [sys.executable, "-c", _AFTER_AN_OPERATOR, json.dumps(_CASES), str(calls)],
                check=True, capture_output=True, text=True, env={**os.environ, "GENESIS_MOE_THREADS": whose},
            )  # fmt: skip
            results.append(json.loads(done.stdout)["seconds"])
    cases = []
    for number, case in enumerate(_CASES):
        row: dict[str, Any] = dict(
            zip(("hidden_size", "intermediate_size", "experts", "top_k", "tokens"), case, strict=True)
        )
        for whose, results in found.items():
            pairs = [result[number] for result in results]
            row[whose] = {
                "alone_seconds": statistics.median(alone for alone, _ in pairs),
                "after_seconds": statistics.median(after for _, after in pairs),
                "ratio": statistics.median(after / alone for alone, after in pairs),
            }
        cases.append(row)
    return {"rounds": rounds, "calls": calls, "cases": cases}


# H, I, E, k, T
_CASES = [
    (1024, 2048, 8, 2, 1),
    (1024, 2048, 8, 2, 64),
    (1024, 512, 64, 8, 1),
    (1024, 512, 64, 8, 64),
    (576, 12, 90, 36, 64),
]

_AFTER_AN_OPERATOR = """
import json, statistics, sys, time
import torch
from genesis_moe import functional

torch.manual_seed(0)
plain, seconds = torch.randn(1 << 20), []
for H, I, E, k, T in json.loads(sys.argv[1]):
    x, gate_up, down = torch.randn(T, H), torch.randn(E, 2 * I, H) * 0.02, torch.randn(E, H, I) * 0.02
    index = torch.stack([torch.randperm(E)[:k] for _ in range(T)])
    weights = torch.full((T, k), 1 / k)

    def call():
        begin = time.perf_counter()
        functional.experts(x, index, weights, gate_up, down)
        return time.perf_counter() - begin

    def after():
        torch.add(plain, 1.0)
        return call()

    with torch.no_grad():
        call()
        seconds.append([statistics.median(run() for _ in range(int(sys.argv[2]))) for run in (call, after)])
print(json.dumps({"seconds": seconds}))
"""


PARTS = ("calls", "metering", "console", "threads")


def run(args: argparse.Namespace) -> int:
    """Measures ``args.parts``, or all; writes a JSON file for each into ``args.out``."""
    out = Path(args.out)
    for part in args.parts or PARTS:
        if part == "calls":
            name, result = "cpu", calls(out)
        else:
            parts: dict[str, Callable[[], Any]] = {
                "metering": metering,
                "console": console,
                "threads": threads,
            }
            measured = parts[part]()
            # The load is of the machine: what else ran.
            load = os.getloadavg()[0]
            name = part
            result = {
                "study": f"overhead of {part}",
                "environment": environment(),
                "load_average": load,
                part: measured,
            }
        write_json(out / f"{name}.json", result)
        print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=2))
    return 0


def calls(out: Path) -> dict[str, Any]:
    """What a call, an import and an operator of torch take."""
    import torch

    import genesis_moe as gm
    from genesis_moe import functional

    library = Path(gm.doctor()["library"])
    hidden_states = torch.randn(1, 8)
    index, weights = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    gate_up, down = torch.randn(1, 16, 8), torch.randn(1, 8, 8)
    gate_up_grad = gate_up.clone().requires_grad_()

    def operator() -> None:
        functional.experts(hidden_states, index, weights, gate_up, down)

    def operator_with_gradient() -> None:
        functional.experts(hidden_states, index, weights, gate_up_grad, down).sum().backward()

    return {
        "study": "overhead",
        "environment": environment(),
        "c_call_ns": c_call(library, out / "empty_call.c"),
        "ctypes_call_seconds": seconds_per_call(gm.engine_counters, 2000),
        "torch_operator_seconds": seconds_per_call(operator, 500),
        "torch_operator_forward_backward_seconds": seconds_per_call(operator_with_gradient, 500),
        "import_seconds": import_seconds("import genesis_moe"),
        "library_bytes": library.stat().st_size,
        "not_run": ["Rust: a call costs what it costs from C; it was not timed"],
    }
