"""What the ranks of test_expert_parallel.py do."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from distributed.training import full, model_of, train
from genesis_moe.distributed import clip_grad_norm_, shard_experts
from genesis_moe.energy.layers import Layers

LAYERS: dict[str, dict[str, Any]] = {
    "even": {"num_experts": 8},
    "uneven": {"num_experts": 7, "bias": True},
    "budget": {"num_experts": 5, "top_k": 3, "budget": 1.5, "shared_experts": 1},
    "fewer experts than ranks": {"num_experts": 3, "router": "mixtral"},
    "deepseek": {"num_experts": 6, "router": "deepseek", "shared_experts": 2, "top_k": 4},
}


def layer(name: str, sizes: list[int], dtype: torch.dtype, autocast: bool = False) -> dict[str, Any]:
    """One forward and backward of tokens cut into the given sizes; what this rank has of it."""
    torch.manual_seed(4)
    moe = gm.MoE(16, 12, **LAYERS[name], dtype=dtype)
    x = torch.randn(sum(sizes), 16, dtype=dtype)
    direction = torch.randn(sum(sizes), 16, dtype=dtype)
    if dist.get_world_size() > 1:
        shard_experts(moe, init_device_mesh("cpu", (dist.get_world_size(),)), average=False)
        rank = dist.get_rank()
        x, direction = x.split(sizes)[rank], direction.split(sizes)[rank]
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = moe(x)
    (y * direction).sum().backward()
    gradients = {}
    for parameter_name, parameter in moe.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            gradient = full(gradient)
            if not hasattr(parameter.data, "device_mesh") and dist.get_world_size() > 1:
                dist.all_reduce(gradient)
            gradients[parameter_name] = gradient
    traffic = None if moe.expert_parallel is None else vars(moe.expert_parallel.traffic)
    return {"y": y.detach(), "x": x.grad, "gradients": gradients, "traffic": traffic,
            "index": moe.last_routing.index}  # fmt: skip


def trained(
    wrapping: str,
    no_sync: bool = False,
    checkpointed: bool = False,
    compiled: bool = False,
    autocast: bool = False,
    mixed: bool = False,
) -> dict[str, Any]:
    """mixed: FSDP2 computes in bfloat16, and so do the experts, which are not its."""
    model = model_of()
    world = dist.get_world_size()
    if wrapping == "mesh":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "experts"))
        shard_experts(model, mesh["experts"], replicas=mesh["data"].get_group())
        return train(DistributedDataParallel(model), process_group=mesh)
    sharded = shard_experts(model, init_device_mesh("cpu", (world,)))
    for i in range(2):
        if checkpointed:
            model[i] = checkpoint_wrapper(model[i])
        if compiled and wrapping == "fsdp2":
            model[i] = torch.compile(model[i], backend="aot_eager")
    if compiled and wrapping == "ddp":
        model = torch.compile(model, backend="aot_eager")
    if wrapping == "fsdp2":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
        for block in model[:2]:
            fully_shard(block, ignored_params=set(sharded), mp_policy=policy)
        fully_shard(model, ignored_params=set(sharded), mp_policy=policy)
        return train(model, no_sync=no_sync)
    return train(DistributedDataParallel(model), no_sync=no_sync, autocast=autocast)


def counted() -> tuple[list[int], list[int]]:
    """What the energy's ledger has counted on this rank, and the loads of this rank's tokens, both by expert."""
    torch.manual_seed(3)
    moe = gm.MoE(16, 12, 7)
    shard_experts(moe, init_device_mesh("cpu", (dist.get_world_size(),)))
    layers = Layers(moe)
    moe(torch.randn(20 + dist.get_rank(), 16))
    (line,) = layers.step(with_report=False)
    return line["tokens"], moe.last_routing.counts.tolist()


def clipped() -> tuple[float, float]:
    """The norm of sharded and whole gradients together, and after clipping to half of it."""
    model = model_of()
    if dist.get_world_size() > 1:
        shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        whole = torch.randn(parameter.shape, generator=generator)
        if hasattr(parameter.data, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            parameter.grad = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
        else:
            parameter.grad = whole
    before = clip_grad_norm_(model.parameters(), 1.0).item()
    return before, clip_grad_norm_(model.parameters(), 1e9).item()
