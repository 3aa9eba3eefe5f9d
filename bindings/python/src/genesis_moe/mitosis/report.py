"""How a layer has grown, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from genesis_moe.mitosis.clans import Clans

# Kinds of events, numbered in the log; and what the last four numbers of each are.
KINDS: dict[str, tuple[str, ...]] = {
    "split": ("cosine", "gain", "null_gain", "excess"),
    "promotion": ("loss_before", "loss_after"),
    "promotion refused": ("loss_before", "loss_after"),
    "death": ("loss_before", "loss_after"),
    "death refused": ("loss_before", "loss_after"),
    "split refused": ("cosine", "gain", "null_gain", "excess"),
    "full": (),
    "not finite": ("tokens_skipped",),
    "idle": (),
}
SPLIT, PROMOTION, PROMOTION_REFUSED, DEATH, DEATH_REFUSED, SPLIT_REFUSED, FULL, NOT_FINITE, IDLE = range(
    len(KINDS)
)


@dataclass(frozen=True)
class MitosisEvent:
    """One line of a layer's log."""

    step: int
    """Calls of :func:`genesis_moe.step` before it, this one included."""
    kind: str
    """"split", "promotion", "death", these refused, or why nothing could happen: "full" (every slot is in
    use), "not finite" (statistics of the slot hold NaN or infinity), "idle" (no expert had a token)."""
    clan: int
    """-1 where it is about no clan in particular."""
    slot: int
    other: int
    """split: the slot of the right child; promotion: the new clan; else -1."""
    numbers: dict[str, float]
    """split: the cosine of the sides' gradients, the 2-means gain and its null, the excess of price or
    binding in MADs; promotion and death: held-out loss before and after."""

    def __str__(self) -> str:
        what = f"step {self.step}: {self.kind}"
        if self.clan >= 0:
            what += f" of slot {self.slot} in clan {self.clan}"
        if self.other >= 0:
            what += f", new {'clan' if self.kind.startswith('promotion') else 'slot'} {self.other}"
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.numbers.items())
        return f"{what} ({numbers})" if numbers else what


@dataclass(frozen=True)
class MitosisReport:
    """The tree and the history of a layer with max_experts."""

    experts: int
    """Experts at work: the leaves of all clans."""
    max_experts: int
    clans: int
    """Open clans: what the router chooses from."""
    names: dict[int, str]
    """slot to name: "3" is clan 3 undivided, "3.l" and "3.r" its children, "3.r.l" a grandchild."""
    loads: dict[int, float]
    """slot to its share of the tokens in the last whole interval."""
    events: tuple[MitosisEvent, ...]
    """The last 256, oldest first."""
    events_total: int
    candidate: int | None
    """The slot whose two sides are being compared, if any."""

    @property
    def tree(self) -> str:
        """One line a clan: "3: 3.l (slot 3, 12 %), 3.r (slot 8, 11 %)"."""
        lines: dict[str, list[str]] = {}
        for slot, name in self.names.items():
            text = f"{name} (slot {slot}, {self.loads.get(slot, 0.0):.0%})"
            lines.setdefault(name.partition(".")[0], []).append(text)
        return "\n".join(f"{clan}: {', '.join(leaves)}" for clan, leaves in lines.items())


def describe(clans: Clans, price: Tensor) -> MitosisReport:
    """The report on one layer. price: its router's."""
    leaves = clans.leaves(price)
    total = int(clans.events_total)
    length = len(clans.events)
    rows = clans.events.tolist()
    loads = clans.last_load.tolist()
    return MitosisReport(
        experts=len(leaves),
        max_experts=clans.slots,
        clans=len({leaf.clan for leaf in leaves}),
        names={leaf.slot: leaf.name for leaf in leaves},
        loads={leaf.slot: loads[leaf.slot] for leaf in leaves},
        events=tuple(_event(rows[i % length]) for i in range(max(0, total - length), total)),
        events_total=total,
        candidate=int(clans.candidate) if int(clans.candidate) >= 0 else None,
    )


def _event(row: list[float]) -> MitosisEvent:
    kind = list(KINDS)[int(row[1])]
    return MitosisEvent(
        int(row[0]),
        kind,
        int(row[2]),
        int(row[3]),
        int(row[4]),
        dict(zip(KINDS[kind], row[5:], strict=False)),
    )
