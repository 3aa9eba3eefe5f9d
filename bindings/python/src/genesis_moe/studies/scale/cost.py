"""An alpha-beta model of one dispatch and combine: what a rank's tokens cost on their way to experts and back.

A message between two GPUs takes alpha + bytes / bandwidth; a rank sends its messages one after the other, and its
NVLink and its network link work at the same time. Two schedules:

``direct``      one message to every other rank, a row for each rank that holds one of a token's experts. What
                ``genesis_moe.distributed`` does.
``node first``  one row to every *node* that a token needs, to the GPU there with the sender's number, which passes
                it on by NVLink. What DeepEP does.

Every rank has the same number of tokens, which choose as the trace says; the slowest rank counts, so uneven
loads cost time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genesis_moe.studies.scale.fabrics import (
    GPUS_PER_NODE,
    NVLINK_ALPHA,
    NVLINK_BANDWIDTH,
    NVLINK_ENERGY,
    NVLINK_HOPS,
    Fabric,
    modules_on_the_way,
)

SCHEDULES = ("direct", "node first")


@dataclass(frozen=True)
class Rows:
    """The tokens of one rank, and the bytes of a row each way: hidden states in bfloat16, and to the experts
    also an int32 index and a float32 weight a slot."""

    tokens: int = 4096
    hidden_size: int = 4096
    slots: int = 2

    @property
    def bytes_out(self) -> int:
        return 2 * self.hidden_size + 8 * self.slots

    @property
    def bytes_back(self) -> int:
        return 2 * self.hidden_size


@dataclass(frozen=True)
class Cost:
    """Of one layer's forward, per token: dispatch and combine together. Joules are modelled."""

    seconds_per_token: float
    nvlink_bytes_per_token: float
    network_bytes_per_token: float
    joules_per_token: float
    alpha_share: float
    """Of the time, what messages take that carry nothing."""


def reached(pairs: np.ndarray, place: np.ndarray, places: int) -> np.ndarray:
    """[places] the share of tokens with at least one expert there.

    pairs: see ``traces``. place: [E], where each expert is; every place has one at least.
    """
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(places))
    by_place = np.add.reduceat(pairs[np.ix_(order, order)], starts, axis=0)
    by_place = np.add.reduceat(by_place, starts, axis=1)
    # Tokens with both experts at a place are in its row and in its column.
    shares: np.ndarray = (by_place.sum(0) + by_place.sum(1) - by_place.diagonal()) / pairs.sum()
    return shares


def families(pairs: np.ndarray, times: int) -> np.ndarray:
    """A trace of times as many experts: each becomes a family, of which a token takes one by chance.

    An extrapolation, not a recording. Members of a family are numbered one after the other.
    """
    alone = np.diag(pairs)
    together = pairs - np.diag(alone)
    spread = np.repeat(np.repeat(together / times**2, times, axis=0), times, axis=1)
    spread[np.diag_indices(len(spread))] = np.repeat(alone / times, times)
    return spread


@dataclass(frozen=True)
class Reach:
    """The share of tokens that needs each rank of an expert-parallel group, and each node."""

    ranks: np.ndarray
    nodes: np.ndarray


def reach(pairs: np.ndarray, rank_of: np.ndarray, ranks: int, times: int = 1) -> Reach:
    """pairs: [E, E]. rank_of: [E], over ranks; with times above 1 the experts are families of as many members, the
    members of family e on the ranks from times rank_of[e] on, one on each."""
    if times == 1:
        nodes = -(-ranks // GPUS_PER_NODE)
        return Reach(reached(pairs, rank_of, ranks), reached(pairs, rank_of // GPUS_PER_NODE, nodes))
    if times <= GPUS_PER_NODE:
        members = (rank_of[:, None] * times + np.arange(times)).ravel()
        return reach(families(pairs, times), members, ranks * times)
    # A node holds members of one family only, of which a token takes one.
    shares = reached(pairs, rank_of, ranks)
    return Reach(
        np.repeat(shares / times, times),
        np.repeat(shares * GPUS_PER_NODE / times, times // GPUS_PER_NODE),
    )


def dispatch_and_combine(reach: Reach, fabric: Fabric, rows: Rows, schedule: str) -> Cost:
    """The cost for an expert-parallel group, whose GPUs are next to each other in the machine."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r}, want one of {SCHEDULES}")
    share, node_share = reach.ranks, reach.nodes
    ranks, nodes = len(share), len(node_share)
    node = np.arange(ranks) // GPUS_PER_NODE
    members = np.bincount(node)
    neighbours = members[node] - 1
    # Rows a token sends, for a token of each rank: to neighbours, and away.
    beside = np.bincount(node, weights=share)[node] - share
    if schedule == "direct":
        messages = ranks - members[node]
        away = share.sum() - share - beside
        sent = beside
        # Every other rank's tokens come with the same shares.
        got, got_away = share * neighbours, share * messages
    else:
        messages = np.full(ranks, nodes - 1)
        away = node_share.sum() - node_share[node]
        # What other nodes sent is passed on; the ranks of a node share that work evenly.
        sent = beside * nodes
        got, got_away = share * neighbours * nodes, node_share[node] * messages
    load = rows.tokens * np.maximum(sent, got)
    load_away = rows.tokens * np.maximum(away, got_away)
    # Passing on begins when the first rows arrive: one more start, overlapped otherwise.
    passing_on = NVLINK_ALPHA.value if schedule == "node first" and nodes > 1 else 0.0
    seconds, waiting = np.zeros(ranks), np.zeros(ranks)
    for size in (rows.bytes_out, rows.bytes_back):
        start, start_away = NVLINK_ALPHA.value * neighbours, fabric.alpha.value * messages
        by_nvlink = start + load * size / NVLINK_BANDWIDTH.value
        by_network = start_away + load_away * size / fabric.bandwidth.value
        seconds += np.maximum(by_nvlink, by_network) + passing_on
        waiting += np.where(by_nvlink >= by_network, start, start_away)
    slowest = int(seconds.argmax())
    both_ways = rows.bytes_out + rows.bytes_back
    nvlink_bytes, network_bytes = both_ways * float(sent.mean()), both_ways * float(away.mean())
    joules = 8 * (
        nvlink_bytes * NVLINK_HOPS * NVLINK_ENERGY.value
        + network_bytes * modules_on_the_way(ranks) * fabric.transceiver.value
    )
    return Cost(
        float(seconds[slowest]) / rows.tokens,
        nvlink_bytes,
        network_bytes,
        joules,
        float(waiting[slowest] / seconds[slowest]),
    )
