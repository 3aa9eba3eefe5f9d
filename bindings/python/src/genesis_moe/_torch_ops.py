"""The functional API on torch tensors: operators of the dispatcher, with gradients where there are any.

    genesis_moe::router_forward, router_backward, experts_forward, experts_backward,
    experts_forward_e4m3, experts_quantize, clans_descend, clans_observe, clans_probe

Each allocates its results in torch and hands pointers to the library. Below them is
nothing for autograd or torch.compile to see, so each has a fake twin that only says
what shapes come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from genesis_moe import _abi, _call, _report
from genesis_moe._engine import engine
from genesis_moe._report import RouterReport
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.options import (
    RouterOptions,
    blocks,
    clans_struct,
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
    outputs = _apply("router_forward", _RouterFunction, inputs, options.scalars(), _recorded(inputs))
    weights, logits, index, counts = outputs
    return Routing(index, weights, logits, counts)


def experts(
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up_bias: Tensor | None,
    down_bias: Tensor | None,
    options: tuple[str, bool, bool, float, float, int],
    gate_up_scale: Tensor | None,
    down_scale: Tensor | None,
) -> Tensor:
    inputs = hidden_states, top_k_index, top_k_weights, gate_up_proj, gate_up_bias, down_proj, down_bias
    scales = gate_up_scale, down_scale
    _check_tensors(
        "hidden_states top_k_index top_k_weights gate_up_proj gate_up_bias down_proj down_bias "
        "gate_up_scale down_scale",
        (*inputs, *scales),
    )
    scaled = gate_up_proj.dtype == torch.float8_e4m3fn or gate_up_scale is not None or down_scale is not None
    dtype = autocast_dtype(hidden_states)
    if dtype is not None:
        hidden_states = hidden_states.to(dtype)
        if not scaled:
            gate_up_proj, down_proj = gate_up_proj.to(dtype), down_proj.to(dtype)
        gate_up_bias = gate_up_bias if gate_up_bias is None else gate_up_bias.to(dtype)
        down_bias = down_bias if down_bias is None else down_bias.to(dtype)
    accumulator = _accumulator(hidden_states)
    if top_k_weights.dtype != accumulator and top_k_weights.dtype.is_floating_point:
        top_k_weights = top_k_weights.to(accumulator)
    inputs = hidden_states, top_k_index, top_k_weights, gate_up_proj, gate_up_bias, down_proj, down_bias
    if scaled:
        tensors, numbers = (*inputs, *scales), experts_scalars(*options)
        result: Tensor = _apply("experts_forward_e4m3", _E4M3Function, tensors, numbers, _recorded(tensors))
        return result
    # Without a gradient to come, z is not kept: it is the largest tensor of a forward.
    keep = _recorded(inputs)
    scalars = (*experts_scalars(*options), keep)
    output: Tensor = _apply("experts_forward", _ExpertsFunction, inputs, scalars, keep)[0]
    return output


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    _check_tensors("weight", (weight,))
    quantized, scale = _apply("experts_quantize", None, (weight,), (), False)
    return quantized, scale


def descend(
    hidden_states: Tensor,
    clan_index: Tensor,
    root: Tensor,
    children: Tensor | None,
    direction: Tensor | None,
    threshold: Tensor | None,
    num_slots: int,
) -> tuple[Tensor, Tensor]:
    inputs = hidden_states, clan_index, root, children, direction, threshold
    _check_tensors("hidden_states clan_index root children direction threshold", inputs)
    slot_index, slot_counts = _apply("clans_descend", None, inputs, (num_slots,), False)
    return slot_index, slot_counts


def observe(
    hidden_states: Tensor,
    slot_index: Tensor,
    inputs: tuple[Tensor | None, ...],
    sums: tuple[Tensor | None, ...],
    num_slots: int,
) -> None:
    tensors = hidden_states, slot_index, *inputs, *sums
    names = "hidden_states slot_index binding mean axis scale tokens skipped sum square power binding_sum"
    _check_tensors(names + " histogram", tensors)
    _apply("clans_observe", None, tensors, (num_slots,), False)


def probe(grad_output: Tensor, tensors: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
    """See genesis_moe.mitosis.probe."""
    sums: Tensor = _apply("clans_probe", None, (grad_output, *tensors), options, False)
    return sums


def update(
    options: RouterOptions,
    counts: Tensor,
    price: Tensor | None,
    gap: Tensor | None,
    numbers: tuple[int, float, float, float, float],
) -> None:
    tensors = counts, *numbers, price, gap
    _call.router_update(_engine(counts), router_struct(*options.scalars()), tensors, view_of, _queue(counts))
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
    return _report.compute(_engine(logits), options, tensors, view_of, _queue(logits))


def autocast_dtype(hidden_states: Tensor) -> torch.dtype | None:
    """What autocast turns the experts' inputs into, as it does for matrix products; it leaves float64 alone."""
    if hidden_states.is_cpu or hidden_states.is_cuda:
        device = "cpu" if hidden_states.is_cpu else "cuda"
        if torch.is_autocast_enabled(device) and hidden_states.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
    return None


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
    torch.float8_e4m3fn: (10, 8),  # weights of experts only
}


