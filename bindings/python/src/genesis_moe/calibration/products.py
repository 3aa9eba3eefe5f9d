"""Matrix products of the statistics: in bfloat16 where the processor has it in hardware and the work is large.

Rounding the factors to 8 bits moves an entry of a Gram matrix by far less than the damping of the
least squares does, and the products are most of what a calibration costs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 26  # multiplications from which on rounding the factors is worth it
LARGE_STATES = 1 << 19  # elements of hidden states likewise
CHUNK = 2048  # tokens whose products are summed in float32


@functools.cache
def hardware() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, k] times b [k, n], in the dtype of a."""
    work = a.shape[0] * a.shape[1] * b.shape[1]
    if a.dtype != torch.float32 or work < LARGE or not hardware():
        return a @ b
    return (a.bfloat16() @ b.bfloat16()).float()


def moment(a: Tensor, weight: Tensor, b: Tensor) -> Tensor:
    """sum_t weight_t a_t b_t^T [m, n] for a [T, m], weight [T] and b [T, n]."""
    total = a.new_zeros(a.shape[1], b.shape[1])
    for first in range(0, a.shape[0], CHUNK):
        rows = slice(first, first + CHUNK)
        total += product((a[rows] * weight[rows, None]).T, b[rows])
    return total


def reduced_precision(elements: int) -> Any:
    """The context for running float32 layers on so many elements of states: bfloat16 where that is faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=elements >= LARGE_STATES and hardware())
