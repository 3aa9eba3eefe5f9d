"""The model over 8 to 4,096 GPUs: every routing, placement, schedule and fabric."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from genesis_moe.studies.scale.cost import (
    SCHEDULES,
    Cost,
    Rows,
    dispatch_and_combine,
    reach,
    reached,
)
from genesis_moe.studies.scale.fabrics import FABRICS, GPUS_PER_NODE, described
from genesis_moe.studies.scale.placement import by_coactivation, by_number
from genesis_moe.studies.scale.traces import from_text

GPUS = tuple(2**i for i in range(3, 13))
PLACEMENTS = ("by number", "by co-activation")
SPREADS = ("groups", "wide")
"""groups: a copy of all experts in every group of at most as many GPUs as there are experts, and tokens stay in
their group. wide: one group of all GPUs; beyond one expert a GPU the trace is extrapolated, see ``cost.families``."""


class Places:
    """The rank of each expert, for a layer. pairs: [E, E] of the half that placement may see."""

    def __init__(self, pairs: np.ndarray) -> None:
        experts = len(pairs)
        self.order = {
            PLACEMENTS[0]: by_number(experts, experts),
            PLACEMENTS[1]: by_coactivation(pairs, experts),
        }

    def on(self, ranks: int, placement: str) -> np.ndarray:
        """[E] int64; ranks divides E."""
        order = self.order[placement]
        return order // (len(order) // ranks)


def evaluate(
    traces: list[dict[str, Any]], rows: Rows | None = None, gpus: tuple[int, ...] = GPUS
) -> dict[str, Any]:
    """Costs per token, a layer's mean, for every combination. Experts are placed by one half of the text and
    the cost is that of the other."""
    rows = Rows() if rows is None else rows
    found: list[dict[str, Any]] = []
    local: list[dict[str, Any]] = []
    for trace in traces:
        seen, counted = from_text(trace["halves"])
        layers, experts = counted.shape[:2]

        places = [Places(pairs) for pairs in seen]
        for ranks in (count for count in gpus if count <= experts):
            for placement in PLACEMENTS:
                for where, size in (("rank", 1), ("node", GPUS_PER_NODE)):
                    shares = [
                        reached(counted[i], places[i].on(ranks, placement) // size, -(-ranks // size))
                        for i in range(layers)
                    ]
                    local.append(
                        {
                            "arm": trace["arm"],
                            "ranks": ranks,
                            "placement": placement,
                            "where": where,
                            "reached_per_token": float(np.mean([share.sum() for share in shares])),
                            "fullest_over_mean": float(
                                np.mean([share.max() / share.mean() for share in shares])
                            ),
                        }
                    )
        for count in gpus:
            for spread in SPREADS if count > experts else ("both",):
                times = count // experts if spread == "wide" else 1
                ranks = min(count, experts)
                for placement in PLACEMENTS:
                    reaches = [
                        reach(counted[i], places[i].on(ranks, placement), ranks, times) for i in range(layers)
                    ]
                    for schedule in SCHEDULES:
                        for fabric in FABRICS:
                            costs = [dispatch_and_combine(one, fabric, rows, schedule) for one in reaches]
                            found.append(
                                {
                                    "arm": trace["arm"],
                                    "gpus": count,
                                    "spread": spread,
                                    "extrapolated": times > 1,
                                    "placement": placement,
                                    "schedule": schedule,
                                    "fabric": fabric.name,
                                    **_mean(costs),
                                }
                            )
    return {"figures": described(), "rows": asdict(rows), "locality": local, "costs": found}


def _mean(costs: list[Cost]) -> dict[str, float]:
    return {
        field.name: float(np.mean([getattr(cost, field.name) for cost in costs])) for field in fields(Cost)
    }


def shares_for_gloo(traces: list[dict[str, Any]]) -> dict[str, dict[int, np.ndarray]]:
    """What the check measures beside even exchanges: shares of the first layer by routing and placement."""
    found = {}
    for trace in traces:
        seen, counted = from_text(trace["halves"])[:, 0]
        places = Places(seen)
        for placement in PLACEMENTS:
            found[f"{trace['arm']}, {placement}"] = {
                ranks: reached(counted, places.on(ranks, placement), ranks) for ranks in (2, 4)
            }
    return found
