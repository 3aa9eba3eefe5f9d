"""What the ranks of test_data_parallel.py do."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from distributed.training import model_of, routers_of, train


def one(autocast: bool = False) -> dict[str, Any]:
    return train(model_of(), autocast=autocast)


def replicated(no_sync: bool, checkpointed: bool, compiled: bool, autocast: bool = False) -> dict[str, Any]:
    model = model_of()
    if checkpointed:
        model[0], model[1] = checkpoint_wrapper(model[0]), checkpoint_wrapper(model[1])
    if compiled:
        model[0] = torch.compile(model[0], backend="aot_eager")
    return train(DistributedDataParallel(model), no_sync=no_sync, autocast=autocast)


def sharded(
    checkpointed: bool, compiled: bool, hybrid: bool, no_sync: bool = False, mixed: bool = False
) -> dict[str, Any]:
    """mixed: parameters and gradients travel and compute in bfloat16, the optimiser's are float32."""
    model = model_of()
    mesh = None
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
    if hybrid:
        mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("nodes", "local"))
    for i in range(2):
        if checkpointed:
            model[i] = checkpoint_wrapper(model[i])
        if compiled:
            model[i] = torch.compile(model[i], backend="aot_eager")
        fully_shard(model[i], mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return train(model, process_group=mesh, no_sync=no_sync)


def hugging_face(sharding: bool) -> dict[str, Any]:
    """An injected Mixtral, two steps of half a batch each."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(2)
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    model = gm.inject(MixtralForCausalLM(config), router="hamiltonian", budget=1.5, gap_rate=0.1)
    ids = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(3))
    mine = ids.chunk(dist.get_world_size())[dist.get_rank()]
    if dist.get_world_size() > 1:
        if sharding:
            for layer in model.model.layers:
                fully_shard(layer)
            fully_shard(model)
        else:
            model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for step in range(3):
        loss = model(input_ids=mine, labels=mine).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, step / 3)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
    buffers = [t for r in routers_of(model) for t in (r.price, r.gap)]
    return {"losses": losses, "prices": torch.cat(buffers)}


def collectives_of_a_step() -> list[int]:
    """The numbers that each all_reduce of the second step carries."""
    model = model_of()
    gm.step(model)
    sizes, real = [], dist.all_reduce
    dist.all_reduce = lambda tensor, *a, **k: (sizes.append(tensor.numel()), real(tensor, *a, **k))[1]
    try:
        gm.step(model)
    finally:
        dist.all_reduce = real
    return sizes
