"""Trains layers whose experts are spread over processes; started again, it goes on from its last checkpoint.

One process:  python examples/python/distributed.py
Several:      torchrun --standalone --nproc-per-node 2 examples/python/distributed.py FOLDER
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from genesis_moe.distributed import clip_grad_norm_, latest, load, save, shard_experts

# torchrun sets these; alone we are rank 0 of 1. On GPUs the backend is "nccl".
if "RANK" in os.environ:
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
rank, world = dist.get_rank(), dist.get_world_size()
folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()

torch.manual_seed(0)
model = torch.nn.Sequential(
    gm.MoE(hidden_size=32, intermediate_size=64, num_experts=6, budget=1.25), torch.nn.Linear(32, 32)
)
mixing = torch.randn(32, 32) / 6
shard_experts(model, init_device_mesh("cpu", (world,)))  # each rank holds 6 / world experts
model = DistributedDataParallel(model)  # the rest is on every rank
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

steps, first = 60, 0
if path := latest(folder):
    first, _ = load(path, model, optimizer)
for step in range(first, steps):
    # Each rank has its part of the batch: the same batch, however many ranks there are.
    batch = torch.randn(240, 32, generator=torch.Generator().manual_seed(step)).tensor_split(world)[rank]
    loss = (model(batch) - torch.tanh(batch @ mixing)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    gm.step(model, progress=step / steps)  # counts of all ranks; every rank moves alike
    if (step + 1) % 20 == 0:
        save(folder, model, optimizer, step + 1)
    if step % 20 == 0 or step == steps - 1:
        dist.all_reduce(loss := loss.detach() / world)
        if rank == 0:
            print(f"step {step:2}  loss {loss.item():.4f}  ranks {world}", flush=True)
dist.destroy_process_group()
if len(sys.argv) == 1:
    import shutil

    shutil.rmtree(folder)
