"""The default router is causal: what comes later, or beside, changes nothing of what came before."""

from __future__ import annotations

import copy

import pytest
import torch

import genesis_moe as gm

# Routing is exact. An expert's products may round otherwise when it has other rows beside a token's.
ROUNDING = 1e-6

LAYERS = {
    "hamiltonian": {},
    "budget": {"budget": 1.25},
    "mixtral": {"router": "mixtral"},
    "deepseek": {"router": "deepseek", "shared_experts": 1},
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> gm.MoE:
    """A layer with prices and a gap from some training."""
    layer = gm.MoE(32, 24, 8, top_k=2, **LAYERS[request.param])
    for i in range(20):
        layer(torch.randn(64, 32) + torch.ones(32))
        gm.step(layer, i / 20)
    return layer.eval()


def routed(layer: gm.MoE, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = layer(x)
    routing = layer.last_routing
    assert routing is not None
    return y, routing.index, routing.weights, routing.logits


def test_a_suffix_does_not_reach_back(layer: gm.MoE) -> None:
    x = torch.randn(1, 40, 32)
    other = x.clone()
    other[:, 25:] = 3 * torch.randn(1, 15, 32)
    before, after = routed(layer, x), routed(layer, other)
    assert torch.allclose(before[0][:, :25], after[0][:, :25], atol=ROUNDING)
    for a, b in zip(before[1:], after[1:], strict=True):
        assert torch.equal(a[:25], b[:25])
    assert not torch.equal(before[3][25:], after[3][25:])


def test_a_batch_mate_does_not_reach_across(layer: gm.MoE) -> None:
    x = torch.randn(2, 20, 32)
    other = x.clone()
    other[1] = torch.randn(20, 32)
    before, after = routed(layer, x), routed(layer, other)
    assert torch.allclose(before[0][0], after[0][0], atol=ROUNDING)
    for a, b in zip(before[1:], after[1:], strict=True):
        assert torch.equal(a[:20], b[:20])


def test_token_by_token_equals_all_at_once(layer: gm.MoE) -> None:
    x = torch.randn(30, 32)
    together = routed(layer, x)
    alone = [
        torch.cat(parts) for parts in zip(*(routed(layer, x[t : t + 1]) for t in range(30)), strict=True)
    ]
    assert torch.equal(together[1], alone[1])
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_checkpoint_reproduces_the_run() -> None:
    def train(layer: gm.MoE, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for i in steps:
            generator = torch.Generator().manual_seed(i)
            x = torch.randn(64, 32, generator=generator)
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
            gm.step(layer, i / 20)

    def fresh() -> tuple[gm.MoE, torch.optim.Optimizer]:
        layer = gm.MoE(32, 24, 8, budget=1.25)
        return layer, torch.optim.AdamW(layer.parameters(), lr=1e-2)

    layer, optimizer = fresh()
    train(layer, optimizer, range(10))
    saved = {k: v.clone() for k, v in layer.state_dict().items()}
    saved_optimizer = copy.deepcopy(optimizer.state_dict())
    train(layer, optimizer, range(10, 20))
    resumed, optimizer = fresh()
    resumed.load_state_dict(saved)
    optimizer.load_state_dict(saved_optimizer)
    train(resumed, optimizer, range(10, 20))
    for (name, a), b in zip(layer.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_batch_solver_is_not_causal() -> None:
    """Why it is not the default."""
    router = gm.Router(32, 8, solver="batch", entropy_temperature=0.02)
    x = torch.randn(60, 32)
    before = router(x).index
    x[30:] = torch.randn(30, 32) + 2 * torch.ones(32)
    assert not torch.equal(router(x).index[:30], before[:30])
