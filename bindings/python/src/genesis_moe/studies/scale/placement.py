"""Which rank holds which experts: as they are numbered, or by what tokens choose together."""

from __future__ import annotations

import networkx as nx
import numpy as np


def by_number(experts: int, ranks: int) -> np.ndarray:
    """[E] int64, the rank of each expert as ``shard_experts`` has it: ceil(E / R) after ceil(E / R)."""
    return np.arange(experts) // -(-experts // ranks)


def by_coactivation(pairs: np.ndarray, ranks: int, seed: int = 0) -> np.ndarray:
    """[E] int64: as many experts on every rank, and those that tokens choose together on one, as far as that goes.

    pairs: [E, E], entry (a, b) the tokens that chose both; the diagonal does not matter. ranks: a power
    of two that divides E. Recursive bisection by Kernighan and Lin, so the outer halves, which have the slower
    links between them, are cut first, and the placement on fewer ranks is that on more, neighbours joined. The best
    of 4 starts at every cut.
    """
    experts = len(pairs)
    if ranks < 1 or ranks & (ranks - 1) or experts % ranks:
        raise ValueError(f"ranks: {ranks}, want a power of two that divides the {experts} experts")
    weights = pairs + pairs.T
    placed = np.zeros(experts, dtype=np.int64)
    _split(weights, list(range(experts)), 0, ranks, placed, seed)
    return placed


def _split(
    weights: np.ndarray, members: list[int], first: int, ranks: int, placed: np.ndarray, seed: int
) -> None:
    if ranks == 1:
        placed[members] = first
        return
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from(members)
    graph.add_weighted_edges_from(
        (a, b, int(weights[a, b])) for i, a in enumerate(members) for b in members[:i] if weights[a, b]
    )
    halves = min(
        (nx.community.kernighan_lin_bisection(graph, seed=seed + start) for start in range(4)),
        key=lambda parts: (nx.cut_size(graph, parts[0], parts[1], weight="weight"), sorted(parts[0])),
    )
    for i, half in enumerate(sorted(map(sorted, halves))):
        _split(weights, half, first + i * ranks // 2, ranks // 2, placed, seed)
