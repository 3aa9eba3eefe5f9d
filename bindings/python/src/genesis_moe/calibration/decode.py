"""One token without gradients: the calls of a sparse layer with all but the token prepared.

Decoding gives a layer one token at a time, which it is done with in some hundred microseconds: making
views, structs and results for three calls is then felt. Here they are made once, and a call changes
two addresses. What is computed is the same, by the same kernels.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from genesis_moe import _call, _torch_ops
from genesis_moe._abi import CPU
from genesis_moe._engine import engine
from genesis_moe.options import experts_scalars, experts_struct, router_struct
from genesis_moe.routing import Routing

_threads = threading.local()


def possible(module: Any, tokens: Tensor) -> bool:
    """Whether tokens [T, H] can go this way: one token, on the CPU, in the parameters' dtype, nothing recorded."""
    return (
        tokens.shape[0] == 1
        and not module.training
        and type(tokens) is Tensor
        and tokens.is_cpu
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and tokens.dtype == module.bias.dtype
        and tokens.dtype != torch.float64
        and tokens.is_contiguous()
        and not tokens.is_neg()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
    )


def run(module: Any, tokens: Tensor) -> Tensor:
    """The layer's output [1, H] for one token [1, H]."""
    lanes = getattr(_threads, "lanes", None)
    if lanes is None:
        lanes = _threads.lanes = weakref.WeakKeyDictionary()
    lane: _Lane | None = lanes.get(module)
    if lane is None or not lane.valid(module):
        lane = lanes[module] = _Lane(module, tokens)
    return lane.run(module, tokens)


class _Lane:
    """The prepared calls of a layer in one thread, valid while what they read lies where it lay."""

    def __init__(self, module: Any, x: Tensor) -> None:
        self._state = _state(module)
        shape, router = module.shape, module.router
        self._router = router
        handle = engine(CPU, 0, torch.get_num_threads())
        self._calls: list[_call.Prepared] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._routing: Routing | None = None
        self._bias = None if shape.shared_size else module.bias.detach()[None]
        scalars = experts_scalars(shape.activation, True, False, 1.702, 7.0, 0)
        one = torch.ones(1, 1)
        values: tuple[Any, ...]
        if shape.shared_size:
            values = (
                x, torch.zeros(1, 1, dtype=torch.int64), one, module.shared_gate_up_proj.detach(), None,
                module.shared_down_proj.detach().transpose(1, 2), module.bias.detach()[None], x, None,
            )  # fmt: skip
            self._add(_call.experts_forward, handle, experts_struct(*scalars), values, True)
        if router is not None:
            outputs = _torch_ops._router_outputs(
                x, router.projection, router.centroids, None, None, None, None, *router.options.scalars()
            )
            weights, logits, index, counts = outputs
            inputs = (
                router.projection,
                router.centroids,
                router.bias,
                router.price,
                router.temperature,
                router.gap,
            )
            values = (
                x,
                *(None if one is None else one.detach() for one in inputs),
                index,
                weights,
                logits,
                counts,
                None,
            )
            self._add(_call.router_forward, handle, router_struct(*router.options.scalars()), values, False)
            self._routing = Routing(index, weights, logits, counts)
            values = (
                x, index, torch.ones_like(weights), module.gate_up_proj.detach(), None,
                module.down_proj.detach().transpose(1, 2), None, x, None,
            )  # fmt: skip
            scalars = (*scalars[:-1], module.layer_number)
            self._add(_call.experts_forward, handle, experts_struct(*scalars), values, True)

    def _add(
        self, function: _call.Function, handle: int, options: Any, values: tuple[Any, ...], output: bool
    ) -> None:
        call = _call.Prepared(function, handle, options, values, _torch_ops.view_of)
        self._calls.append(call)
        self._inputs.append(call.setter("hidden_states"))
        if output:
            self._outputs.append(call.setter("output"))

    def valid(self, module: Any) -> bool:
        return self._state == _state(module)

    def run(self, module: Any, tokens: Tensor) -> Tensor:
        results = [torch.empty_like(tokens) for _ in self._outputs]
        address = tokens.data_ptr()
        for set_address in self._inputs:
            set_address(address)
        for set_address, result in zip(self._outputs, results, strict=True):
            set_address(result.data_ptr())
        for call in self._calls:
            call()
        if self._router is not None and self._router.last_routing is not self._routing:
            # Its tensors are those of the last token from now on.
            self._router.last_routing = self._routing
        output = results[0]
        for other in results[1:]:
            output += other
        return output if self._bias is None else output + self._bias


def _state(module: Any) -> tuple[Any, ...]:
    """What has to be as it was: where the tensors lie, and the numbers that went into the structs."""
    tensors = list(module._parameters.values())
    if module.router is not None:
        tensors += [*module.router._parameters.values(), *module.router._buffers.values()]
    places = [one.data_ptr() for one in tensors if one is not None]
    return engine(CPU, 0, torch.get_num_threads()), module.layer_number, *places
