"""Which ranks work together: process groups, and meshes of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from genesis_moe.errors import DistributedError, InvalidArgumentError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# How long the ranks that saw a collective fail wait to hear of each other. Long beside a
# connection that closes on some ranks earlier than on others, short beside a timeout.
ROLL_CALL_SECONDS = 3.0


def levels(process_group: ProcessGroup | DeviceMesh | None) -> list[ProcessGroup]:
    """The groups to reduce over, one after the other, those of one rank left out.

    None: all ranks, or nothing where torch.distributed is not initialised. A mesh of several
    dimensions is reduced from the last, which is the fastest, to the first: within nodes
    before between them.
    """
    if not dist.is_available() or not dist.is_initialized():
        if process_group is None:
            return []
        raise InvalidArgumentError("process_group: given, but torch.distributed is not initialised")
    groups: list[Any]
    if process_group is None:
        groups = [dist.group.WORLD]
    elif hasattr(process_group, "get_all_groups"):
        groups = list(reversed(process_group.get_all_groups()))
    else:
        groups = [process_group]
    for group in groups:
        if not isinstance(group, dist.ProcessGroup):
            raise InvalidArgumentError(
                f"process_group: {group!r}, want a ProcessGroup or DeviceMesh that this rank belongs to"
            )
    return [group for group in groups if group.size() > 1]


def sum_over(group: ProcessGroup, payload: Tensor, what: str) -> None:
    """An all_reduce in place, on the payload's own device. Raises DistributedError where another rank takes no part."""
    try:
        dist.all_reduce(payload, group=group)
    except RuntimeError as error:
        raise failure(f"{what}: the all_reduce of {payload.numel()} numbers", error, group) from error


def failure(what: str, error: BaseException, group: ProcessGroup | None = None) -> DistributedError:
    """The error of a collective that failed, with the ranks that no longer answer where they can be told.

    group: None for all ranks.

    torch says which connection broke, not who broke it: the neighbours of a dead rank fail
    first, and their neighbours fail because of them. So each rank that failed signs the
    store, and whoever has not signed shortly after is the cause.
    """
    ranks = dist.get_process_group_ranks(group)
    missing = _missing(ranks)
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    who = (
        f"rank {', '.join(map(str, missing))} died or stalls"
        if missing
        else "a rank died, stalls, or is elsewhere in the program"
    )
    return DistributedError(
        f"{what} over {len(ranks)} ranks failed on rank {dist.get_rank()}: {who} ({cause})"
    )


def _missing(ranks: list[int]) -> list[int]:
    try:
        store: Any = dist.distributed_c10d._get_default_store()
        store.set(f"genesis_moe/failed/{dist.get_rank()}", "1")
        waiting = set(ranks) - {dist.get_rank()}
        until = time.monotonic() + ROLL_CALL_SECONDS
        while waiting and time.monotonic() < until:
            waiting = {rank for rank in waiting if not store.check([f"genesis_moe/failed/{rank}"])}
            time.sleep(0.05)
        return sorted(waiting)
    except Exception:  # the store died with its host; the message does without
        return []


def own_name(name: str) -> str:
    """A module's name without what DDP, torch.compile and checkpoint wrappers put between; a rank may lack one."""
    wrappers = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
    return ".".join(part for part in name.split(".") if part not in wrappers)