def view_of(name: str, tensor: Any) -> _call.View:
    if not isinstance(tensor, Tensor):
        raise InvalidArgumentError(
            f"{name}: {type(tensor).__name__}, want a torch.Tensor as the other arguments"
        )
    try:
        code, bits = _DTYPES[tensor.dtype]
    except KeyError:
        floating = tensor.dtype.is_floating_point
        alike = (d for d in _DTYPES if d.is_floating_point == floating and d.itemsize > 1)
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in alike)
        raise InvalidArgumentError(f"{name}: dtype {tensor.dtype}, want one of {wanted}") from None
    if tensor.is_cpu:
        return tensor.data_ptr(), 1, 0, code, bits, tensor.shape, tensor.stride()
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


def _queue(tensor: Tensor) -> _call.Queue | None:
    """The stream that torch is working on, and torch's own allocator for the workspace.

    The allocator gives memory out in the order of that stream, so the workspace may be
    let go as soon as the call returns; in a graph it comes from the graph's own pool.
    """
    if tensor.is_cpu:
        return None
    device = tensor.device

    def allocate(size: int) -> tuple[int, Tensor]:
        memory = torch.empty(size, dtype=torch.uint8, device=device)
        return memory.data_ptr(), memory

    return _call.Queue(torch.cuda.current_stream(device).cuda_stream, allocate)


def _accumulator(hidden_states: Tensor) -> torch.dtype:
    """The dtype of weights and logits beside hidden states of this dtype."""
    return torch.float64 if hidden_states.dtype == torch.float64 else torch.float32


# ----------------------------------------------------------------------- the operators

