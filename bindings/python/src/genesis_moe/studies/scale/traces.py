"""Routing traces: which experts the arms of the study `compare` choose together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genesis_moe as gm
from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.compare.measures import windows
from genesis_moe.studies.compare.model import LanguageModel, Shape
from genesis_moe.studies.compare.study import stopped_by_ctrl_c
from genesis_moe.studies.compare.training import Run, Settings
from genesis_moe.studies.progress import Progress
from genesis_moe.studies.record import environment

NAMES = ("mixtral-top-2", "hamiltonian-top-2", "hamiltonian-1.25")
# The comparison's own model with more and smaller experts, so that there are some for many GPUs.
SETTINGS = Settings(
    shape=Shape(hidden_size=64, layers=2, heads=4, sequence=64, experts=64, intermediate_size=32),
    batch=16,
    steps=300,
    evaluate_every=300,
    evaluation_windows=8,
    final_windows=24,
    checkpoint_every=50,
)
WINDOWS = 64  # of held-out text a domain, for each of the two halves


def record(out: Path, settings: Settings = SETTINGS, seed: int = 0, threads: int = 2) -> dict[str, Any]:
    """Trains the arms in `out`, resuming what is there, and counts what they choose on held-out text.

    Each trace holds, by layer, for two disjoint halves of the text: ``pairs`` [E, E], where entry (a, b) above
    the diagonal is the number of tokens that chose a and b, and entry (a, a) those that chose a alone.
    With at most two experts a token this says everything that the cost of a dispatch depends on.
    """
    torch.set_num_threads(threads)
    if not (out / "corpus.npz").exists():
        build().save(out / "corpus.npz")
    corpus = Corpus.load(out / "corpus.npz")
    traces = []
    with Progress("scale: traces", len(NAMES)) as progress, stopped_by_ctrl_c() as stop:
        for name in NAMES:

            def show(step: int, loss: float, name: str = name) -> None:
                progress.advance(name, step, settings.steps, f"loss {loss:.3f}")

            run = Run(ARMS[name], seed, settings, corpus, out / "runs" / name)
            result = run.train(stop, show)
            run.load_trained()
            traces.append(
                {
                    "arm": name,
                    "held_out_loss": result["held_out"]["loss"],
                    "halves": as_text(pairs_by_half(run.model, corpus, settings.batch)),
                }
            )
            progress.finish(name)
    return {
        "study": "scale",
        "part": "traces",
        "environment": environment(),
        "settings": asdict(settings),
        "seed": seed,
        "corpus": corpus.describe(),
        "windows_per_domain_and_half": WINDOWS,
        "traces": traces,
    }


@torch.no_grad()
def pairs_by_half(model: LanguageModel, corpus: Corpus, batch: int) -> np.ndarray:
    """[half, layer, E, E] of the pairs: every other window of the held-out text belongs to the other half."""
    model.eval()
    layers = [layer for layer in model.feed_forwards if isinstance(layer, gm.MoE)]
    experts = layers[0].num_experts
    found = np.zeros((2, len(layers), experts, experts), dtype=np.int64)
    for domain in corpus.domains:
        text = windows(corpus.held_out[domain], model.shape.sequence, 2 * WINDOWS)
        for half in range(2):
            mine = text[half::2]
            for start in range(0, len(mine), batch):
                model(torch.from_numpy(mine[start : start + batch, :-1].astype(np.int64)))
                for layer, counted in zip(layers, found[half], strict=True):
                    assert layer.last_routing is not None
                    count_pairs(layer.last_routing.index.numpy(), counted)
    return found


def as_text(halves: np.ndarray) -> list[list[list[str]]]:
    """[half, layer, E, E] with a string for each row, so that the JSON has as many lines as the matrices."""
    return [[[" ".join(map(str, row)) for row in layer] for layer in half] for half in halves.tolist()]


def from_text(halves: list[list[list[str]]]) -> np.ndarray:
    """What :func:`as_text` wrote."""
    return np.array([[[row.split() for row in layer] for layer in half] for half in halves], dtype=np.int64)


def count_pairs(index: np.ndarray, pairs: np.ndarray) -> None:
    """Adds the choices [T, K] of tokens, K at most 2, to pairs [E, E]; an index >= E is absent."""
    if index.shape[1] > 2:
        raise ValueError(f"index: {index.shape[1]} slots a token, want at most 2")
    first, last = index.min(axis=1), index.max(axis=1)
    second = np.where(last < len(pairs), last, first)
    np.add.at(pairs, (first, second), 1)
