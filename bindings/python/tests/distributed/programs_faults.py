"""What the ranks of test_faults.py do; each returns the message that its rank got."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import genesis_moe as gm
from distributed.training import batch_of, mine_of, model_of
from genesis_moe.distributed import shard_experts


def message_of(action: Any) -> str:
    try:
        action()
    except gm.DistributedError as error:
        return str(error)
    return "nothing was raised"


def not_finite() -> tuple[str, bool]:
    model = model_of()
    x = mine_of(batch_of(0, 0)).clone()
    gm.step(model)
    if dist.get_rank() == 1:
        x[2, 3] = float("nan")
    model(x)
    before = model[0].layer.router.price.clone()
    said = message_of(lambda: gm.step(model))
    return said, torch.equal(before, model[0].layer.router.price)


def other_version() -> str:
    if dist.get_rank() == 1:
        gm.__version__ = "0.0.1"
    try:
        return message_of(lambda: gm.step(model_of()))
    finally:
        gm.__version__ = "0.1.0"


def other_router() -> str:
    torch.manual_seed(0)
    model = gm.MoE(8, 8, 4, budget=1.5 if dist.get_rank() == 0 else 1.25)
    return message_of(lambda: gm.step(model))


def fewer_routers() -> str:
    model = torch.nn.Linear(2, 2) if dist.get_rank() == 1 else gm.MoE(8, 8, 4)
    return message_of(lambda: gm.step(model))


def parted_prices() -> str:
    model = model_of()
    gm.step(model)
    if dist.get_rank() == 1:
        model[0].layer.router.price[2] += 1e-7
    return message_of(lambda: gm.step(model))


def killed() -> str:
    model = model_of()
    gm.step(model)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return message_of(lambda: gm.step(model))


def killed_in_the_layer() -> str:
    model = model_of()
    shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    x = mine_of(batch_of(0, 0))
    model(x)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return message_of(lambda: model(x))
