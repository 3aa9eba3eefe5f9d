"""The functional API on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from genesis_moe import _abi, _call, _report
from genesis_moe._engine import engine
from genesis_moe._report import RouterReport
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.options import (
    RouterOptions,
    blocks,
    clans_struct,
    experts_scalars,
    experts_struct,
    router_struct,
)
from genesis_moe.routing import Routing

# DLPack's type code and bits. bfloat16 is known by name: it comes from ml_dtypes,
# which need not be installed.
_DTYPES = {"float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16), "int32": (0, 32), "int64": (0, 64)}
# float8_e4m3fn is ml_dtypes' too; without that package its bits are uint8.
_E4M3 = 10, 8
_WEIGHTS = "gate_up_proj", "down_proj", "quantized"


def view_of(name: str, array: Any) -> _call.View:
    if not isinstance(array, np.ndarray):
        raise InvalidArgumentError(
            f"{name}: {type(array).__name__}, want a numpy.ndarray as the other arguments"
        )
    dtype = array.dtype
    if name in _WEIGHTS and dtype.name in ("float8_e4m3fn", "uint8"):
        return (array.ctypes.data, _abi.CPU, 0, *_E4M3, array.shape, array.strides)
    if dtype.name not in _DTYPES or not dtype.isnative:
        raise InvalidArgumentError(
            f"{name}: dtype {dtype}, want one of {', '.join(_DTYPES)} in native byte order"
        )
    size = dtype.itemsize
    if any(stride % size for stride in array.strides):
        raise InvalidArgumentError(
            f"{name}: strides of {array.strides} bytes, want multiples of the {size} bytes of an element"
        )
    strides = tuple(stride // size for stride in array.strides)
    return (array.ctypes.data, _abi.CPU, 0, *_DTYPES[dtype.name], array.shape, strides)


def _engine() -> int:
    return engine(_abi.CPU, 0, 0)


def _accumulator(array: np.ndarray) -> np.dtype[Any]:
    """The dtype of weights and logits beside hidden states of this array's dtype."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def _size(name: str, array: np.ndarray[Any, Any], dimensions: int, dimension: int) -> int:
    """A size that an output needs; the library checks the rest."""
    if not isinstance(array, np.ndarray) or array.ndim != dimensions:
        found = f"shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"{name}: {found}, want a numpy.ndarray of {dimensions} dimensions")
    return int(array.shape[dimension])


def route(
    hidden_states: np.ndarray,
    centroids: np.ndarray,
    options: RouterOptions,
    projection: np.ndarray | None,
    bias: np.ndarray | None,
    price: np.ndarray | None,
    temperature: np.ndarray | None,
    gap: np.ndarray | None,
) -> Routing:
    tokens = _size("hidden_states", hidden_states, 2, 0)
    num_experts = _size("centroids", centroids, 2, 0)
    slots = max(options.top_k, 0)
    dtype = _accumulator(hidden_states)
    routing = Routing(
        np.empty((tokens, slots), np.int64),
        np.empty((tokens, slots), dtype),
        np.empty((tokens, num_experts), dtype),
        np.empty(num_experts, np.int64),
    )
    inputs = hidden_states, projection, centroids, bias, price, temperature, gap
    _call.router_forward(_engine(), router_struct(*options.scalars()), (*inputs, *routing, None), view_of)
    return routing


def update(
    options: RouterOptions,
    counts: np.ndarray,
    price: np.ndarray | None,
    gap: np.ndarray | None,
    numbers: tuple[int, float, float, float, float],
) -> None:
    _require_writeable("price gap", (price, gap))
    _call.router_update(_engine(), router_struct(*options.scalars()), (counts, *numbers, price, gap), view_of)


def report(
    options: RouterOptions,
    logits: np.ndarray,
    index: np.ndarray,
    price: np.ndarray | None,
    previous_index: np.ndarray | None,
) -> RouterReport:
    return _report.compute(_engine(), options, (logits, index, price, previous_index), view_of)


def descend(
    hidden_states: np.ndarray,
    clan_index: np.ndarray,
    root: np.ndarray,
    children: np.ndarray | None,
    direction: np.ndarray | None,
    threshold: np.ndarray | None,
    num_slots: int,
) -> tuple[np.ndarray, np.ndarray]:
    _size("clan_index", clan_index, 2, 0)
    slot_index, slot_counts = np.empty_like(clan_index), np.empty(max(num_slots, 0), np.int64)
    tensors = hidden_states, clan_index, root, children, direction, threshold, slot_index, slot_counts
    _call.clans_descend(_engine(), clans_struct(num_slots), tensors, view_of)
    return slot_index, slot_counts


def observe(
    hidden_states: np.ndarray,
    slot_index: np.ndarray,
    inputs: tuple[np.ndarray | None, ...],
    sums: tuple[np.ndarray | None, ...],
    num_slots: int,
) -> None:
    _require_writeable("tokens skipped sum square power binding_sum histogram", sums)
    tensors = hidden_states, slot_index, *inputs, *sums
    _call.clans_observe(_engine(), clans_struct(num_slots), tensors, view_of)


def _require_writeable(names: str, arrays: tuple[Any, ...]) -> None:
    for name, array in zip(names.split(), arrays, strict=True):
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise InvalidArgumentError(f"{name}: is read-only, want an array to update in place")


def experts(
    hidden_states: np.ndarray,
    top_k_index: np.ndarray,
    top_k_weights: np.ndarray,
    gate_up_proj: np.ndarray,
    down_proj: np.ndarray,
    gate_up_bias: np.ndarray | None,
    down_bias: np.ndarray | None,
    options: tuple[str, bool, bool, float, float, int],
    gate_up_scale: np.ndarray | None,
    down_scale: np.ndarray | None,
) -> np.ndarray:
    struct = experts_struct(*experts_scalars(*options))
    _size("hidden_states", hidden_states, 2, 0)
    output = np.empty(hidden_states.shape, hidden_states.dtype)
    if isinstance(top_k_weights, np.ndarray):
        top_k_weights = top_k_weights.astype(_accumulator(hidden_states), copy=False)
    tensors = (
        hidden_states,
        top_k_index,
        top_k_weights,
        gate_up_proj,
        gate_up_bias,
        down_proj,
        down_bias,
        output,
        None,
        gate_up_scale,
        down_scale,
    )
    _call.experts_forward(_engine(), struct, tensors, view_of)
    return output


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _size("weight", weight, 3, 0)
    experts, rows, columns = weight.shape
    quantized = np.empty(weight.shape, np.uint8)
    scale = np.empty((experts, blocks(rows), blocks(columns)), np.float32)
    _call.experts_quantize(_engine(), None, (weight, quantized, scale), view_of)
    return quantized, scale
