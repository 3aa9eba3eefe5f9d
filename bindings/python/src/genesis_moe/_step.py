"""What follows the optimiser's step: prices and budgets move, and experts split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.mitosis import growth
from genesis_moe.mitosis.surgery import require_supported
from genesis_moe.moe import MoE
from genesis_moe.router import Router


@torch.no_grad()
def step(
    model: nn.Module,
    optimizer: Any = None,
    progress: float | None = None,
    *,
    held_out: Callable[[], float] | None = None,
) -> None:
    """Moves price and gap of every router in the model by the tokens counted since the last step.

    Call it once after each ``optimizer.step()``. Gradient accumulation just counts more
    tokens; a router that saw none, or is frozen by ``eval()`` all along, stays as it is.
    Where torch.distributed is initialised the counts of all ranks are summed first, in
    one all_reduce, so every rank moves alike.

    optimizer: wanted where a layer has max_experts, whose experts may then split: torch's Adam,
    AdamW or SGD, in any of their variants, or accelerate's wrapper of one. A number in its place
    is taken as progress.

    progress: how far training has come, in [0, 1]. Over the first half budgets come down
    from top_k to their own value, and over the last tenth price rates go to 0. None: no
    schedule, each budget and rate as the router has it.

    held_out: returns the mean loss on held-out data, in nats, of the model as it is when called
    (in eval mode, without gradients). Without it no expert dies and none becomes independent.
    It is called twice when either is tried; the mean over all ranks counts.
    """
    if isinstance(optimizer, (int, float)) and progress is None:
        optimizer, progress = None, optimizer
    if progress is not None and not 0 <= progress <= 1:
        raise InvalidArgumentError(f"progress: {progress}, want between 0 and 1, or None")
    routers = [module for module in model.modules() if isinstance(module, Router)]
    growing = [module for module in model.modules() if isinstance(module, MoE) and module.clans is not None]
    if growing:
        optimizer = require_supported(optimizer)
    if not routers:
        return
    loads = torch.cat([part for router in routers for part in (router.counts, router.tokens.reshape(1))])
    _sum_over_ranks([loads])
    for router, load in zip(routers, loads.split([r.num_experts + 1 for r in routers]), strict=True):
        router.update(load[:-1], int(load[-1]), progress)
        router.counts.zero_()
        router.tokens.zero_()
    sums = [growth.contributions(layer) for layer in growing]
    _sum_over_ranks([part for parts in sums for part in parts])
    evaluate = None if held_out is None else _evaluation(model, held_out)
    for layer, parts in zip(growing, sums, strict=True):
        growth.advance(layer, parts, optimizer, evaluate)


def _sum_over_ranks(tensors: list[Tensor]) -> None:
    """Sums tensors of one dtype over all ranks, in place, in one collective."""
    if not tensors or not (distributed.is_available() and distributed.is_initialized()):
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _evaluation(model: nn.Module, held_out: Callable[[], float]) -> Callable[[], float]:
    """held_out in eval mode, its mean over ranks."""

    def evaluate() -> float:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            loss = float(held_out())
        finally:
            for module in training:
                module.training = True
        total = torch.tensor([loss, 1.0], dtype=torch.float64)
        _sum_over_ranks([total])
        return float(total[0] / total[1])

    return evaluate
