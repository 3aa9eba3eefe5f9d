"""Changes of parameters, optimiser state and trees that happen whole or not at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from genesis_moe.distributed.groups import sum_over
from genesis_moe.errors import InvalidArgumentError, UnsupportedError

# What becomes of the optimiser's state of a row that is divided among two children: each
# gets half of the gradients, so half of their mean and a quarter of their squares.
HALVED = {"exp_avg": 0.5, "momentum_buffer": 0.5, "exp_avg_sq": 0.25, "max_exp_avg_sq": 0.25}


def require_supported(optimizer: Any) -> Optimizer:
    """The optimiser below accelerate's wrapper, if its state is one that we know how to divide."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if optimizer is None:
        raise InvalidArgumentError(
            "optimizer: None, but the model has a layer with max_experts, and a split also divides the "
            "optimiser's state; want gm.step(model, optimizer)"
        )
    if not isinstance(optimizer, (Adam, AdamW, SGD)):
        raise UnsupportedError(
            f"optimizer: {type(optimizer).__name__}, want torch.optim.Adam, AdamW or SGD, "
            f"whose state a split can divide between two experts"
        )
    return optimizer


class Change:
    """Rows to be written, checked and computed first, then written together.

    Everything that can fail (shapes, dtypes, an optimiser that is not known) fails in the calls
    that collect. :meth:`apply` only copies, and when even that is interrupted, writes back.
    """

    def __init__(self) -> None:
        self._writes: list[tuple[Tensor, Any, Tensor]] = []
        self._before: list[Tensor] = []

    def write(self, tensor: Tensor, index: Any, value: Any) -> None:
        """tensor[index] is to become value; of a DTensor a row, where it is."""
        if is_spread(tensor):
            tensor, first = local_rows(tensor)
            index -= first
            if not 0 <= index < tensor.shape[0]:
                return
        place = tensor.detach()[index]
        new = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        self._writes.append((tensor, index, new.detach().expand_as(place).clone()))

    def copy_row(
        self,
        parameter: nn.Parameter,
        source: int,
        targets: tuple[int, ...],
        optimizer: Optimizer,
        factors: dict[str, float],
    ) -> None:
        """The source row of a parameter goes to the targets; its optimiser state too, times factors."""
        for target in targets:
            if target != source:
                self.write(parameter, target, row_of(parameter, source))
        for name, state in row_state(optimizer, parameter).items():
            row = row_of(state, source)
            for target in targets:
                self.write(state, target, factors[name] * row)

    @torch.no_grad()
    def apply(self) -> None:
        self._before = [tensor.detach()[index].clone() for tensor, index, _ in self._writes]
        done = 0
        try:
            for tensor, index, value in self._writes:
                done += 1
                tensor[index] = value
        except BaseException:
            self._put_back(done)
            raise

    def undo(self) -> None:
        """Writes back what apply found."""
        self._put_back(len(self._writes))

    @torch.no_grad()
    def _put_back(self, number: int) -> None:
        for (tensor, index, _), before in reversed(
            list(zip(self._writes[:number], self._before[:number], strict=True))
        ):
            tensor[index] = before


def is_spread(tensor: Tensor) -> bool:
    """Whether it is a DTensor: each rank has some of the rows."""
    return hasattr(tensor, "device_mesh")


def local_rows(tensor: Any) -> tuple[Tensor, int]:
    """This rank's rows, not a copy, and the number of the first."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(placement.is_shard() and placement.dim != 0 for placement in tensor.placements):
        raise UnsupportedError(
            f"model: a layer that grows has a parameter with the placements {tensor.placements}, want Shard(0)"
        )
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local().detach(), offset[0]


def own_row(tensor: Tensor, row: int) -> Tensor | None:
    """A row, not a copy; None where another rank has it."""
    if not is_spread(tensor):
        return tensor.detach()[row]
    local, first = local_rows(tensor)
    return local[row - first] if first <= row < first + local.shape[0] else None


def row_of(tensor: Any, row: int) -> Tensor:
    """A row, on every rank. A collective where it is a DTensor."""
    own = own_row(tensor, row)
    if not is_spread(tensor):
        assert own is not None
        return own
    local = tensor.to_local()
    found = local.new_zeros(tensor.shape[1:]) if own is None else own.clone()
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard():
            sum_over(tensor.device_mesh.get_group(dimension), found, "a row of a spread parameter")
    return found


def row_state(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """The optimiser's tensors that have a row for each of the parameter's; empty before its first step."""
    held = any(parameter is other for group in optimizer.param_groups for other in group["params"])
    if not held:
        if parameter.requires_grad:
            raise InvalidArgumentError(
                f"optimizer: does not hold a parameter {list(parameter.shape)} of a layer that grows; "
                f"want the optimiser of the layer's experts and router"
            )
        return {}
    found = {}
    for name, value in optimizer.state.get(parameter, {}).items():
        if name == "step" or value is None:
            continue
        if name not in HALVED or not isinstance(value, Tensor) or value.shape != parameter.shape:
            raise UnsupportedError(
                f"optimizer: {type(optimizer).__name__} keeps {name!r}, want only "
                f"{', '.join(map(repr, HALVED))} and 'step', which a split knows how to divide"
            )
        found[name] = value
    return found
