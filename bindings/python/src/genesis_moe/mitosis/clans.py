"""The state of a layer that grows: trees, statistics, schedules and the log, all in buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genesis_moe import functional
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.mitosis.options import MitosisOptions
from genesis_moe.mitosis.statistics import first_axis
from genesis_moe.routing import Routing

LOG_LENGTH = 256
EVENT_FIELDS = 9  # step, kind, clan, slot, other slot, and four numbers of the kind


class Leaf(NamedTuple):
    """An expert in its tree."""

    slot: int
    clan: int
    path: str  # "" for an undivided clan, else "l" and "r" from the root
    parents: tuple[int, ...]  # inner nodes from the root

    @property
    def name(self) -> str:
        return ".".join([str(self.clan), *self.path])


class Clans(nn.Module):
    """The clans of one layer: which slot each chosen clan's token goes to, and what was seen of them.

    slots: S = max_experts; there are as many clans, of which ``router.price`` says which are open,
    and as many inner nodes. A number in ``root`` [S] and ``children`` [S, 2] is a slot, or below 0
    the inner node ~number. Right is where <direction, x> >= threshold.

    Everything is in the state_dict; what is floating is float64 whatever the model's dtype, but
    direction and threshold, float32 beside anything but float64. The sums of a window are each rank's own until it
    ends. They are no buffers, which DDP would overwrite with those of rank 0, but one extra state.
    """

    root: Tensor
    children_of: Tensor
    direction: Tensor
    threshold: Tensor
    steps: Tensor
    rest_until: Tensor
    tokens: Tensor
    skipped: Tensor
    binding_sum: Tensor
    sum: Tensor
    power: Tensor
    histogram: Tensor
    mean: Tensor
    axis: Tensor
    fitted_axis: Tensor
    scale: Tensor
    fitted_threshold: Tensor
    fitted_gain: Tensor
    interval_tokens: Tensor
    interval_binding: Tensor
    interval_skipped: Tensor
    last_load: Tensor
    low_intervals: Tensor
    ramp_left: Tensor
    changed_at: Tensor
    candidate: Tensor
    candidate_direction: Tensor
    candidate_threshold: Tensor
    candidate_facts: Tensor
    probe_sums: Tensor
    events: Tensor
    events_total: Tensor

    _PRECISE = ("direction", "threshold")

    def __init__(
        self,
        slots: int,
        open_clans: int,
        hidden_size: int,
        options: MitosisOptions,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.slots, self.open_clans, self.hidden_size, self.options = slots, open_clans, hidden_size, options
        precise = torch.float64 if (dtype or torch.get_default_dtype()) == torch.float64 else torch.float32

        def buffer(name: str, shape: tuple[int, ...], kind: torch.dtype) -> None:
            self.register_buffer(name, torch.zeros(shape, dtype=kind, device=device))

        s, h, double, whole = slots, hidden_size, torch.float64, torch.int64
        buffer("root", (s,), torch.int32)
        buffer("children_of", (s, 2), torch.int32)
        buffer("direction", (s, h), precise)
        buffer("threshold", (s,), precise)
        buffer("steps", (), whole)
        buffer("rest_until", (), whole)  # of the cooldown
        self._shapes = {
            **dict.fromkeys(("tokens", "skipped", "binding_sum"), (s,)),
            **dict.fromkeys(("sum", "power"), (s, h)),
            "histogram": (s, functional.HISTOGRAM_BINS),
            "probe_sums": (3,),  # <g_l, g_r>, |g_l|^2, |g_r|^2
        }
        for name, shape in self._shapes.items():
            setattr(self, name, torch.zeros(shape, dtype=double, device=device))
        # What the window looks along, and the result of the one before.
        for name in ("mean", "axis", "fitted_axis"):
            buffer(name, (s, h), double)
        for name in ("scale", "fitted_threshold", "fitted_gain"):
            buffer(name, (s,), double)
        # Of the interval.
        for name in ("interval_tokens", "interval_binding", "interval_skipped", "last_load"):
            buffer(name, (s,), double)
        buffer("low_intervals", (s,), whole)
        buffer("ramp_left", (s,), whole)
        buffer("changed_at", (s,), whole)
        # The slot whose sides are compared; -1: none.
        buffer("candidate", (), whole)
        buffer("candidate_direction", (h,), precise)
        buffer("candidate_threshold", (1,), precise)
        buffer("candidate_facts", (4,), double)  # price excess, binding excess, gain, its null
        buffer("events", (LOG_LENGTH, EVENT_FIELDS), double)
        buffer("events_total", (), whole)
        # Its gradient is what a backward adds to probe_sums; see probe.py.
        self.probe = torch.zeros(3, dtype=double, device=device, requires_grad=True)
        # Of the last forward: the slots [T, K], as Router.last_routing has the clans.
        self.last_index: Tensor | None = None
        # Parameters of children whose updates are small still, as they were before the step to come.
        self.remembered: dict[int, dict[str, Tensor]] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forgets all growth: every clan is one slot, as many open as at first."""
        with torch.no_grad():
            for tensor in (*self.buffers(), *self.sums()):
                tensor.zero_()
            self.root.copy_(torch.arange(self.slots))
            self.axis.copy_(first_axis(self.slots, self.hidden_size))
            self.fitted_axis.copy_(self.axis)
            self.scale.fill_(1.0)
            self.candidate.fill_(-1)
        self.remembered = {}

    def sums(self) -> list[Tensor]:
        """This rank's sums of the window."""
        self._follow()
        return [getattr(self, name) for name in self._shapes]

    def _follow(self) -> None:
        """FSDP2, and what loads a model that began on meta, move buffers only; the sums go where these are."""
        device = self.root.device
        if self.tokens.device == device:
            return
        for name in self._shapes:
            old = getattr(self, name)
            setattr(self, name, torch.zeros_like(old, device=device) if old.is_meta else old.to(device))
        self.probe = torch.zeros(3, dtype=torch.float64, device=device, requires_grad=True)

    def get_extra_state(self) -> Tensor:
        """:meth:`sums` in one tensor."""
        return torch.cat([tensor.flatten() for tensor in self.sums()])

    @torch.no_grad()
    def set_extra_state(self, state: Tensor) -> None:
        numbers = [tensor.numel() for tensor in self.sums()]
        if state.shape != (sum(numbers),):
            raise InvalidArgumentError(
                f"the sums of the window: shape {list(state.shape)}, want [{sum(numbers)}]; "
                f"the state is of a layer with other sizes"
            )
        for tensor, part in zip(self.sums(), state.split(numbers), strict=True):
            tensor.copy_(part.view_as(tensor))

    def forward(self, hidden_states: Tensor, routing: Routing) -> Tensor:
        """The slots [T, K] of a routing over clans; an absent one keeps index S."""
        hidden_states = hidden_states.detach()
        self._follow()
        slot_index, _ = functional.descend(
            hidden_states,
            routing.index,
            self.root,
            self.children_of,
            self.direction,
            self.threshold,
            num_slots=self.slots,
        )
        if self.training:
            chosen = routing.index.clamp_max(self.slots - 1)
            functional.observe(
                hidden_states,
                slot_index,
                num_slots=self.slots,
                binding=-routing.logits.detach().gather(1, chosen),
                mean=self.mean,
                axis=self.axis,
                scale=self.scale,
                tokens=self.tokens,
                skipped=self.skipped,
                sum=self.sum,
                power=self.power,
                binding_sum=self.binding_sum,
                histogram=self.histogram,
            )
        result: Tensor = slot_index
        self.last_index = result
        return result

    def leaves(self, price: Tensor) -> list[Leaf]:
        """The experts, clan by clan from left to right. price: the router's, +inf where closed."""
        root, children = self.root.tolist(), self.children_of.tolist()
        found: list[Leaf] = []

        def walk(number: int, clan: int, path: str, parents: tuple[int, ...]) -> None:
            if number >= 0:
                found.append(Leaf(number, clan, path, parents))
                return
            for side, child in zip("lr", children[~number], strict=True):
                walk(child, clan, path + side, (*parents, ~number))

        for clan, closed in enumerate(torch.isposinf(price).tolist()):
            if not closed:
                walk(root[clan], clan, "", ())
        return found

    def record(self, kind: int, *numbers: float) -> None:
        """Appends to the log, whose oldest entry goes when it is full."""
        row = torch.zeros(EVENT_FIELDS, dtype=torch.float64)
        row[: 2 + len(numbers)] = torch.tensor([float(self.steps), kind, *numbers], dtype=torch.float64)
        self.events[int(self.events_total) % LOG_LENGTH] = row.to(self.events.device)
        self.events_total += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Clans:
        """Moves with the module, but never becomes less precise."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            assert old is not None and new is not None
            kept = (torch.float32, torch.float64) if name in self._PRECISE else (torch.float64,)
            if old.is_floating_point() and new.dtype not in kept:
                same = torch.empty_like(new, dtype=old.dtype) if old.is_meta else old.to(new.device)
                self._buffers[name] = same
        for name in self._shapes:
            old = getattr(self, name)
            moved = fn(old)
            if moved.dtype != torch.float64:
                moved = torch.empty_like(moved, dtype=torch.float64) if old.is_meta else old.to(moved.device)
            setattr(self, name, moved)
        self.probe = torch.zeros(3, dtype=torch.float64, device=self.steps.device, requires_grad=True)
        self.remembered = {
            slot: {name: row.to(self.steps.device) for name, row in rows.items()}
            for slot, rows in self.remembered.items()
        }
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: a gradient of the probe is of a step that is over there."""
        return {**self.__dict__, "probe": self.probe.detach().clone().requires_grad_(), "last_index": None}

    def extra_repr(self) -> str:
        return f"slots={self.slots}, {self.options}"
