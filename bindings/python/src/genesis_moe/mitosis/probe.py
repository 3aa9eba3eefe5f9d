"""The gradients of the two sides of an expert, compared while a backward passes by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genesis_moe import _torch_ops


class Probe(torch.autograd.Function):
    """Passes an output on; its backward also finds how the sides of a candidate pull at the weights.

    With g_l and g_r the gradients of the candidate's weights from its tokens left and right of
    the hyperplane, ``probe`` [3] gets (<g_l, g_r>, |g_l|^2, |g_r|^2) as its "gradient": so the sums
    over micro-batches, and torch.compile, are autograd's affair. Nothing is computed while there
    is no candidate. ``tensors``: the seven of the experts operator but the output, then candidate,
    direction and threshold.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, probe: Tensor, options: tuple[Any, ...], *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.options = options
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        sums = _torch_ops.probe(grad_output, ctx.saved_tensors, ctx.options)
        return (grad_output, sums, None, *[None] * len(ctx.saved_tensors))