_ROUTER_OPTIONS = (
    "int mode, int binding, int solver, int top_k, int budgeted, int normalize_top_k, int num_groups, "
    "int top_k_groups, float scaling_factor, float epsilon, float temperature_floor, "
    "float entropy_temperature, float load_penalty"
)
_EXPERTS_OPTIONS = "int activation, bool gated, bool interleaved, float alpha, float limit, int layer"
_SCHEMAS = {
    "router_forward": (
        "(Tensor hidden_states, Tensor? projection, Tensor centroids, Tensor? bias, Tensor? price, "
        f"Tensor? temperature, Tensor? gap, {_ROUTER_OPTIONS}) "
        "-> (Tensor weights, Tensor logits, Tensor index, Tensor counts)"
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
    "experts_forward_e4m3": (
        "(Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, Tensor gate_up_proj, "
        "Tensor? gate_up_bias, Tensor down_proj, Tensor? down_bias, Tensor? gate_up_scale, "
        f"Tensor? down_scale, {_EXPERTS_OPTIONS}) -> Tensor"
    ),
    "experts_quantize": "(Tensor weight) -> (Tensor quantized, Tensor scale)",
    "clans_descend": (
        "(Tensor hidden_states, Tensor clan_index, Tensor root, Tensor? children, Tensor? direction, "
        "Tensor? threshold, int num_slots) -> (Tensor slot_index, Tensor slot_counts)"
    ),
    "clans_observe": (
        "(Tensor hidden_states, Tensor slot_index, Tensor? binding, Tensor? mean, Tensor? axis, "
        "Tensor? scale, Tensor(a!)? tokens, Tensor(b!)? skipped, Tensor(c!)? sum, Tensor(d!)? square, "
        "Tensor(e!)? power, Tensor(f!)? binding_sum, Tensor(g!)? histogram, int num_slots) -> ()"
    ),
    # The candidate is an expert, or -1 for none; sums [3] float64, see genesis_moe.mitosis.probe.
    "clans_probe": (
        "(Tensor grad_output, Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, "
        "Tensor gate_up_proj, Tensor? gate_up_bias, Tensor down_proj, Tensor? down_bias, Tensor candidate, "
        f"Tensor direction, Tensor threshold, {_EXPERTS_OPTIONS}) -> Tensor"
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
    new_empty = hidden_states.new_empty
    return (
        new_empty(tokens, top_k, dtype=dtype),
        new_empty(tokens, num_experts, dtype=dtype),
        new_empty(tokens, top_k, dtype=torch.int64),
        new_empty(num_experts, dtype=torch.int64),
    )


def _router_forward(hidden_states: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _require_dimensions("hidden_states", hidden_states, 2)
    _require_dimensions("centroids", rest[1], 2)
    outputs = _router_outputs(hidden_states, *rest)
    weights, logits, index, counts = outputs
    tensors = (hidden_states, *rest[:6], index, weights, logits, counts, None)
    _call.router_forward(
        _engine(hidden_states), router_struct(*rest[6:]), tensors, view_of, _queue(hidden_states)
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
        _engine(hidden_states), router_struct(*arguments[9:-1]), tensors, view_of, _queue(hidden_states)
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
    tokens, hidden_size = hidden_states.shape
    return hidden_states.new_empty(tokens, hidden_size), hidden_states.new_empty(rows, gate_up_proj.shape[1])


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
        _engine(hidden_states), experts_struct(*rest[3:-1]), tensors, view_of, _queue(hidden_states)
    )
    return output, pre_activation


def _experts_output(hidden_states: Tensor, *rest: Any) -> Tensor:
    """Also the fake twin: it only allocates."""
    return hidden_states.new_empty(hidden_states.shape)


def _experts_forward_e4m3(hidden_states: Tensor, *rest: Any) -> Tensor:
    _require_dimensions("hidden_states", hidden_states, 2)
    output = _experts_output(hidden_states)
    tensors = (hidden_states, *rest[:6], output, None, *rest[6:8])
    _call.experts_forward(
        _engine(hidden_states), experts_struct(*rest[8:]), tensors, view_of, _queue(hidden_states)
    )
    return output


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Also the fake twin: it only allocates."""
    experts, rows, columns = weight.shape
    scales = experts, blocks(rows), blocks(columns)
    return (
        weight.new_empty(weight.shape, dtype=torch.float8_e4m3fn),
        weight.new_empty(scales, dtype=torch.float32),
    )


def _experts_quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    _require_dimensions("weight", weight, 3)
    outputs = _quantized(weight)
    _call.experts_quantize(_engine(weight), None, (weight, *outputs), view_of, _queue(weight))
    return outputs


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
        _engine(hidden_states), experts_struct(*arguments[9:-1]), tensors, view_of, _queue(hidden_states)
    )
    return gradients


def _clans_slots(hidden_states: Tensor, clan_index: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Also the fake twin: it only allocates."""
    return torch.empty_like(clan_index), clan_index.new_empty(max(rest[-1], 0), dtype=torch.int64)


def _clans_descend(hidden_states: Tensor, clan_index: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    outputs = _clans_slots(hidden_states, clan_index, *rest)
    tensors = (hidden_states, clan_index, *rest[:-1], *outputs)
    _call.clans_descend(
        _engine(hidden_states), clans_struct(rest[-1]), tensors, view_of, _queue(hidden_states)
    )
    return outputs


def _clans_observe(hidden_states: Tensor, *rest: Any) -> None:
    tensors = (hidden_states, *rest[:-1])
    _call.clans_observe(
        _engine(hidden_states), clans_struct(rest[-1]), tensors, view_of, _queue(hidden_states)
    )
    for written in rest[5:-1]:
        if written is not None:
            torch.autograd.graph.increment_version(written)


def _probe_sums(grad_output: Tensor, *rest: Any) -> Tensor:
    """Also the fake twin: it only allocates."""
    return grad_output.new_zeros(3, dtype=torch.float64)


def _clans_probe(
    grad_output: Tensor, hidden_states: Tensor, index: Tensor, weights: Tensor, *rest: Any
) -> Tensor:
    *parameters, candidate, direction, threshold = rest[:7]
    sums = _probe_sums(grad_output)
    slot = int(candidate)
    if slot < 0:
        return sums
    token, place = (index == slot).nonzero(as_tuple=True)
    if not len(token):
        return sums
    # The candidate twice, as the experts 0 and 1 of a clan: the gradients of its two rows are wanted.
    gate_up, gate_up_bias, down, down_bias = (
        p if p is None else p.detach()[slot].expand(2, *p.shape[1:]).to(hidden_states.dtype)
        for p in parameters
    )
    x, gates = hidden_states[token], weights[token, place][:, None]
    root, children = index.new_tensor([-1], dtype=torch.int32), index.new_tensor([[0, 1]], dtype=torch.int32)
    side, _ = _clans_descend(
        x, torch.zeros_like(token)[:, None], root, children, direction[None], threshold, 2
    )
    experts: tuple[Any, ...] = x, side, gates, gate_up, gate_up_bias, down, down_bias
    _, z = _experts_forward(*experts, *rest[7:-1], 0, True)
    wanted = [False, False, True, gate_up_bias is not None, True, down_bias is not None]
    for gradient in _experts_backward(grad_output[token].to(x.dtype), *experts, z, *rest[7:-1], 0, wanted):
        left, right = gradient.double().flatten(1)
        sums += torch.stack([left @ right, left @ left, right @ right])
    return sums


def _require_dimensions(name: str, tensor: Tensor | None, dimensions: int) -> None:
    """What the outputs' shapes need; the library checks the rest."""
    if tensor is None:
        raise InvalidArgumentError(f"{name}: None, want a tensor of {dimensions} dimensions")
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
#
# torch.library.register_autograd would do, at 70 microseconds a call: more than everything
# else together. These are the same few lines, written out. Options travel as one argument,
# since each costs; the tensors are the seven of the operator.


class _RouterFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Any) -> Any:
        outputs = _below_autograd("router_forward", (*tensors, *options))
        _, logits, index, counts = outputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(index, counts)
        hidden_states, projection, centroids, bias, _, temperature, _ = tensors
        ctx.save_for_backward(hidden_states, projection, centroids, bias, temperature, logits, index)
        ctx.options = options
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad_weights, grad_logits, _, _ = grad_outputs
        if grad_weights is None and grad_logits is None:
            return (None,) * 8
        _, *need = ctx.needs_input_grad
        wanted = [need[0], need[1], need[2], need[3], need[5]]
        arguments = (*ctx.saved_tensors, grad_weights, grad_logits, *ctx.options, wanted)
        gradients = _differentiable("router_backward", arguments)
        hidden_states, projection, centroids, bias, temperature = _spread(gradients, wanted)
        return None, hidden_states, projection, centroids, bias, None, temperature, None


class _ExpertsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Any) -> Any:
        outputs = _below_autograd("experts_forward", (*tensors, *options))
        pre_activation = outputs[1]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(pre_activation)
        ctx.save_for_backward(*tensors, pre_activation)
        ctx.options = options[:-1]
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad_output, _ = grad_outputs
        if grad_output is None:
            return (None,) * 8
        _, *need = ctx.needs_input_grad
        wanted = [need[0], need[2], need[3], need[4], need[5], need[6]]
        arguments = (grad_output, *ctx.saved_tensors, *ctx.options, wanted)
        gradients = _differentiable("experts_backward", arguments)
        hidden_states, weights, gate_up_proj, gate_up_bias, down_proj, down_bias = _spread(gradients, wanted)
        return None, hidden_states, None, weights, gate_up_proj, gate_up_bias, down_proj, down_bias


class _E4M3Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Any) -> Any:
        return _below_autograd("experts_forward_e4m3", (*tensors, *options))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise UnsupportedError(
            "gate_up_proj: dtype float8_e4m3fn has no backward pass, such weights are for inference; "
            "want them in float32 or bfloat16 to train, or torch.no_grad()"
        )


class _FirstDerivative(torch.autograd.Function):
    """A backward operator whose results are wanted with a graph: they carry one that refuses to be used."""

    @staticmethod
    def forward(ctx: Any, name: str, *arguments: Any) -> Any:
        return tuple(_below_autograd(name, arguments))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise UnsupportedError(
            "create_graph: genesis_moe computes first derivatives only, and a second one was asked for"
        )


def _operator(name: str) -> Any:
    return getattr(torch.ops.genesis_moe, name).default


def _below_autograd(name: str, arguments: tuple[Any, ...]) -> Any:
    """Runs an operator past its gradient, which is being recorded already or is not wanted."""
    if _is_plain(arguments):
        return _RUN[name](*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return _operator(name)(*arguments)


def _is_plain(arguments: tuple[Any, ...]) -> bool:
    """Whether nobody but us cares about a call, so that the dispatcher (10 microseconds) is not needed.

    Not plain: tensors of a subclass (fake, distributed), of a device that is not ours, or
    lazily negated, and calls under a dispatch mode (tracers, counters of FLOPs) or torch.jit.trace.
    """
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return False
    for argument in arguments:
        kind = type(argument)
        if kind is Tensor or kind is Parameter:
            if not (argument.is_cpu or argument.is_cuda) or argument.is_neg():
                return False
        elif isinstance(argument, Tensor):
            return False
    return True


def _recorded(tensors: tuple[Any, ...]) -> bool:
    if torch.is_grad_enabled():
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                return True
    return False


def _differentiable(name: str, arguments: tuple[Any, ...]) -> list[Tensor]:
    """Runs a backward operator; with create_graph its results may be differentiated again, and will refuse."""
    if _recorded(arguments):
        return list(_FirstDerivative.apply(name, *arguments))  # type: ignore[no-untyped-call]
    gradients: list[Tensor] = _below_autograd(name, arguments)
    return gradients


def _apply(
    name: str,
    function: type[torch.autograd.Function] | None,
    tensors: tuple[Any, ...],
    options: tuple[Any, ...],
    recorded: bool,
) -> Any:
    """Runs a forward operator with its gradient, if it has one, by the shortest way that this moment allows."""
    if torch.compiler.is_compiling():
        return _operator(name)(
            *tensors, *options
        )  # the compiler wants the operator; autograd comes by its kernel
    if recorded and function is not None:
        return function.apply(options, *tensors)
    return _below_autograd(name, (*tensors, *options))


# Kept for as long as the process: the operators go when it goes.
_operators = torch.library.Library("genesis_moe", "DEF")


_RUN: dict[str, Callable[..., Any]] = {}


def _register(
    name: str, run: Callable[..., Any], fake: Callable[..., Any], autograd: Callable[..., Any]
) -> None:
    # On CUDA no device guard is needed here: outputs and workspace name their device, and
    # the library makes the device's context current for the call and puts back the thread's.
    _RUN[name] = run
    _operators.define(name + _SCHEMAS[name])
    _operators.impl(name, run, "CPU")
    _operators.impl(name, run, "CUDA")
    _operators.impl(name, autograd, "Autograd")
    torch.library.register_fake(f"genesis_moe::{name}", fake, lib=_operators)


# What an operator does where gradients are recorded, for compilers and for callers of torch.ops.


def _forward_kernel(
    name: str, function: type[torch.autograd.Function], tensors: int = 7
) -> Callable[..., Any]:
    def autograd(*arguments: Any) -> Any:
        if _recorded(arguments):
            return function.apply(arguments[tensors:], *arguments[:tensors])
        return _below_autograd(name, arguments)

    return autograd


def _backward_kernel(name: str) -> Callable[..., Any]:
    return lambda *arguments: _differentiable(name, arguments)


_register(
    "router_forward", _router_forward, _router_outputs, _forward_kernel("router_forward", _RouterFunction)
)
_register("router_backward", _router_backward, _router_gradients, _backward_kernel("router_backward"))
_register(
    "experts_forward",
    _experts_forward,
    _experts_outputs,
    _forward_kernel("experts_forward", _ExpertsFunction),
)
_register("experts_backward", _experts_backward, _experts_gradients, _backward_kernel("experts_backward"))


def _plain_kernel(name: str) -> Callable[..., Any]:
    return lambda *arguments: _below_autograd(name, arguments)


_register(
    "experts_forward_e4m3",
    _experts_forward_e4m3,
    _experts_output,
    _forward_kernel("experts_forward_e4m3", _E4M3Function, tensors=9),
)
_register("experts_quantize", _experts_quantize, _quantized, _plain_kernel("experts_quantize"))
_register("clans_descend", _clans_descend, _clans_slots, _plain_kernel("clans_descend"))
_register("clans_observe", _clans_observe, lambda *_: None, _plain_kernel("clans_observe"))
_register("clans_probe", _clans_probe, _probe_sums, _plain_kernel("clans_probe"))
