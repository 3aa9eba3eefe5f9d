"""What the ranks of test_faults.py do; each returns the message that its rank got."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import genesis_moe as gm
from distributed import programs_growth
from distributed.training import batch_of, mine_of, model_of
from genesis_moe.distributed import save, shard_experts
from genesis_moe.distributed.groups import ROLL_CALL_SECONDS

STALL_TIMEOUT_SECONDS = 8.0


def message_of(action: Any) -> str:
    try:
        action()
    except gm.DistributedError as error:
        return str(error)
    return "nothing was raised"


def not_finite(sharded: bool) -> tuple[str, bool]:
    model = model_of()
    if sharded:
        shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
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


def other_experts() -> str:
    """Before anything of theirs meets in a collective."""
    moe = gm.MoE(8, 8 if dist.get_rank() == 0 else 6, 4)
    return message_of(lambda: shard_experts(moe, init_device_mesh("cpu", (dist.get_world_size(),))))


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


def killed_in_backward() -> str:
    model = model_of()
    shard_experts(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    loss = model(mine_of(batch_of(0, 0))).sum()
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return message_of(loss.backward)


def killed_in_held_out() -> str:
    """When growth asks whether an expert may die: after the counts were summed."""
    model, optimizer = programs_growth.build("ddp", programs_growth.TRYING["strict"])

    def held_out() -> float:
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    last = programs_growth.TRYING_STEPS
    return message_of(lambda: programs_growth.steps(model, optimizer, 0, last, held_out=held_out))


def killed_in_save(folder: str) -> str:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters())
    gm.step(model)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return message_of(lambda: save(folder, model, optimizer, 1))


def stalled(in_the_layer: bool) -> tuple[str, float]:
    """The last rank stops; the message of each, and the seconds that it took to come. It goes on afterwards."""
    group = dist.new_group(timeout=timedelta(seconds=STALL_TIMEOUT_SECONDS))
    processes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(processes, os.getpid())
    model = model_of()
    if in_the_layer:
        mesh = DeviceMesh.from_group(group, "cpu")
        shard_experts(model, mesh)
    x = mine_of(batch_of(0, 0))
    model(x)
    gm.step(model, process_group=group)
    dist.barrier()
    last = dist.get_rank() == dist.get_world_size() - 1
    began = time.monotonic()
    if last:
        os.kill(os.getpid(), signal.SIGSTOP)
    said = message_of(lambda: model(x) if in_the_layer else gm.step(model, process_group=group))
    seconds = time.monotonic() - began
    if dist.get_rank() == 0:
        time.sleep(ROLL_CALL_SECONDS)  # the others may have begun theirs later
        os.kill(processes[-1], signal.SIGCONT)  # after every other rank has waited as long
    return said, seconds
