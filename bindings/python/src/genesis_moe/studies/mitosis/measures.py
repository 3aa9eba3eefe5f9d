"""Specialisation: mutual information of expert and domain, and the semantic stability index with its nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import genesis_moe as gm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.measures import captured, windows
from genesis_moe.studies.compare.model import LanguageModel

PERMUTATIONS = 20


@dataclass(frozen=True)
class Stability:
    """How the index is computed. The pinned values are the defaults; the smoke tier takes less."""

    probes: int = 8192
    clusters: int = 8
    restarts: int = 10
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    pairs: int = 20_000  # sampled of a cluster at most


def specialisation(model: LanguageModel, corpus: Corpus, wanted: int, how: Stability) -> list[dict[str, Any]]:
    """By layer: loads, mutual information and stability, on `wanted` held-out windows a domain."""
    was_training = model.training
    model.eval()
    texts, domains = [], []
    for number, domain in enumerate(corpus.domains):
        held_out = windows(corpus.held_out[domain], model.shape.sequence, wanted)
        texts.append(held_out[:, :-1])
        domains += [number] * len(held_out)
    text = torch.from_numpy(np.concatenate(texts).astype(np.int64))
    found = []
    for layer, x in zip(model.feed_forwards, captured(model, text), strict=True):
        assert isinstance(layer, gm.MoE) and layer.clans is not None
        with torch.no_grad():
            slots = layer.clans(x, layer.router(x))
        counts = np.stack(
            [np.bincount(row.flatten(), minlength=layer.num_experts + 1)[:-1]
             for row in slots.reshape(len(text), -1).numpy()]
        )  # fmt: skip
        price = layer.router.price
        assert price is not None
        loads = counts.sum(axis=0)
        at_work = [leaf.slot for leaf in layer.clans.leaves(price)]
        found.append(
            {
                "experts": len(at_work),
                "loads": [int(loads[slot]) for slot in at_work],
                **mutual_information(counts, np.array(domains)),
                **stability(_sample(x.double().numpy(), how.probes), how),
            }
        )
    model.train(was_training)
    return found


def _sample(x: np.ndarray, number: int) -> np.ndarray:
    chosen: np.ndarray = x[np.unique(np.linspace(0, len(x) - 1, min(number, len(x))).astype(int))]
    return chosen


def mutual_information(counts: np.ndarray, domains: np.ndarray) -> dict[str, float]:
    """Of expert and domain, in nats, less its mean under permuted domains.

    counts: [windows, experts]; domains: [windows]. Whole windows are permuted, since the tokens of
    one window are not independent.
    """
    generator = np.random.default_rng(0)
    plain = _information(counts, domains)
    null = float(np.mean([_information(counts, generator.permutation(domains)) for _ in range(PERMUTATIONS)]))
    return {"mutual_information": plain - null, "mutual_information_null": null}


def _information(counts: np.ndarray, domains: np.ndarray) -> float:
    joint = np.stack([counts[domains == d].sum(axis=0) for d in np.unique(domains)]) / max(counts.sum(), 1)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return float((joint[held] * np.log(joint[held] / independent[held])).sum())


def stability(x: np.ndarray, how: Stability) -> dict[str, float]:
    """SSI = 1 - mean over clusters of the variance of pairwise 1 - cos, and what it must be read beside.

    x: [T, H] float64. Means over the seeds. Isotropic noise scores high too, so the same index of
    random vectors and of shuffled clusters stands beside it, and SSI_adj = 1 - Var_within / Var_all.
    """
    x = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    rows = []
    for seed in how.seeds:
        generator = np.random.default_rng(seed)
        labels = spherical_k_means(x, how.clusters, how.restarts, generator)
        noise = generator.standard_normal(x.shape)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        noise_labels = spherical_k_means(noise, how.clusters, 1, generator)
        within, cosine = _pairwise(x, labels, how.pairs, generator)
        everything, _ = _pairwise(x, np.zeros_like(labels), how.pairs, generator)
        rows.append(
            {
                "ssi": 1 - within,
                "ssi_random_vectors": 1 - _pairwise(noise, noise_labels, how.pairs, generator)[0],
                "ssi_shuffled": 1 - _pairwise(x, generator.permutation(labels), how.pairs, generator)[0],
                "ssi_adjusted": 1 - within / max(everything, 1e-30),
                "within_cosine": cosine,
            }
        )
    spectrum = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    shares = spectrum / max(spectrum.sum(), 1e-30)
    shares = shares[shares > 0]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "effective_rank": float(np.exp(-(shares * np.log(shares)).sum()))}


def _pairwise(
    x: np.ndarray, labels: np.ndarray, pairs: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Mean over clusters of the variance of 1 - cos (ddof 1), and of the mean cosine."""
    variances, cosines = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 3:
            continue
        number = min(pairs, len(members) * (len(members) - 1) // 2)
        first = generator.integers(len(members), size=number)
        second = (first + generator.integers(1, len(members), size=number)) % len(members)
        cosine = (x[members[first]] * x[members[second]]).sum(axis=1)
        variances.append(cosine.var(ddof=1))
        cosines.append(cosine.mean())
    return float(np.mean(variances)), float(np.mean(cosines))


def spherical_k_means(
    x: np.ndarray, clusters: int, restarts: int, generator: np.random.Generator, rounds: int = 30
) -> np.ndarray:
    """The labels [T] with the largest sum of cosines to their centers, of several beginnings. x: unit rows."""
    best: tuple[float, np.ndarray] | None = None
    for _ in range(restarts):
        centers = x[generator.choice(len(x), size=clusters, replace=False)]
        labels = np.full(len(x), -1)
        for _ in range(rounds):
            scores = x @ centers.T
            new = scores.argmax(axis=1)
            if (new == labels).all():
                break
            labels = new
            sums = np.zeros_like(centers)
            np.add.at(sums, labels, x)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            centers = np.where(lengths > 0, sums / lengths.clip(1e-12), centers)
        total = float(scores.max(axis=1).sum())
        if best is None or total > best[0]:
            best = total, labels
    assert best is not None
    return best[1]
