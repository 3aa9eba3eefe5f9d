"""What the ranks of test_checkpoint.py do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import genesis_moe as gm
from distributed.training import STEPS, batch_of, full, mine_of, model_of, routers_of
from genesis_moe.distributed import latest, load, save, shard_experts


def build(layout: str) -> tuple[Any, torch.optim.Optimizer]:
    model: Any = model_of()
    if layout == "experts":
        shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    if layout == "fsdp2":
        for block in model[:2]:
            fully_shard(block)
        fully_shard(model)
    elif layout != "one":
        model = DistributedDataParallel(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def steps(model: Any, optimizer: Any, first: int, last: int) -> None:
    for step in range(first, last):
        x = mine_of(batch_of(step, 0))
        (model(x) - x.flip(-1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, (step + 1) / STEPS)


def state_of(model: Any) -> dict[str, Any]:
    prices = torch.cat([t for r in routers_of(model) for t in (r.price, r.gap) if t is not None])
    parameters = {n.removeprefix("module."): full(p) for n, p in model.named_parameters()}
    return {"prices": prices, "parameters": parameters}


def write(layout: str, folder: str) -> dict[str, Any]:
    """Two steps, a checkpoint, two more."""
    model, optimizer = build(layout)
    steps(model, optimizer, 0, 2)
    save(folder, model, optimizer, 2, {"loss": 0.5})
    steps(model, optimizer, 2, 4)
    return state_of(model)


def read(layout: str, folder: str) -> dict[str, Any]:
    """The last two steps, from the checkpoint."""
    torch.manual_seed(99)
    model, optimizer = build(layout)
    path = latest(folder)
    assert path is not None
    step, extra = load(path, model, optimizer)
    assert step == 2 and extra == {"loss": 0.5}
    steps(model, optimizer, 2, 4)
    return state_of(model)


def interrupt(folder: str) -> list[str]:
    """A save that fails on one rank after the others have written."""
    model, optimizer = build("ddp")
    steps(model, optimizer, 0, 1)
    real = dcp.FileSystemWriter.write_data

    def fails(self: Any, *arguments: Any) -> Any:
        if dist.get_rank() == 1:
            raise OSError("no space left on device")
        return real(self, *arguments)

    dcp.FileSystemWriter.write_data = fails
    try:
        save(folder, model, optimizer, 3)
    except gm.DistributedError as error:
        return [str(error), *sorted(p.name for p in Path(folder).iterdir() if p.name.startswith("step"))]
    finally:
        dcp.FileSystemWriter.write_data = real
    raise AssertionError("saved")
