"""Sums over all ranks, of many small tensors in one collective."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genesis_moe.distributed.groups import levels, sum_over
from genesis_moe.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class Reduction:
    """Collects tensors, sums them over the ranks in one all_reduce, and hands the totals out.

    Every rank must add tensors of the same shapes in the same order. Every rank receives the
    same bits: integers are summed exactly, and an all_reduce gives each element's sum to all
    from one order of additions. So what is decided from totals alone is decided alike.

    process_group: a ProcessGroup, a DeviceMesh (reduced dimension by dimension, the last
    first), or None for all ranks. Without torch.distributed the totals are the tensors.
    """

    def __init__(self, process_group: ProcessGroup | DeviceMesh | None = None) -> None:
        self.groups = levels(process_group)
        self._added: list[Tensor] = []
        self._totals: list[Tensor] = []

    @property
    def num_ranks(self) -> int:
        """How many ranks are summed over."""
        number = 1
        for group in self.groups:
            number *= group.size()
        return number

    def add(self, tensor: Tensor) -> int:
        """Adds an int64 or float64 tensor of any shape; returns the place of its total.

        Beside floats, integers travel as float64: exact below 2^53.
        """
        if tensor.dtype not in (torch.int64, torch.float64):
            raise InvalidArgumentError(f"tensor: dtype {tensor.dtype}, want torch.int64 or torch.float64")
        self._added.append(tensor)
        return len(self._added) - 1

    @torch.no_grad()
    def run(self, what: str = "gm.step") -> None:
        """The one collective. Raises DistributedError, which says for what, where another rank takes no part."""
        added = self._added
        if not self.groups or not added:
            self._totals = added
            return
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in added) else torch.int64
        device = added[0].device
        payload = torch.cat([t.detach().reshape(-1).to(device, dtype) for t in added])
        for group in self.groups:
            sum_over(group, payload, what)
        parts = payload.split([t.numel() for t in added])
        self._totals = [
            part.reshape(t.shape).to(t.device, t.dtype) for part, t in zip(parts, added, strict=True)
        ]

    def total(self, place: int) -> Tensor:
        """The sum over the ranks of what was added at this place: its shape, dtype and device."""
        return self._totals[place]
