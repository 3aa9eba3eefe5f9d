"""The functional API on torch tensors: four operators of the dispatcher, with gradients.

    genesis_moe::router_forward, router_backward, experts_forward, experts_backward

Each allocates its results in torch and hands pointers to the library. Below them is
nothing for autograd or torch.compile to see, so each has a fake twin that only says
what shapes come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genesis_moe import _abi, _call, _report
from genesis_moe._engine import engine
from genesis_moe._report import RouterReport
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.options import (
    RouterOptions,
    experts_scalars,
    experts_struct,
    router_struct,
)
from genesis_moe.routing import Routing

# ---------------------------------------------------------------- the public functions


def route(
    hidden_states: Tensor,
    centroids: Tensor,
    options: RouterOptions,
    projection: Tensor | None,
    bias: Tensor | None,
    price: Tensor | None,
    temperature: Tensor | None,
    gap: Tensor | None,
) -> Routing:
    inputs = hidden_states, projection, centroids, bias, price, temperature, gap
    _check_tensors("hidden_states projection centroids bias price temperature gap", inputs)
    return Routing(*torch.ops.genesis_moe.router_forward.default(*inputs, *options.scalars()))


def experts(
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up_bias: Tensor | None,
    down_bias: Tensor | None,
    options: tuple[str, bool, bool, float, float],
) -> Tensor:
    inputs = hidden_states, top_k_index, top_k_weights, gate_up_proj, gate_up_bias, down_proj, down_bias
    _check_tensors(
        "hidden_states top_k_index top_k_weights gate_up_proj gate_up_bias down_proj down_bias", inputs
    )
    device = hidden_states.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_states, gate_up_proj, down_proj = (
            t if t.dtype == torch.float64 else t.to(dtype) for t in (hidden_states, gate_up_proj, down_proj)
        )
        gate_up_bias = gate_up_bias if gate_up_bias is None else gate_up_bias.to(hidden_states.dtype)
        down_bias = down_bias if down_bias is None else down_bias.to(hidden_states.dtype)
    accumulator = _accumulator(hidden_states)
    if top_k_weights.dtype != accumulator and top_k_weights.dtype.is_floating_point:
        top_k_weights = top_k_weights.to(accumulator)
    # Without a gradient to come, z is not kept: it is the largest tensor of a forward.
    keep = torch.is_grad_enabled() and (
        hidden_states.requires_grad
        or top_k_weights.requires_grad
        or gate_up_proj.requires_grad
        or down_proj.requires_grad
        or (gate_up_bias is not None and gate_up_bias.requires_grad)
        or (down_bias is not None and down_bias.requires_grad)
    )
    output: Tensor
    output, _ = torch.ops.genesis_moe.experts_forward.default(
        hidden_states,
        top_k_index,
        top_k_weights,
        gate_up_proj,
        gate_up_bias,
        down_proj,
        down_bias,
        *experts_scalars(*options),
        keep,
    )
    return output


def update(
    options: RouterOptions,
    counts: Tensor,
    price: Tensor | None,
    gap: Tensor | None,
    numbers: tuple[int, float, float, float, float],
) -> None:
    tensors = counts, *numbers, price, gap
    _call.router_update(_engine(counts), router_struct(*options.scalars()), tensors, view_of, _stream(counts))
    for tensor in (price, gap):
        if tensor is not None:
            torch.autograd.graph.increment_version(tensor)


def report(
    options: RouterOptions,
    logits: Tensor,
    index: Tensor,
    price: Tensor | None,
    previous_index: Tensor | None,
) -> RouterReport:
    tensors = logits, index, price, previous_index
    return _report.compute(_engine(logits), options, tensors, view_of, _stream(logits))


def _check_tensors(names: str, tensors: tuple[Any, ...]) -> None:
    """The dispatcher refuses what is no tensor without naming it; we name it."""
    for position, tensor in enumerate(tensors):
        if tensor is not None and not isinstance(tensor, Tensor):
            name = names.split()[position]
            raise InvalidArgumentError(
                f"{name}: {type(tensor).__name__}, want a torch.Tensor as the other arguments"
            )


# ------------------------------------------------------------------ tensors and engines

_DTYPES = {
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.bfloat16: (4, 16),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
}


def view_of(name: str, tensor: Any) -> _call.View:
    if not isinstance(tensor, Tensor):
        raise InvalidArgumentError(
            f"{name}: {type(tensor).__name__}, want a torch.Tensor as the other arguments"
        )
    try:
        code, bits = _DTYPES[tensor.dtype]
    except KeyError:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise InvalidArgumentError(f"{name}: dtype {tensor.dtype}, want one of {wanted}") from None
    if tensor.is_cpu:
        return tensor.data_ptr(), _abi.CPU, 0, code, bits, tensor.shape, tensor.stride()
    device_type, device_id = _device(name, tensor)
    return tensor.data_ptr(), device_type, device_id, code, bits, tensor.shape, tensor.stride()


def _device(name: str, tensor: Tensor) -> tuple[int, int]:
    if tensor.is_cpu:
        return _abi.CPU, 0
    if tensor.is_cuda:
        return _abi.CUDA, tensor.get_device()
    raise UnsupportedError(f"{name}: is on {tensor.device}, want cpu or cuda")


def _engine(tensor: Tensor) -> int:
    return engine(*_device("hidden_states", tensor), torch.get_num_threads() if tensor.is_cpu else 0)


def _stream(tensor: Tensor) -> int:
    return 0 if tensor.is_cpu else torch.cuda.current_stream(tensor.device).cuda_stream


def _accumulator(hidden_states: Tensor) -> torch.dtype:
    """The dtype of weights and logits beside hidden states of this dtype."""
    return torch.float64 if hidden_states.dtype == torch.float64 else torch.float32


# ----------------------------------------------------------------------- the operators

_ROUTER_OPTIONS = (
    "int mode, int binding, int solver, int top_k, int budgeted, int normalize_top_k, int num_groups, "
    "int top_k_groups, float scaling_factor, float epsilon, float temperature_floor, "
    "float entropy_temperature, float load_penalty"
)
_EXPERTS_OPTIONS = "int activation, bool gated, bool interleaved, float alpha, float limit"
_SCHEMAS = {
    "router_forward": (
        "(Tensor hidden_states, Tensor? projection, Tensor centroids, Tensor? bias, Tensor? price, "
        f"Tensor? temperature, Tensor? gap, {_ROUTER_OPTIONS}) "
        "-> (Tensor index, Tensor weights, Tensor logits, Tensor counts)"
    ),
    # wanted: gradients of hidden_states, projection, centroids, bias and temperature; those come back.
    "router_backward": (
        "(Tensor hidden_states, Tensor? projection, Tensor centroids, Tensor? bias, Tensor? temperature, "
        "Tensor logits, Tensor index, Tensor? grad_weights, Tensor? grad_logits, "
        f"{_ROUTER_OPTIONS}, bool[] wanted) -> Tensor[]"
    ),
    # keep: whether to write pre_activation [T*K, Z] for backward; it is [0, Z] otherwise.
    "experts_forward": (
        "(Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, Tensor gate_up_proj, "
        f"Tensor? gate_up_bias, Tensor down_proj, Tensor? down_bias, {_EXPERTS_OPTIONS}, bool keep) "
        "-> (Tensor output, Tensor pre_activation)"
    ),
    # wanted: gradients of the seven tensors of forward, in its order, but the index; those come back.
    "experts_backward": (
        "(Tensor grad_output, Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, "
        "Tensor gate_up_proj, Tensor? gate_up_bias, Tensor down_proj, Tensor? down_bias, "
        f"Tensor pre_activation, {_EXPERTS_OPTIONS}, bool[] wanted) -> Tensor[]"
    ),
}


def _router_outputs(
    hidden_states: Tensor,
    projection: Tensor | None,
    centroids: Tensor,
    bias: Tensor | None,
    price: Tensor | None,
    temperature: Tensor | None,
    gap: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Also the fake twin: it only allocates."""
    tokens, num_experts, top_k = hidden_states.shape[0], centroids.shape[0], max(options[3], 0)
    dtype = _accumulator(hidden_states)
    return (
        hidden_states.new_empty((tokens, top_k), dtype=torch.int64),
        hidden_states.new_empty((tokens, top_k), dtype=dtype),
        hidden_states.new_empty((tokens, num_experts), dtype=dtype),
        hidden_states.new_empty((num_experts,), dtype=torch.int64),
    )


