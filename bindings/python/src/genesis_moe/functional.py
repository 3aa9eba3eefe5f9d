"""Routing and experts as functions, of NumPy arrays or torch tensors.

All tensors of a call are of one kind; results are of that kind. Any strides are
accepted. dtypes: float32, bfloat16 (NumPy: of the package ml_dtypes) and float64;
with float64 everything floating is float64. torch results are differentiable (once)
in every floating argument but price and gap, and work under torch.compile.

Names in the shapes: T tokens, H hidden size, E experts, I intermediate size,
K slots per token, D router width, C clans, N inner nodes. Errors name the argument: InvalidArgumentError
(a ValueError) and UnsupportedError (a NotImplementedError), see genesis_moe.errors.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from genesis_moe import _abi
from genesis_moe._report import RouterReport
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.options import RouterOptions
from genesis_moe.routing import Routing

__all__ = [
    "HISTOGRAM_BINS",
    "RouterOptions",
    "RouterReport",
    "Routing",
    "descend",
    "experts",
    "observe",
    "quantize",
    "report",
    "route",
    "update",
]

HISTOGRAM_BINS = _abi.CLANS_HISTOGRAM_BINS
"""The bins of the histogram of :func:`observe`."""


def route(
    hidden_states: Any,
    centroids: Any,
    *,
    options: RouterOptions | None = None,
    projection: Any = None,
    bias: Any = None,
    price: Any = None,
    temperature: Any = None,
    gap: Any = None,
) -> Routing:
    """Chooses up to ``options.top_k`` experts for each token, and their weights.

    hidden_states: [T, H]. centroids: [E, D]; mixtral and deepseek: the gate's weight
    [E, H]. projection: [D, H], or None for the identity; hamiltonian. bias: [E] added to
    the logits (dot binding, mixtral). price: [E]; +inf closes an expert (hamiltonian), which
    leaves at least top_k open; deepseek: the correction bias for the choice. temperature: [1]
    T_g; hamiltonian; None: 1. gap: [1] >= 0; required when ``options.budgeted``. Parameters
    have the dtype of hidden_states or float32. options: None means ``RouterOptions()``.

    The weights are differentiable in hidden_states, centroids, projection, bias and
    temperature, and so are the logits; the choice is piecewise constant. A token that
    holds a NaN or infinity gets NaN weights, the others are untouched by it.
    """
    options = RouterOptions() if options is None else options
    backend = _backend("hidden_states", hidden_states)
    result: Routing = backend.route(
        hidden_states, centroids, options, projection, bias, price, temperature, gap
    )
    return result


def update(
    options: RouterOptions,
    counts: Any,
    num_tokens: int,
    price: Any,
    gap: Any = None,
    *,
    rate: float,
    step_limit: float = 0.02,
    budget: float = 0.0,
    gap_rate: float = 0.01,
) -> None:
    """Moves price [E] towards balance and gap [1] towards its budget, in place.

    counts: [E] int64, the hard counts of the whole global batch, and num_tokens the
    tokens that they come from; 0 tokens leave everything unchanged. price and gap:
    float32 or float64. ::

        hamiltonian  price_e += clip(rate * ((l_e/mean(l) - 1) - price_e/lambda), +-step_limit), recentred,
                     over the experts that are open: a price of +inf stays
                     gap     += gap_rate * (budget - sum(l)/num_tokens), kept >= 0; when budgeted
        deepseek     price_e += rate * sign(mean(l) - l_e)
        mixtral      nothing

    rate: 0.02 (hamiltonian) or 1e-3 (deepseek) are usual; 0 freezes. budget: experts per
    token wanted, between 1 and top_k; budgeted only.
    """
    numbers = num_tokens, rate, step_limit, budget, gap_rate
    _backend("counts", counts).update(options, counts, price, gap, numbers)


def report(
    options: RouterOptions,
    logits: Any,
    index: Any,
    price: Any = None,
    previous_index: Any = None,
) -> RouterReport:
    """The terms of the energy and the balance of one routing.

    logits: [T, E] and index: [T, K], both of :func:`route`. price: [E], the one used
    there. previous_index: [T, K] of an earlier routing of the same tokens, for churn.
    """
    result: RouterReport = _backend("logits", logits).report(options, logits, index, price, previous_index)
    return result


def descend(
    hidden_states: Any,
    clan_index: Any,
    root: Any,
    children: Any = None,
    direction: Any = None,
    threshold: Any = None,
    *,
    num_slots: int,
) -> tuple[Any, Any]:
    """The slot of each chosen clan, and each slot's tokens: (slot_index [T, K], slot_counts [num_slots] int64).

    A clan is what :func:`route` chooses; a slot is an expert's weights, what :func:`experts`
    indexes. A clan that has split is a binary tree: at an inner node a token x goes to child 1
    when <direction, x> >= threshold, else (a NaN too) to child 0.

    hidden_states: [T, H], what the layer is given. clan_index: [T, K] int32 or int64, the index
    of a routing; an index >= C is absent and gives num_slots. root: [C] int32 and children:
    [N, 2] int32: a number of 0 or more is a slot, one below 0 the inner node ~number.
    direction: [N, H] and threshold: [N], float32, or float64 when hidden_states are. Without
    children there are no inner nodes, and no direction or threshold is needed.

    Each inner node is below one clan or node at most; what free ones hold does not matter. On
    the CPU a slot or node that is not there, or a node reached twice, is refused by its place.
    """
    result: tuple[Any, Any] = _backend("hidden_states", hidden_states).descend(
        hidden_states, clan_index, root, children, direction, threshold, num_slots
    )
    return result


def observe(
    hidden_states: Any,
    slot_index: Any,
    *,
    num_slots: int,
    binding: Any = None,
    mean: Any = None,
    axis: Any = None,
    scale: Any = None,
    tokens: Any = None,
    skipped: Any = None,
    sum: Any = None,
    square: Any = None,
    power: Any = None,
    binding_sum: Any = None,
    histogram: Any = None,
) -> None:
    """Adds what each slot's tokens say about splitting it to sums, in place.

    With d = x - mean and a = axis of the token's slot, over the tokens x of the slot::

        tokens += 1    sum += x    square += |d|^2    power += <d, a> d    binding_sum += binding
        histogram[bin] += 1, where HISTOGRAM_BINS equal bins cover [-1, 1) of <d, a>/scale
                             and the outer ones take the rest

    power, scaled to length 1, is the next axis of a power iteration for the first principal
    direction. Batches and ranks are summed by adding. A token whose numbers are not finite adds
    to skipped only, and so does every token of a slot whose mean or axis is not.

    hidden_states: [T, H]. slot_index: [T, K] int32 or int64; an index >= num_slots is absent.
    binding: [T, K], u of the chosen, float32 or float64; for binding_sum. All others are
    float64. mean: [num_slots, H]; None: zeros. axis: [num_slots, H] of length 1; for power and
    histogram. scale: [num_slots], finite and > 0; for histogram. tokens, skipped, square,
    binding_sum: [num_slots]; sum, power: [num_slots, H]; histogram: [num_slots,
    HISTOGRAM_BINS]; None where not wanted. Nothing is differentiable.
    """
    inputs = binding, mean, axis, scale
    sums = tokens, skipped, sum, square, power, binding_sum, histogram
    _backend("hidden_states", hidden_states).observe(hidden_states, slot_index, inputs, sums, num_slots)


def experts(
    hidden_states: Any,
    top_k_index: Any,
    top_k_weights: Any,
    gate_up_proj: Any,
    down_proj: Any,
    *,
    gate_up_bias: Any = None,
    down_bias: Any = None,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.702,
    limit: float = 7.0,
    layer: int = 0,
    gate_up_scale: Any = None,
    down_scale: Any = None,
) -> Any:
    """y_t = sum over slots k of w_tk (down_proj[e] act(gate_up_proj[e] x_t + b) + b'), e = index_tk: [T, H].

    hidden_states: [T, H]. top_k_index: [T, K] int32 or int64; an index >= E is absent and
    skipped, a token with none gets zeros. top_k_weights: [T, K] floating. gate_up_proj:
    [E, 2I, H], or [E, I, H] when not gated. down_proj: [E, H, I]. gate_up_bias: [E, 2I] or
    [E, I]. down_bias: [E, H]. Weights kept the other way round ([E, H, 2I]) are passed as
    transposed views. All floating tensors but top_k_weights share one dtype, which the
    result has.

    activation: "silu", "gelu", "gelu_tanh", "relu", "relu_squared", "quick_gelu",
    "sigmoid", "tanh" or "identity": act(gate) * up when gated; "clipped_swiglu" (gpt-oss)
    is (clamp(up) + 1) g sigmoid(alpha g) with g = min(gate, limit), and "clipped_silu"
    (DeepSeek-V4) clamp(up) g sigmoid(g). interleaved: rows of
    gate_up_proj alternate gate and up, instead of all gate rows before all up rows. layer: above
    0, the work of each expert is also counted under that number (genesis_moe.energy.expert_work).

    For inference both projections may be float8_e4m3fn (NumPy: uint8, taken for its bits, or ml_dtypes'
    type of that name), with gate_up_scale [E, ceil(2I/128), ceil(H/128)] and down_scale
    [E, ceil(H/128), ceil(I/128)] float32: a weight is its number times the scale of its block of
    128 x 128. Rows of hidden_states, and of what act gives, are then rounded to e4m3 as well, with a scale
    for each 128 columns; see gmoe_experts_forward. :func:`quantize` makes such weights. They have no gradient, and
    whoever asks for one through them gets UnsupportedError from backward.

    Under torch.autocast everything but the routing weights and weights in float8_e4m3fn is cast to autocast's dtype.
    """
    return _backend("hidden_states", hidden_states).experts(
        hidden_states,
        top_k_index,
        top_k_weights,
        gate_up_proj,
        down_proj,
        gate_up_bias,
        down_bias,
        (activation, gated, interleaved, alpha, limit, layer),
        gate_up_scale,
        down_scale,
    )


def quantize(weight: Any) -> tuple[Any, Any]:
    """Makes a weight [E, R, C] float8_e4m3fn: (quantized [E, R, C], scale [E, ceil(R/128), ceil(C/128)] float32).

    The scale of a block of 128 x 128 is its largest magnitude / 448, or 1 where that is 0, and a number of it
    the e4m3 nearest to weight / scale, ties to even. weight: float32, bfloat16 or float64, any
    strides; a weight that is not finite is refused by its place on the CPU. NumPy gets uint8, the numbers' bits.
    Not differentiable.
    """
    result: tuple[Any, Any] = _backend("weight", weight).quantize(weight)
    return result


def _backend(argument: str, value: Any) -> Any:
    """The module that does the work for this kind of tensor."""
    if isinstance(value, np.ndarray):
        from genesis_moe import _numpy_ops

        return _numpy_ops
    if "torch" in sys.modules:
        import torch

        if isinstance(value, torch.Tensor):
            from genesis_moe import _torch_ops

            return _torch_ops
    raise InvalidArgumentError(f"{argument}: {type(value).__name__}, want a numpy.ndarray or a torch.Tensor")
