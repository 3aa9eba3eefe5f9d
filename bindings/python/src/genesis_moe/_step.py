"""What follows the optimiser's step: prices and budgets move."""

from __future__ import annotations

import torch
import torch.distributed as distributed
from torch import nn

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.router import Router


@torch.no_grad()
def step(model: nn.Module, progress: float | None = None) -> None:
    """Moves price and gap of every router in the model by the tokens counted since the last step.

    Call it once after each ``optimizer.step()``. Gradient accumulation just counts more
    tokens; a router that saw none, or is frozen by ``eval()`` all along, stays as it is.
    Where torch.distributed is initialised the counts of all ranks are summed first, in
    one all_reduce, so every rank moves alike.

    progress: how far training has come, in [0, 1]. Over the first half budgets come down
    from top_k to their own value, and over the last tenth price rates go to 0. None: no
    schedule, each budget and rate as the router has it.
    """
    if progress is not None and not 0 <= progress <= 1:
        raise InvalidArgumentError(f"progress: {progress}, want between 0 and 1, or None")
    routers = [module for module in model.modules() if isinstance(module, Router)]
    if not routers:
        return
    loads = torch.cat([part for router in routers for part in (router.counts, router.tokens.reshape(1))])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(loads)
    for router, load in zip(routers, loads.split([r.num_experts + 1 for r in routers]), strict=True):
        router.update(load[:-1], int(load[-1]), progress)
        router.counts.zero_()
        router.tokens.zero_()
