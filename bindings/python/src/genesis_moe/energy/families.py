"""Which experts of a layer were split from which, for records and the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Family(NamedTuple):
    """The slots of a layer that grows."""

    clans: list[int]
    """Of each slot, the one that its expert was split from, or -1."""
    free: list[int]
    """The slots without an expert."""


def family_of(module: Any) -> Family | None:
    """The family of a layer; None of one that does not grow.

    A split keeps the expert's slot on the left and puts the child on the right. So an expert was
    split from the leftmost one of the left side of the last node where its path goes right.
    """
    clans = getattr(module, "clans", None)
    if clans is None:
        return None
    leaves = clans.leaves(module.router.price)
    parents = [-1] * clans.slots
    for leaf in leaves:
        turn = leaf.path.rfind("r")
        if turn >= 0:
            left = leaf.path[:turn] + "l"
            side = [near for near in leaves if near.clan == leaf.clan and near.path.startswith(left)]
            parents[leaf.slot] = min(side, key=lambda near: near.path).slot
    return Family(parents, sorted(set(range(clans.slots)) - {leaf.slot for leaf in leaves}))


def events_between(layer: int, before: Family, after: Family) -> Iterator[dict[str, Any]]:
    """The event lines of what a layer has done from one family to another, births in the order of slots."""
    for slot in sorted(set(after.free) - set(before.free)):
        yield _event("death", layer, slot, f"expert {slot} of layer {layer} has died: its slot is free")
    for slot, (old, new) in enumerate(zip(before.clans, after.clans, strict=True)):
        if slot in after.free:
            continue
        if slot in before.free or (new >= 0 and new != old):
            if new >= 0:
                message = f"expert {new} of layer {layer} has split: its child is expert {slot}"
                yield {**_event("split", layer, new, message), "child": slot}
        elif old >= 0 and new < 0:
            message = f"expert {slot} of layer {layer} has left its clan for one of its own"
            yield _event("promotion", layer, slot, message)


def _event(event: str, layer: int, expert: int, message: str) -> dict[str, Any]:
    return {"kind": "event", "event": event, "layer": layer, "expert": expert, "message": message}
