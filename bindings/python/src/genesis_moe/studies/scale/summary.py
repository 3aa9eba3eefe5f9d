"""The record as tables."""

from __future__ import annotations

from typing import Any

from genesis_moe.studies.scale.fabrics import FABRICS
from genesis_moe.studies.scale.paper import PLACEMENTS

SHOWN = ((8, "groups"), (64, "groups"), (512, "wide"), (4096, "wide"))


def markdown(record: dict[str, Any]) -> str:
    """Costs per token, locality of the placements, and the check; joules are labelled modelled."""
    return "\n".join([*_costs(record), "", *_locality(record), "", *_check(record)])


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _costs(record: dict[str, Any]) -> list[str]:
    rows = record["paper"]["rows"]
    lines = [
        f"**Per token and layer, forward, dispatch and combine together** ({rows['tokens']:,} tokens a GPU, "
        f"hidden size {rows['hidden_size']:,}, bfloat16; {FABRICS[0].name}; node first, "
        "one group of all GPUs). All three modelled, beyond 64 GPUs from extrapolated routings; in groups of 64 GPUs "
        "any number of them costs what 64 do.",
        "",
        _row("GPUs", "routing", "placement", "ns", "NVLink bytes", "network bytes", "µJ"),
        _row(*["---"] * 7),
    ]
    for gpus, spread in SHOWN:
        for trace in record["traces"]["traces"]:
            for placement in PLACEMENTS:
                cost = pick(record, trace["arm"], gpus, placement, spread=spread)
                lines.append(
                    _row(
                        f"{gpus:,}",
                        trace["arm"],
                        placement,
                        f"{1e9 * cost['seconds_per_token']:.0f}",
                        f"{cost['nvlink_bytes_per_token']:,.0f}",
                        f"{cost['network_bytes_per_token']:,.0f}",
                        f"{1e6 * cost['joules_per_token']:.2f}",
                    )
                )
    return lines


def pick(
    record: dict[str, Any],
    arm: str,
    gpus: int,
    placement: str,
    schedule: str = "node first",
    spread: str = "groups",
    fabric: str = FABRICS[0].name,
) -> dict[str, Any]:
    """The one cost of a combination; where both spreads are the same, of that."""
    wanted = {"arm": arm, "gpus": gpus, "placement": placement, "schedule": schedule, "fabric": fabric}
    found: list[dict[str, Any]] = [
        cost
        for cost in record["paper"]["costs"]
        if cost["spread"] in (spread, "both") and all(cost[key] == value for key, value in wanted.items())
    ]
    if len(found) != 1:
        raise ValueError(f"costs: {len(found)} entries for {wanted}, want 1")
    return found[0]


def _locality(record: dict[str, Any]) -> list[str]:
    lines = [
        "**What a token reaches** (recorded on text that the placement has not seen).",
        "",
        _row(
            "routing",
            "GPUs",
            *(f"{where}s, {placement}" for where in ("rank", "node") for placement in PLACEMENTS),
        ),
        _row(*["---"] * 6),
    ]
    local = record["paper"]["locality"]
    for trace in record["traces"]["traces"]:
        for ranks in (8, 16, 64):
            cells = [
                next(
                    entry["reached_per_token"]
                    for entry in local
                    if (entry["arm"], entry["ranks"], entry["where"], entry["placement"])
                    == (trace["arm"], ranks, where, placement)
                )
                for where in ("rank", "node")
                for placement in PLACEMENTS
            ]
            lines.append(_row(trace["arm"], ranks, *(f"{cell:.3f}" for cell in cells)))
    return lines


def _check(record: dict[str, Any]) -> list[str]:
    lines = [
        f"**The model against Gloo over loopback** ({record['environment']['machine']['processor']}; "
        "fitted to six sizes, the others predicted).",
        "",
        _row(
            "processes", "load of the machine", "alpha, µs a message", "GB/s", "median error", "largest error"
        ),
        _row(*["---"] * 6),
    ]
    for found in record["check"] or ():
        bandwidth = found["bandwidth_bytes_per_second"]
        lines.append(
            _row(
                found["ranks"],
                f"{found['load_average']:.0f}" if "load_average" in found else "not recorded",
                f"{1e6 * found['alpha_seconds_per_message']:.0f}",
                "-" if bandwidth is None else f"{bandwidth / 1e9:.2f}",
                f"{found['median_absolute_error']:.0%}",
                f"{found['largest_absolute_error']:.0%}",
            )
        )
    return lines
