"""What the ranks of test_growth.py do: train a layer whose experts split, other tokens on each rank."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from distributed.training import HIDDEN, Block, full, mine_of
from genesis_moe.distributed import latest, load, save, shard_experts

TOKENS = 96
OPTIONS = gm.MitosisOptions(
    interval=12, window=3, min_tokens=20, cooldown=8, ramp=6, max_cosine=1.0, spread=0.0
)
STEPS = 40


def build(layout: str) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model: Any = torch.nn.Sequential(
        Block(gm.MoE(HIDDEN, 8, 3, top_k=2, max_experts=8, mitosis=OPTIONS, router_dim=8))
    ).double()
    if layout == "ddp":
        model = DistributedDataParallel(model)
    if layout == "fsdp2":
        fully_shard(model[0])
        fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)


def steps(model: Any, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    kinds = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        kind = torch.randint(6, (TOKENS,), generator=generator)
        batch = kinds[kind] + 0.3 * torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
        x = mine_of(batch)
        (model(x) - x.flip(-1).tanh()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, optimizer)


def state_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    layer = next(m for m in model.modules() if isinstance(m, gm.MoE))
    grown = next(iter(gm.report(model).values())).mitosis
    assert grown is not None
    return {
        "events": [(e.step, e.kind, e.slot) for e in grown.events],
        "names": list(grown.names),
        "clans": {name: buffer.clone() for name, buffer in layer.clans.named_buffers()},
        "price": layer.router.price.clone(),
        "parameters": {name: full(p) for name, p in layer.named_parameters()},
        "moments": [full(s["exp_avg_sq"]) for s in optimizer.state.values()],
    }


def whole(layout: str) -> dict[str, Any]:
    model, optimizer = build(layout)
    steps(model, optimizer, 0, STEPS)
    return state_of(model, optimizer)


def write(layout: str, folder: str, at: int) -> None:
    model, optimizer = build(layout)
    steps(model, optimizer, 0, at)
    save(folder, model, optimizer, at)


def read(layout: str, folder: str) -> dict[str, Any]:
    model, optimizer = build(layout)
    path = latest(folder)
    assert path is not None
    step, _ = load(path, model, optimizer)
    steps(model, optimizer, step, STEPS)
    return state_of(model, optimizer)


def spread() -> str:
    model, _ = build("one")
    try:
        shard_experts(model, init_device_mesh("cpu", (2,)))
    except gm.UnsupportedError as error:
        return str(error)
    return "nothing was raised"
