"""Rows that travel between ranks, and their gradients that travel back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from genesis_moe.distributed.groups import failure


@dataclass
class Traffic:
    """Bytes that left this rank for others, and rows, since the layer was sharded; tokens that stay cost nothing."""

    forward_rows: int = 0
    """Tokens sent to other ranks: one row for each rank that a token needs, not for each expert."""
    forward_bytes: int = 0
    """Hidden states, indices and weights to the experts, and results back to the tokens."""
    backward_bytes: int = 0
    """The gradients of the same, the other way."""


@dataclass(frozen=True)
class Route:
    """How many rows go to each rank and come from it."""

    group: Any
    sent: list[int]
    received: list[int]

    def back(self) -> Route:
        return Route(self.group, self.received, self.sent)

    def bytes_to_others(self, rows: Tensor) -> int:
        others = sum(self.sent) - self.sent[self.group.rank()]
        return others * rows[0:1].numel() * rows.element_size() if rows.shape[0] else 0


class Travelling:
    """Rows under way: ``start`` them, compute something else, then ``arrive``.

    Backward starts the gradients' way back where forward arrived, and waits for them where
    forward started; what was computed in between is differentiated in between.
    """

    def __init__(self, rows: Tensor, route: Route, traffic: Traffic) -> None:
        self.route, self.traffic = route, traffic
        self.work: Any = None
        self.gradient: Tensor | None = None
        self.rows: Tensor = _Start.apply(rows, self)  # type: ignore[no-untyped-call]

    def arrive(self) -> Tensor:
        """The rows that others sent here: [sum(received), ...], in the order of their ranks."""
        arrived: Tensor = _Arrive.apply(self.rows, self)  # type: ignore[no-untyped-call]
        return arrived

    def launch(self, rows: Tensor, route: Route) -> Tensor:
        rows = rows.contiguous()
        arriving = rows.new_empty(sum(route.received), *rows.shape[1:])
        try:
            self.work = dist.all_to_all_single(
                arriving, rows, route.received, route.sent, group=route.group, async_op=True
            )
        except RuntimeError as error:
            raise failure("the dispatch of tokens to experts", error, route.group) from error
        self.leaving = rows  # kept until it has left
        return arriving

    def wait(self) -> None:
        try:
            self.work.wait()
        except RuntimeError as error:
            raise failure("the dispatch of tokens to experts", error, self.route.group) from error
        self.work = None
        del self.leaving


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, travelling: Travelling) -> Tensor:
        ctx.travelling = travelling
        travelling.traffic.forward_bytes += travelling.route.bytes_to_others(rows)
        return travelling.launch(rows, travelling.route)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        # What autograd passes here has the shape of the rows that arrived; the gradients under way
        # have the shape of those that left.
        ctx.travelling.wait()
        return ctx.travelling.gradient, None


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, travelling: Travelling) -> Tensor:
        ctx.travelling = travelling
        travelling.wait()
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        travelling = ctx.travelling
        back = travelling.route.back()
        travelling.traffic.backward_bytes += back.bytes_to_others(gradients[0])
        travelling.gradient = travelling.launch(gradients[0], back)
        return gradients[0], None


def exchange(rows: Tensor, route: Route, traffic: Traffic) -> Tensor:
    """Sends rows and waits for those of the others."""
    return Travelling(rows, route, traffic).arrive()


def exchange_counts(sent: Tensor, group: Any) -> Route:
    """Tells every rank how many rows it gets from each. sent: [ranks] int64, on the device."""
    received = torch.empty_like(sent)
    try:
        dist.all_to_all_single(received, sent, group=group)
    except RuntimeError as error:
        raise failure("the dispatch of tokens to experts", error, group) from error
    # One copy to the host for both: torch wants the splits there.
    both = torch.stack([sent, received]).tolist()
    return Route(group, both[0], both[1])