def _router_forward(hidden_states: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _require_dimensions("hidden_states", hidden_states, 2)
    _require_dimensions("centroids", rest[1], 2)
    outputs = _router_outputs(hidden_states, *rest)
    tensors = (hidden_states, *rest[:6], *outputs, None)
    _call.router_forward(
        _engine(hidden_states), router_struct(*rest[6:]), tensors, view_of, _stream(hidden_states)
    )
    return outputs


def _router_gradients(
    hidden_states: Tensor,
    projection: Tensor | None,
    centroids: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    inputs = hidden_states, projection, centroids, bias, temperature
    return _empty_like(inputs, rest[-1])


def _router_backward(*arguments: Any) -> list[Tensor]:
    wanted = arguments[-1]
    gradients = _router_gradients(*arguments)
    hidden_states = arguments[0]
    tensors = (*arguments[:9], *_spread(gradients, wanted))
    _call.router_backward(
        _engine(hidden_states), router_struct(*arguments[9:-1]), tensors, view_of, _stream(hidden_states)
    )
    return gradients


def _experts_outputs(
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    """Also the fake twin: it only allocates."""
    rows = top_k_index.shape[0] * top_k_index.shape[1] if rest[-1] else 0
    return (
        hidden_states.new_empty(hidden_states.shape),
        hidden_states.new_empty((rows, gate_up_proj.shape[1])),
    )


def _experts_forward(
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    _require_dimensions("hidden_states", hidden_states, 2)
    _require_dimensions("top_k_index", top_k_index, 2)
    _require_dimensions("gate_up_proj", gate_up_proj, 3)
    output, pre_activation = _experts_outputs(hidden_states, top_k_index, top_k_weights, gate_up_proj, *rest)
    keep = rest[-1]
    tensors = (
        hidden_states,
        top_k_index,
        top_k_weights,
        gate_up_proj,
        *rest[:3],
        output,
        pre_activation if keep else None,
    )
    _call.experts_forward(
        _engine(hidden_states), experts_struct(*rest[3:-1]), tensors, view_of, _stream(hidden_states)
    )
    return output, pre_activation


def _experts_gradients(
    grad_output: Tensor,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    gate_up_bias: Tensor | None,
    down_proj: Tensor,
    down_bias: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    inputs = hidden_states, top_k_weights, gate_up_proj, gate_up_bias, down_proj, down_bias
    return _empty_like(inputs, rest[-1])


def _experts_backward(*arguments: Any) -> list[Tensor]:
    grad_output, hidden_states, index, weights, gate_up_proj, _, down_proj, down_bias, pre_activation = (
        arguments[:9]
    )
    gradients = _experts_gradients(*arguments)
    tensors = (
        grad_output,
        hidden_states,
        index,
        weights,
        gate_up_proj,
        down_proj,
        down_bias,
        pre_activation,
        *_spread(gradients, arguments[-1]),
    )
    _call.experts_backward(
        _engine(hidden_states), experts_struct(*arguments[9:-1]), tensors, view_of, _stream(hidden_states)
    )
    return gradients


def _require_dimensions(name: str, tensor: Tensor, dimensions: int) -> None:
    """What the outputs' shapes need; the library checks the rest."""
    if tensor.dim() != dimensions:
        raise InvalidArgumentError(f"{name}: shape {list(tensor.shape)}, want {dimensions} dimensions")


def _empty_like(inputs: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
    """Memory for the wanted gradients, laid out as the inputs; the library writes every element."""
    return [torch.empty_like(t) for t, want in zip(inputs, wanted, strict=True) if want and t is not None]


def _spread(gradients: list[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The wanted gradients in their places, None in the others."""
    present = iter(gradients)
    return [next(present) if want else None for want in wanted]


# ------------------------------------------------------------------------------ autograd


def _router_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden_states, projection, centroids, bias, _, temperature, _ = inputs[:7]
    index, _, logits, _ = output
    ctx.set_materialize_grads(False)
    ctx.options = inputs[7:]
    ctx.save_for_backward(hidden_states, projection, centroids, bias, temperature, logits, index)


def _router_derivative(
    ctx: Any, _index: Any, grad_weights: Tensor | None, grad_logits: Tensor | None, _counts: Any
) -> tuple[Any, ...]:
    nothing = (None,) * (7 + len(ctx.options))
    if grad_weights is None and grad_logits is None:
        return nothing
    need = ctx.needs_input_grad
    wanted = [need[0], need[1], need[2], need[3], need[5]]
    gradients = torch.ops.genesis_moe.router_backward.default(
        *ctx.saved_tensors, grad_weights, grad_logits, *ctx.options, wanted
    )
    hidden_states, projection, centroids, bias, temperature = _spread(gradients, wanted)
    return hidden_states, projection, centroids, bias, None, temperature, *nothing[6:]


def _experts_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.options = inputs[7:-1]
    ctx.save_for_backward(*inputs[:7], output[1])


def _experts_derivative(ctx: Any, grad_output: Tensor | None, _pre_activation: Any) -> tuple[Any, ...]:
    nothing = (None,) * (8 + len(ctx.options))
    if grad_output is None:
        return nothing
    need = ctx.needs_input_grad
    wanted = [need[0], need[2], need[3], need[4], need[5], need[6]]
    gradients = torch.ops.genesis_moe.experts_backward.default(
        grad_output, *ctx.saved_tensors, *ctx.options, wanted
    )
    hidden_states, weights, gate_up_proj, gate_up_bias, down_proj, down_bias = _spread(gradients, wanted)
    return hidden_states, None, weights, gate_up_proj, gate_up_bias, down_proj, down_bias, *nothing[7:]


def _no_setup(ctx: Any, inputs: Any, output: Any) -> None:
    """Nothing is needed to refuse."""


def _no_second_derivative(ctx: Any, *gradients: Any) -> Any:
    raise UnsupportedError(
        "create_graph: genesis_moe computes first derivatives only, and a second one was asked for"
    )


# Kept for as long as the process: the operators go when it goes.
_operators = torch.library.Library("genesis_moe", "DEF")


def _register(
    name: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    derivative: Callable[..., Any],
    setup: Callable[..., None],
) -> None:
    def run_on_cuda(*arguments: Any) -> Any:
        with torch.cuda.device(arguments[0].device):
            return run(*arguments)

    _operators.define(name + _SCHEMAS[name])
    _operators.impl(name, run, "CPU")
    _operators.impl(name, run_on_cuda, "CUDA")
    torch.library.register_fake(f"genesis_moe::{name}", fake, lib=_operators)
    torch.library.register_autograd(f"genesis_moe::{name}", derivative, setup_context=setup, lib=_operators)


_register("router_forward", _router_forward, _router_outputs, _router_derivative, _router_setup)
_register("router_backward", _router_backward, _router_gradients, _no_second_derivative, _no_setup)
_register("experts_forward", _experts_forward, _experts_outputs, _experts_derivative, _experts_setup)
_register("experts_backward", _experts_backward, _experts_gradients, _no_second_derivative, _no_setup)
