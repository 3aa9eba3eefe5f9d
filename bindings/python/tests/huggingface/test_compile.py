"""Injected models under torch.compile, in one graph."""

from __future__ import annotations

import torch

import genesis_moe as gm
from huggingface.tiny_models import build, exact_router, loss_and_gradients, relative_difference, routers_of


def test_forward_and_backward_in_one_graph(case: str, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case, use_cache=False), exact_router(case)).train()
    logits, gradients = loss_and_gradients(model, input_ids)
    counts = [router.counts.clone() for router in routers_of(model)]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    output = compiled(input_ids, labels=input_ids)
    output.loss.backward()
    assert relative_difference(output.logits, logits) < 1e-5
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert relative_difference(parameter.grad, gradients[name]) < 1e-4, name
    for router, once in zip(routers_of(model), counts, strict=True):
        assert torch.equal(router.counts, 2 * once)
