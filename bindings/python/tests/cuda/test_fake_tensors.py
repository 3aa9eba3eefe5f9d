"""What can be said of CUDA tensors without a GPU: shapes, dtypes and devices under torch's fake tensors.

Autograd's engine wants a real device, so the backward operators are called as it would call them.
"""

from __future__ import annotations

import torch
from torch._subclasses import FakeTensorMode

from genesis_moe import RouterOptions, functional
from genesis_moe.options import experts_scalars

OPS = torch.ops.genesis_moe


def test_experts_on_fake_cuda_tensors() -> None:
    with FakeTensorMode():
        x = torch.empty(5, 8, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        index = torch.empty(5, 2, device="cuda", dtype=torch.int64)
        weights = torch.empty(5, 2, device="cuda")
        up = torch.empty(3, 12, 8, device="cuda", dtype=torch.bfloat16)
        down = torch.empty(3, 8, 6, device="cuda", dtype=torch.bfloat16)
        y = functional.experts(x, index, weights, up, down)
        assert y.shape == (5, 8) and y.dtype == torch.bfloat16 and y.device.type == "cuda" and y.requires_grad
        scalars = experts_scalars("silu", True, False, 1.702, 7.0)
        with torch.no_grad():
            inputs = (x, index, weights, up, None, down, None)
            _, z = OPS.experts_forward.default(*inputs, *scalars, True)
            wanted = [True, True, True, False, True, False]
            gradients = OPS.experts_backward.default(y, *inputs, z, *scalars, wanted)
    assert z.shape == (10, 12) and z.device.type == "cuda"
    for gradient, like in zip(gradients, (x, weights, up, down), strict=True):
        assert (gradient.shape, gradient.dtype, gradient.device) == (like.shape, like.dtype, like.device)


def test_router_on_fake_cuda_tensors() -> None:
    with FakeTensorMode(), torch.no_grad():
        x, centroids = torch.empty(5, 8, device="cuda"), torch.empty(4, 8, device="cuda")
        routing = functional.route(x, centroids, options=RouterOptions(mode="mixtral"))
    assert all(t.device.type == "cuda" for t in routing)
    assert routing.index.shape == (5, 2) and routing.logits.shape == (5, 4) and routing.counts.shape == (4,)
