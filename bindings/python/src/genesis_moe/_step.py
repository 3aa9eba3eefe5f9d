"""What follows the optimiser's step: prices and budgets move, and experts split."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import nn

from genesis_moe.distributed.agreement import Agreement
from genesis_moe.distributed.reduction import Reduction
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.mitosis import growth
from genesis_moe.mitosis.surgery import require_supported
from genesis_moe.moe import MoE
from genesis_moe.router import Router

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


@torch.no_grad()
def step(
    model: nn.Module,
    optimizer: Any = None,
    progress: float | None = None,
    *,
    held_out: Callable[[], float] | None = None,
    process_group: ProcessGroup | DeviceMesh | None = None,
) -> None:
    """Moves price and gap of every router in the model by the tokens counted since the last step.

    Call it once after each ``optimizer.step()``. Gradient accumulation just counts more
    tokens; a router that saw none, or is frozen by ``eval()`` all along, stays as it is.

    optimizer: wanted where a layer has max_experts, whose experts may then split: torch's Adam,
    AdamW or SGD, in any of their variants, or accelerate's wrapper of one. A number in its place
    is taken as progress.

    progress: how far training has come, in [0, 1]. Over the first half budgets come down
    from top_k to their own value, and over the last tenth price rates go to 0. None: no
    schedule, each budget and rate as the router has it.

    held_out: returns the mean loss on held-out data, in nats, of the model as it is when called
    (in eval mode, without gradients). Without it no expert dies and none becomes independent.
    It is called twice when either is tried; the mean over all ranks counts.

    process_group: the ranks that see different tokens, whose counts are summed first: a
    ProcessGroup, or a DeviceMesh (one dimension after the other, the last first). None: all
    ranks where torch.distributed is initialised. All counts travel in one all_reduce, and
    every rank comes out with the same bits. The first step of a model also compares its
    routers. DistributedError on every rank, before anything has moved: versions, routers or
    prices differ between ranks, the routing weights of a rank are not finite, or a rank does
    not take part within the timeout of its process group.
    """
    if isinstance(optimizer, (int, float)) and progress is None:
        optimizer, progress = None, optimizer
    if progress is not None and not 0 <= progress <= 1:
        raise InvalidArgumentError(f"progress: {progress}, want between 0 and 1, or None")
    routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
    growing = [module for module in model.modules() if isinstance(module, MoE) and module.clans is not None]
    if growing:
        optimizer = require_supported(optimizer)
    sums = Reduction(process_group)
    places = [(sums.add(router.counts), sums.add(router.tokens)) for router in routers.values()]
    agreement = Agreement(sums, model, routers)
    sums.run()
    agreement.check()
    for router, (counts, tokens) in zip(routers.values(), places, strict=True):
        router.update(sums.total(counts), int(sums.total(tokens)), progress)
        router.counts.zero_()
        router.tokens.zero_()
    windows = Reduction(process_group)
    of_layers = [[windows.add(part) for part in growth.contributions(layer)] for layer in growing]
    windows.run()
    for layer, parts in zip(growing, of_layers, strict=True):
        evaluate = None
        if held_out is not None:
            evaluate = _evaluation(model, held_out, process_group, layer.router.counts.device)
        growth.advance(layer, [windows.total(part) for part in parts], optimizer, evaluate)


def _gather_no_longer(model: nn.Module) -> None:
    """FSDP2 keeps what a forward has gathered until a backward, and none follows: a split would not reach it."""
    if not distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _evaluation(
    model: nn.Module,
    held_out: Callable[[], float],
    process_group: ProcessGroup | DeviceMesh | None,
    device: torch.device,
) -> Callable[[], float]:
    """held_out in eval mode, its mean over ranks. device: where the group's collectives are, NCCL's on GPUs alone."""

    def evaluate() -> float:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            loss = float(held_out())
        finally:
            for module in training:
                module.training = True
            _gather_no_longer(model)
        mean = Reduction(process_group)
        place = mean.add(torch.tensor(loss, dtype=torch.float64, device=device))
        mean.run("gm.step: held_out")
        return float(mean.total(place)) / mean.num_ranks

    return evaluate
