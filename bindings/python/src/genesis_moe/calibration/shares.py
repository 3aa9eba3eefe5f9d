"""How much of each layer stays active: layers differ widely in how much a missing neuron is felt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genesis_moe.calibration.perceptrons import Perceptron
from genesis_moe.calibration.products import product, reduced_precision
from genesis_moe.errors import InvalidArgumentError

PROFILE_TOKENS = 2048
OUTLIER = (
    20.0  # a token's weight is at most so many times the median: a tiny residual stream must not decide alone
)


def token_weight(states: Tensor) -> Tensor:
    """How much an error counts in each token [T], from the residual stream [T, H] behind the layer.

    The next norm divides by its length, so an error counts by the inverse square of that.
    """
    weight = 1 / states.float().square().sum(-1).clamp_min(1e-12)
    return weight.clamp_max(OUTLIER * weight.median())


@dataclass(frozen=True)
class Profile:
    """What calibrations of one model on the same windows have in common, whatever their options.

    importances: see :func:`importance`. dense: the dense model's states behind each layer, as the
    stream has them, once they are known.
    """

    importances: list[Tensor]
    dense: dict[int, list[Tensor]] = field(default_factory=dict)


def importance(model: Any, perceptrons: list[Perceptron], windows: Tensor) -> list[Tensor]:
    """For each layer [I]: the mean energy of each neuron's output, as a share of the residual stream's.

    One pass of the dense model over at most PROFILE_TOKENS tokens of the windows [n, L].
    """
    wanted = windows[: max(1, PROFILE_TOKENS // windows.shape[1])]
    sums = [torch.zeros(one.intermediate_size) for one in perceptrons]
    inputs: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...]) -> None:
            inputs[number] = arguments[0].reshape(-1, arguments[0].shape[-1])

        return hook

    def add(number: int, one: Perceptron) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            gate, up, down = one.weights()
            x = inputs.pop(number).float()
            h = one.module.act_fn(product(x, gate.T)) * product(x, up.T)
            weight = token_weight(states.reshape(-1, states.shape[-1]))
            sums[number] += (h.square() * weight[:, None]).sum(0) * down.square().sum(0)

        return hook

    hooks = []
    for number, one in enumerate(perceptrons):
        hooks.append(one.module.register_forward_pre_hook(keep(number)))
        hooks.append(one.layer.register_forward_hook(add(number, one)))
    try:
        with reduced_precision(wanted.numel() * perceptrons[0].hidden_size):
            model.base_model(input_ids=wanted, use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return [one / wanted.numel() for one in sums]


def allocate(importances: list[Tensor], active: float, least: list[float]) -> list[float]:
    """The share of each layer's neurons that stays, at a mean of `active` over all neurons.

    One threshold for the whole model: a neuron less important than it is missing, whichever layer it is
    in. No layer gets less than its `least`. That minimises the sum of the layers' lost energies.
    """
    sizes = torch.tensor([float(one.numel()) for one in importances])
    floor = torch.tensor(least)
    if active < float((floor * sizes).sum() / sizes.sum()):
        raise InvalidArgumentError(f"active: {active}, but the layers need {float(floor.max()):.2f} at least")
    ordered = [one.sort().values for one in importances]
    every = torch.cat(ordered).sort().values

    def shares(threshold: Tensor) -> Tensor:
        kept = [1 - float(torch.searchsorted(one, threshold)) / one.numel() for one in ordered]
        return torch.maximum(torch.tensor(kept), floor)

    low, high = 0, every.numel()
    while low < high:
        middle = (low + high) // 2
        if float((shares(every[middle]) * sizes).sum()) > active * float(sizes.sum()):
            low = middle + 1
        else:
            high = middle
    found = shares(every[min(low, every.numel() - 1)])
    # What the last neuron left over is spread, so that the mean is what was asked for.
    over = active * float(sizes.sum()) - float((found * sizes).sum())
    room = (1 - found) * sizes
    if over > 0 and float(room.sum()) > 0:
        found = found + over * room / room.sum() / sizes
    return [min(1.0, float(one)) for one in found]
