"""What ranks run for the tests of torchtitan's own dispatcher."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed

import genesis_moe as gm
from integrations.titan import EXPERTS, WIDTH, layer_config, overridden


def layer(budget: float | None, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Output and gradients of this rank's part, of the batch and of the experts."""
    from torch.distributed.device_mesh import init_device_mesh
    from torchtitan.distributed.utils import set_spmd_backend

    torch.manual_seed(0)
    model = overridden(layer_config("AllToAllTokenDispatcher"), "moe", budget=budget)
    routed = model.moe.routed_experts
    inner = routed.inner_experts
    share = EXPERTS // world
    if world > 1:
        inner.num_experts = share
        for name, parameter in list(inner.named_parameters()):
            part = parameter.detach()[rank * share : (rank + 1) * share].clone()
            setattr(inner, name, torch.nn.Parameter(part))
        if not hasattr(
            torch.compiler, "_is_non_strict_tracing"
        ):  # torchtitan 0.3 is of a later torch than 2.11
            torch.compiler._is_non_strict_tracing = lambda: False  # type: ignore[attr-defined]
        set_spmd_backend("full_dtensor")  # the other one needs the meshes of a whole trainer
        routed.token_dispatcher.wire_meshes(ep_mesh=init_device_mesh("cpu", (world,)))
    torch.manual_seed(1)
    x, direction = torch.randn(2, 4, 9, WIDTH).unbind()
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    x = x[mine].clone().requires_grad_()
    y = model(x)
    (y * direction[mine]).sum().backward()
    gm.step(model)
    return {
        "output": y.detach(),
        "input": x.grad,
        "w13": inner.w13.grad,
        "w2_EDF": inner.w2_EDF.grad,
        "price": model.moe.router.gate.price,
    }


def expert_parallel(budget: float | None) -> dict[str, Any]:
    return layer(budget, distributed.get_rank(), distributed.get_world_size())
