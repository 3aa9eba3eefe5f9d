"""Checkpoints of a distributed training: whole or not there, for any number of ranks."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from genesis_moe.distributed.groups import failure, levels, own_name
from genesis_moe.distributed.reduction import Reduction
from genesis_moe.errors import DistributedError, InvalidArgumentError
from genesis_moe.mitosis.clans import Clans

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

dcp: Any = torch.distributed.checkpoint  # what it exports it does not declare
_NAME = re.compile(r"step-(\d+)")


def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    extra: dict[str, Any] | None = None,
    *,
    keep: int = 2,
    process_group: ProcessGroup | DeviceMesh | None = None,
) -> Path:
    """Writes ``folder/step-N``: parameters, prices, gaps, clans and the optimiser's state.

    A collective: every rank there is calls it, with a folder that all of them see. Each rank writes its
    own shards. The checkpoint has another name until every rank has written everything and it
    is on disk, so one that was interrupted is never taken for a checkpoint, and replaces none.
    Older ones than the last ``keep`` are removed afterwards.

    extra: what else to keep, pickled; the same on every rank. process_group: as in
    :func:`genesis_moe.step`, the ranks that see different tokens: what theirs have shown of layers that
    grow is summed. None: all ranks. Returns the checkpoint's path.
    DistributedError on every rank if one cannot write, dies or stalls.
    """
    if step < 0 or keep < 1:
        raise InvalidArgumentError(f"step, keep: {step}, {keep}, want at least 0 and 1")
    root = Path(folder)
    path, partial = root / f"step-{step:09d}", root / f"partial-{step:09d}"
    _on_first(lambda: _begin(root, partial), root)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    _add_up(model, model_state, process_group)
    state = {"model": model_state, "optimizer": optimizer_state, "step": step, "extra": extra or {}}
    try:
        dcp.save(state, checkpoint_id=partial)
    except dcp.CheckpointException as error:
        raise DistributedError(f"checkpoint {path}: not written: {_first_failure(error)}") from error
    except RuntimeError as error:
        if not _together():
            raise
        raise failure(f"checkpoint {path}: not written: saving", error) from error
    _on_first(lambda: _publish(partial, path, keep), root)
    return path


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest whole checkpoint in a folder, or None."""
    return next(reversed(_whole(Path(folder))), None)


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    process_group: ProcessGroup | DeviceMesh | None = None,
) -> tuple[int, dict[str, Any]]:
    """Loads a checkpoint of :func:`save` into a model and its optimiser, in place; returns step and extra.

    A collective. The model may be spread over another number of ranks, or otherwise (one
    process, DDP, FSDP2, sharded experts), than the one that was saved. process_group: the one that
    :func:`genesis_moe.step` gets. InvalidArgumentError
    if there is no whole checkpoint at path; DistributedError if it does not fit the model.
    """
    if not (Path(path) / ".metadata").is_file():
        raise InvalidArgumentError(
            f"path: {path} is no whole checkpoint; genesis_moe.distributed.latest() finds one"
        )
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state, "step": 0, "extra": {}}
    extra_keys = _keys_below(path, "extra")
    state["extra"] = dict.fromkeys(extra_keys)
    try:
        dcp.load(state, checkpoint_id=path)
    except (dcp.CheckpointException, RuntimeError, ValueError) as error:
        raise DistributedError(f"checkpoint {path}: does not fit: {_first_failure(error)}") from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    if any(group.rank() != 0 for group in levels(process_group)):
        for clans in _growing(model).values():
            clans.set_extra_state(torch.zeros_like(clans.get_extra_state()))  # the first rank has the total
    return state["step"], state["extra"]


def _growing(model: nn.Module) -> dict[str, Clans]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Clans)}


def _add_up(model: nn.Module, state: dict[str, Any], process_group: ProcessGroup | DeviceMesh | None) -> None:
    """What the ranks have seen in a window of growth that is not over: the total, for any number of ranks."""
    keys = {own_name(key): key for key in state}
    sums = Reduction(process_group)
    places = {}
    for name in _growing(model):
        key = keys[f"{own_name(name)}._extra_state"]
        places[key] = sums.add(state[key])
    sums.run("saving what a window of growth has seen")
    for key, place in places.items():
        state[key] = sums.total(place)


def _keys_below(path: str | os.PathLike[str], name: str) -> list[str]:
    metadata = dcp.FileSystemReader(path).read_metadata()
    found = {
        place[1] for place in (metadata.planner_data or {}).values() if place[0] == name and len(place) > 1
    }
    return sorted(str(key) for key in found)


def _whole(root: Path) -> list[Path]:
    found = sorted(root.glob("step-*")) if root.is_dir() else []
    return [path for path in found if _NAME.fullmatch(path.name) and (path / ".metadata").is_file()]


def _begin(root: Path, partial: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, path: Path, keep: int) -> None:
    for file in partial.iterdir():
        _flush(file)
    _flush(partial)
    if path.exists():  # the same step again, after a restart: the new one takes its place
        shutil.rmtree(path)
    partial.rename(path)
    _flush(path.parent)
    for old in _whole(path.parent)[:-keep]:
        shutil.rmtree(old)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _on_first(action: Any, root: Path) -> None:
    """Does something in the folder on rank 0; its failure is everybody's."""
    failed: str | None = None
    if not _together() or dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            failed = str(error)
    if _together():
        # Not a broadcast: only the ranks next to one that is dead would see it fail.
        everyone: list[str | None] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(everyone, failed)
        except RuntimeError as error:
            raise failure(f"checkpoint in {root}: hearing of rank 0", error) from error
        failed = everyone[0]
    if failed is not None:
        raise DistributedError(f"checkpoint: cannot write to {root}: {failed}")


def _first_failure(error: Exception) -> str:
    failures = getattr(error, "failures", None)
    if failures:
        rank, (cause, _) = next(iter(failures.items()))
        return f"rank {rank}: {cause}"
    return str(error)
