"""A parameter of sharded experts, as the kernels take it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def local_experts(value: Any, gradient_scale: float, dtype: torch.dtype) -> Any:
    """This rank's part of a parameter of sharded experts; its gradient comes back scaled.

    dtype: of the tokens. FSDP2's mixed precision casts these, and the parameters that it has; float32 experts
    follow here.
    """
    local = _Scaled.apply(value.to_local(), gradient_scale)  # type: ignore[no-untyped-call]
    return local.to(dtype) if (local.dtype, dtype) == (torch.float32, torch.bfloat16) else local


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.scale, None
