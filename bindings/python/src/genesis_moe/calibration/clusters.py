"""Balanced clustering: neurons that are active together become one expert."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 12


def balanced(features: Tensor, clusters: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
    """Assigns n rows to clusters of exactly n / clusters rows each: [clusters, n / clusters], indices of rows.

    features: [n, d], rows of unit length; rows of one cluster should have large inner products. Spherical k-means
    whose assignment step respects the capacity: rows choose in the order of how much a wrong choice would
    cost them, and a cluster that is full is closed.
    """
    count = features.shape[0]
    size = count // clusters
    if size * clusters != count:
        raise ValueError(f"{count} rows do not divide into {clusters} clusters")
    if clusters == 1 or size == 1:
        return torch.arange(count).reshape(clusters, size)
    centres = features[torch.randperm(count, generator=generator)[:clusters]]
    best, best_score = torch.empty(0), -float("inf")
    for _ in range(rounds):
        similarity = features @ centres.T
        assignment = assign(similarity, size)
        score = float(similarity.gather(1, assignment[:, None]).sum())
        if score <= best_score * (1 + 1e-5) and best_score > -float("inf"):
            if score > best_score:
                best = assignment
            break
        best, best_score = assignment, score
        centres = torch.zeros_like(centres).index_add_(0, assignment, features)
        centres = centres / centres.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.argsort(best, stable=True).reshape(clusters, size)


def assign(similarity: Tensor, size: int) -> Tensor:
    """The cluster of each row, none with more than size rows, by similarity [n, clusters].

    In rounds: each row that is left asks for the best cluster that is open; a cluster with too many that ask
    keeps those that would lose most by their second choice.
    """
    count, clusters = similarity.shape
    left = similarity.clone()
    room = torch.full((clusters,), size)
    chosen = torch.full((count,), -1)
    waiting = torch.arange(count)
    while waiting.numel():
        values, wanted = left[waiting].topk(min(2, clusters), dim=1)
        regret = values[:, 0] - values[:, -1]
        regret = torch.where(regret.isfinite(), regret, torch.finfo(regret.dtype).max)
        order = torch.argsort(regret, descending=True, stable=True)
        waiting, wanted = waiting[order], wanted[order, 0]
        # The place of each row among those that ask for the same cluster, in the order of regret.
        place = _rank_within(wanted)
        kept = place < room[wanted]
        chosen[waiting[kept]] = wanted[kept]
        room -= torch.bincount(wanted[kept], minlength=clusters)
        waiting = waiting[~kept]
        left[:, room == 0] = -float("inf")
    return chosen


def _rank_within(groups: Tensor) -> Tensor:
    """For each element, how many before it are equal to it."""
    order = torch.argsort(groups, stable=True)
    ordered = groups[order]
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    positions = torch.arange(len(groups))
    first = torch.cummax(torch.where(starts, positions, 0), 0).values
    rank = torch.empty_like(positions)
    rank[order] = positions - first
    return rank
