"""Time of the expert part and of the whole step, arms in turn in one process.

Taken from trained models: how many experts a token uses is what training made of it.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import torch

from genesis_moe.studies.compare.arms import ARMS, BASELINE, Arm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.measures import (
    captured,
    expert_part,
    forward_flops,
    in_turn,
    router_part,
    together,
)
from genesis_moe.studies.compare.study import Plan
from genesis_moe.studies.compare.training import Run, batch_of
from genesis_moe.studies.record import environment


def measure(plan: Plan, rounds: int = 40) -> dict[str, Any]:
    """Times every arm of the plan, and the baseline, as the first seed left them.

    Seconds are of one training step's text, forward and backward, all layers. Ratios are
    medians over rounds of a round's own ratio, which noise that lasts longer than a round
    leaves alone; spread is their lower and upper quartile.
    """
    seed = plan.seeds[0]
    arms = [ARMS[BASELINE], *(arm for arm in plan.arms if arm.name != BASELINE)]
    for arm in arms:
        if not (folder := plan.folder(arm, seed)).joinpath("model.pt").exists():
            raise ValueError(f"{folder}: no trained model; run the study with this arm first")
    torch.set_num_threads(plan.threads)
    corpus = Corpus.load(plan.corpus_path)
    experts, routers, steps, flops = {}, {}, {}, {}
    for arm in arms:
        run = _trained(arm, seed, plan, corpus)
        text = batch_of(corpus, plan.settings, seed, plan.settings.steps)[:, :-1].to(plan.place.device)
        with plan.place.autocast():
            hidden_states = captured(run.model, text)
            layers = list(zip(run.model.feed_forwards, hidden_states, strict=True))
            experts[arm.name] = together([expert_part(*layer) for layer in layers])
            pieces = [piece for layer in layers if (piece := router_part(*layer)) is not None]
        if pieces:
            routers[arm.name] = together(pieces)
        steps[arm.name] = run.repeat_step
        flops[arm.name] = sum(forward_flops(layer, _rows(layer), text.numel()) for layer, _ in layers)
    times = {
        "expert": in_turn(experts, rounds, plan.place.wait, plan.place.autocast),
        "router": in_turn(routers, rounds, plan.place.wait, plan.place.autocast),
    }
    times["step"] = in_turn(steps, max(5, rounds // 4), plan.place.wait)
    return {
        "environment": environment(),
        "rounds": rounds,
        "seed": seed,
        "threads": plan.threads,
        "load_average": os.getloadavg()[0],
        "arms": {name: _compared(name, times, flops) for name in experts},
    }


def _trained(arm: Arm, seed: int, plan: Plan, corpus: Corpus) -> Run:
    run = Run(arm, seed, plan.settings, corpus, plan.folder(arm, seed), place=plan.place)
    run.load_trained()
    return run


def _rows(layer: torch.nn.Module) -> int:
    routing = getattr(layer, "last_routing", None)
    return 0 if routing is None else int(routing.counts.sum())


def _compared(name: str, times: dict[str, dict[str, list[float]]], flops: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"relative_expert_flops": flops[name] / flops[BASELINE]}
    for part, of_arms in times.items():
        if name not in of_arms:
            continue
        ratios = [mine / base for mine, base in zip(of_arms[name], of_arms[BASELINE], strict=True)]
        found[f"{part}_seconds"] = statistics.median(of_arms[name])
        found[f"relative_{part}_seconds"] = statistics.median(ratios)
        low, _, high = statistics.quantiles(ratios, n=4)
        found[f"relative_{part}_spread"] = [low, high]
    return found
