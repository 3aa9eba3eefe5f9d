"""Which rank holds which experts, and gradients that mean the same as without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genesis_moe.distributed.agreement import compare, described
from genesis_moe.distributed.expert_parallel import ExpertParallel
from genesis_moe.distributed.groups import sum_over
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.moe import MoE
from genesis_moe.quantization import is_quantized

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_EXPERTS = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")


def shard_experts(
    model: nn.Module, mesh: DeviceMesh, *, replicas: ProcessGroup | None = None, average: bool = True
) -> list[nn.Parameter]:
    """Spreads the routed experts of every :class:`genesis_moe.MoE` in the model over a mesh, in place.

    mesh: a DeviceMesh of one dimension, such as ``mesh["experts"]``; rank r holds
    ceil(E/R) experts from r*ceil(E/R) on, the last ranks fewer where E is not a multiple. The
    experts' parameters become DTensors with the placement Shard(0), so that
    torch.distributed.checkpoint can load them into any number of ranks. Their values are those of the
    mesh's first rank. Returns these parameters.

    Before DDP, which then leaves them alone; with ``fully_shard(..., ignored_params=set(...))``
    they are to be named. Make the optimiser afterwards. Shared experts and router stay whole.
    Of a layer that grows (max_experts) the slots are spread, and its experts go on splitting.

    A collective. InvalidArgumentError for a mesh of several dimensions, or a model without such
    layers or with experts that are spread already; DistributedError on every rank where the
    ranks' layers or versions differ.

    average: gradients of the experts are divided by the ranks of the mesh, as DDP and FSDP
    divide the others: the loss is a mean over ranks. False: it is a sum.

    replicas: the group of ranks that hold the same experts, such as ``mesh["data"].get_group()``
    on a mesh of two dimensions; their gradients are averaged there, too.
    """
    if mesh.ndim != 1:
        raise InvalidArgumentError(f"mesh: {mesh.ndim} dimensions, want 1: name one, as in mesh['experts']")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    if not layers:
        raise InvalidArgumentError(f"model: {type(model).__name__} has no genesis_moe.MoE")
    for path, layer in layers.items():
        if is_quantized(layer):
            raise UnsupportedError(
                f"model: the experts of {path or 'the layer'} are float8_e4m3fn, and cannot be sharded"
            )
        if layer.expert_parallel is not None:
            raise InvalidArgumentError(f"model: the experts of {path or 'the layer'} are sharded already")
    _compare(layers, [mesh.get_group(), *([] if replicas is None else [replicas])])
    sharded: list[nn.Parameter] = []
    for layer in layers.values():
        layer.expert_parallel = ExpertParallel(mesh.get_group(), layer.num_experts)
        layer.expert_gradient_scale = 1 / mesh.size() if average else 1.0
        for name in _EXPERTS:
            value = getattr(layer, name)
            if value is not None:
                parameter = _shard(value, mesh, replicas)
                setattr(layer, name, parameter)
                sharded.append(parameter)
    ignored: Any = _Ignored(model, list(getattr(model, "_ddp_params_and_buffers_to_ignore", [])))
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return sharded


class _Ignored:
    """The parameters that DDP is to leave alone, by the names that they have when it asks.

    What is put around a module after its experts were sharded (activation checkpointing, torch.compile)
    changes the names of what is in it.
    """

    def __init__(self, model: nn.Module, others: list[str]) -> None:
        self.model, self.others = model, others

    def __iter__(self) -> Iterator[str]:
        yield from self.others
        for path, layer in self.model.named_modules():
            if isinstance(layer, MoE) and layer.expert_parallel is not None:
                for name in _EXPERTS:
                    full = f"{path}.{name}" if path else name
                    yield full
                    yield f"_orig_mod.{full}"  # where the whole model is compiled


def _compare(layers: dict[str, MoE], groups: list[ProcessGroup]) -> None:
    """Before parameters of other shapes meet in a collective, which would hang or mix them up."""
    said = described({path: layer.router for path, layer in layers.items()})
    for path, layer in layers.items():
        for name in _EXPERTS:
            value = getattr(layer, name)
            found = None if value is None else (list(value.shape), str(value.dtype))
            said[f"{name} of {path or 'the layer'}"] = found
    compare(said, groups, "shard_experts")


def _shard(value: nn.Parameter, mesh: DeviceMesh, replicas: ProcessGroup | None) -> nn.Parameter:
    from torch.distributed.tensor import Shard, distribute_tensor

    if value.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise InvalidArgumentError(f"model: experts of dtype {value.dtype}")
    parameter = nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)]), value.requires_grad)
    if replicas is not None and replicas.size() > 1:
        local = parameter.data.to_local()  # type: ignore[attr-defined]
        dist.broadcast(local, group_src=0, group=replicas)

        def average_over_replicas(gradient: Any) -> Any:
            local = gradient.to_local().contiguous()
            sum_over(replicas, local, "the gradients of replicated experts")
            gradient.to_local().copy_(local / replicas.size())
            return gradient

        parameter.register_hook(average_over_replicas)
    return parameter


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients so that the norm of all of them together is at most max_norm; returns that norm.

    As torch.nn.utils.clip_grad_norm_, for parameters of which some are DTensors on one mesh or
    several: each rank's shards are counted once. A collective; all ranks get the same number.
    """
    gradients: list[Any] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    squares: dict[tuple[Any, ...], Tensor] = {}
    for gradient in gradients:
        groups: tuple[Any, ...] = ()
        local: Any = gradient
        if hasattr(gradient, "device_mesh"):
            local = gradient.to_local()
            mesh, placements = gradient.device_mesh, gradient.placements
            groups = tuple(mesh.get_group(i) for i, p in enumerate(placements) if p.is_shard())
        precise = torch.promote_types(local.dtype, torch.float32)
        square = torch.linalg.vector_norm(local, dtype=precise).square()
        squares[groups] = squares.get(groups, torch.zeros_like(square)) + square
    for groups, square in squares.items():
        for group in groups:
            sum_over(group, square, "clip_grad_norm_")
    norm = torch.stack(list(squares.values())).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local = gradient.to_local() if hasattr(gradient, "device_mesh") else gradient
        local.mul_(factor)
    return norm
