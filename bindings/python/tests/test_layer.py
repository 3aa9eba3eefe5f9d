"""The modules Router and MoE: parameters, state, copies, precision, training modes."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import genesis_moe as gm
import reference

LAYERS: dict[str, dict[str, Any]] = {
    "hamiltonian": {},
    "budget": {"budget": 1.25},
    "dot": {"binding": "dot", "router_dim": None, "bias": True},
    "mixtral": {"router": "mixtral"},
    "deepseek": {"router": "deepseek", "shared_experts": 2, "num_groups": 2, "scaling_factor": 2.5},
}


def layer_of(name: str, dtype: torch.dtype = torch.float32) -> gm.MoE:
    return gm.MoE(12, 10, 6, top_k=2, dtype=dtype, **LAYERS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_the_equations(name: str) -> None:
    layer = layer_of(name, torch.float64)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    y = layer(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    router, flat = layer.router, x.reshape(10, 12)
    index, weights, _, _ = reference.route(
        flat,
        router.centroids,
        router.options,
        router.projection,
        router.bias,
        router.price,
        router.temperature,
        router.gap,
    )
    want = reference.experts(
        flat,
        index,
        weights,
        layer.gate_up_proj,
        layer.down_proj,
        layer.gate_up_proj_bias,
        layer.down_proj_bias,
    )
    if layer.shared_experts:
        everyone = torch.arange(2).expand(10, 2)
        want = want + reference.experts(
            flat, everyone, torch.ones(10, 2), layer.shared_gate_up_proj, layer.shared_down_proj
        )
    assert torch.allclose(y.reshape(10, 12), want, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_learns(name: str) -> None:
    layer = layer_of(name)
    layer(torch.randn(64, 12)).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", LAYERS)
def test_state_survives_saving_copying_and_pickling(name: str) -> None:
    layer, x = layer_of(name), torch.randn(7, 12)
    for _ in range(3):
        layer(x).sum().backward()
        gm.step(layer)
    layer(x)
    want = layer.eval()(x)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    other = layer_of(name).eval()
    other.load_state_dict(torch.load(saved))
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), want)
    state = layer.state_dict()
    assert ("router.price" in state) == (name != "mixtral")
    assert ("router.gap" in state) == (name == "budget")
    assert not any("counts" in key or "tokens" in key for key in state)


def test_low_precision_models_keep_precise_prices() -> None:
    layer = layer_of("budget")
    layer.router.price.copy_(torch.linspace(-0.1234567, 0.1234567, 6))
    before = layer.router.price.clone()
    layer = layer.bfloat16()
    assert layer.gate_up_proj.dtype == layer.router.centroids.dtype == torch.bfloat16
    assert layer.router.price.dtype == layer.router.gap.dtype == torch.float32
    assert torch.equal(layer.router.price, before)
    y = layer(torch.randn(4, 12, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    gm.step(layer)
    assert layer.double().router.price.dtype == torch.float64
    assert layer(torch.randn(4, 12, dtype=torch.float64)).dtype == torch.float64


def test_meta_device_and_to_empty() -> None:
    layer = gm.MoE(12, 10, 6, budget=1.5, device="meta")
    layer = layer.to_empty(device="cpu")
    layer.router.reset_parameters()
    layer.reset_parameters()
    assert layer(torch.randn(3, 12)).isfinite().all()
    assert layer.router.price.abs().sum() == 0 and layer.router.gap.item() == pytest.approx(0.25)
    assert layer.router.counts.sum() > 0


def test_initial_values() -> None:
    router = gm.Router(256, 16)
    assert torch.allclose(router.centroids.norm(dim=1), torch.ones(16))
    assert router.projection.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert router.temperature.item() == pytest.approx(0.3)
    layer = gm.MoE(256, 64, 4, router="mixtral")
    assert layer.gate_up_proj.abs().max() <= 1 / 16 and layer.down_proj.abs().max() <= 1 / 8
    assert layer.router.centroids.abs().max() <= 1 / 16


def test_counts_gather_while_training_until_the_step() -> None:
    layer = layer_of("hamiltonian")
    x = torch.randn(9, 12)
    layer.eval()(x)
    assert layer.router.counts.sum() == 0
    layer.train()(x)
    layer(x)
    assert layer.router.counts.sum() == 36 and layer.router.tokens == 18
    gm.step(layer)
    assert layer.router.counts.sum() == 0 and layer.router.tokens == 0
    price = layer.router.price.clone()
    assert price.abs().sum() > 0
    layer.eval()(x)
    gm.step(layer)
    assert torch.equal(layer.router.price, price)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """Forward runs twice, so twice the tokens are counted: price and gap see ratios only."""
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        layer = layer_of("budget")
        x = torch.randn(9, 12, requires_grad=True)
        y = checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
        y.square().sum().backward()
        gm.step(layer, 0.25)
        results.append([x.grad, layer.router.price, layer.router.gap, *(p.grad for p in layer.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


def test_gradient_accumulation_is_one_large_batch() -> None:
    results = []
    for parts in (1, 3):
        torch.manual_seed(4)
        layer = layer_of("budget", torch.float64)
        x = torch.randn(12, 12, dtype=torch.float64)
        for part in x.chunk(parts):
            layer(part).square().sum().backward()
        gm.step(layer)
        results.append([layer.router.price, layer.router.gap, *(p.grad for p in layer.parameters())])
    for whole, accumulated in zip(*results, strict=True):
        assert torch.allclose(whole, accumulated, atol=1e-10)


@pytest.mark.parametrize("frozen", ["router", "experts", "input"])
def test_any_part_may_be_frozen(frozen: str) -> None:
    layer = layer_of("hamiltonian")
    x = torch.randn(9, 12, requires_grad=frozen != "input")
    if frozen == "router":
        layer.router.requires_grad_(False)
    if frozen == "experts":
        layer.gate_up_proj.requires_grad_(False)
        layer.down_proj.requires_grad_(False)
    layer(x).square().sum().backward()
    for p in (x, *layer.parameters()):
        assert (p.grad is not None) == p.requires_grad


def test_parametrized_weights() -> None:
    layer = layer_of("hamiltonian")

    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    x = torch.randn(5, 12)
    want = layer(x)
    with torch.no_grad():
        layer.down_proj.mul_(2)
    nn.utils.parametrize.register_parametrization(layer, "down_proj", Halved())
    assert torch.allclose(layer(x), want, atol=1e-6)
    layer(x).sum().backward()
    assert layer.parametrizations.down_proj.original.grad is not None


def test_a_router_of_your_own() -> None:
    router = gm.Router(12, 6, top_k=3, mode="mixtral")
    layer = gm.MoE(12, 10, 6, router=router)
    layer(torch.randn(4, 12))
    assert layer.router is router and layer.last_routing.index.shape == (4, 3)


def test_auxiliary_loss_is_top_k_when_balanced() -> None:
    layer = gm.MoE(6, 4, 6, router="mixtral")
    with torch.no_grad():
        layer.router.centroids.copy_(1e-3 * torch.eye(6))
    layer(torch.eye(6) + 0.5 * torch.eye(6).roll(1, 0))
    assert layer.auxiliary_loss().item() == pytest.approx(2.0, rel=1e-3)
    layer.auxiliary_loss().backward()
    assert layer.router.centroids.grad is not None
    with pytest.raises(RuntimeError, match="no forward"):
        gm.MoE(6, 4, 6).auxiliary_loss()


def test_auxiliary_loss_is_that_of_transformers() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    layer = gm.MoE(12, 10, 6, router="mixtral")
    layer(torch.randn(40, 12))
    theirs = load_balancing_loss_func((layer.last_routing.logits,), 6, 2)
    assert layer.auxiliary_loss().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_autocast_routes_as_without() -> None:
    """The router computes in the precision of its input; only the experts' products become bfloat16."""
    layer, x = layer_of("hamiltonian"), torch.randn(9, 12)
    plain = layer(x)
    routing = layer.last_routing
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert torch.equal(layer.last_routing.index, routing.index)
    assert torch.equal(layer.last_routing.weights, routing.weights)
    assert y.dtype == torch.bfloat16 and torch.allclose(y.float(), plain, atol=0.05)


def test_shapes_of_input() -> None:
    layer = layer_of("hamiltonian")
    for shape in ((12,), (0, 12), (2, 0, 12), (2, 3, 4, 12)):
        y = layer(torch.randn(shape, requires_grad=True))
        assert y.shape == shape
        y.sum().backward()
    x = torch.randn(12, 5, requires_grad=True)
    assert torch.allclose(layer(x.T), layer(x.T.contiguous()))


def test_repr() -> None:
    text = repr(layer_of("budget"))
    assert "hidden_size=12, intermediate_size=10, num_experts=6" in text
    assert "mode='hamiltonian', binding='cosine', router_dim=64, budget=1.25" in text
    assert "num_groups=2" in repr(layer_of("deepseek"))


def test_report_names_each_router_and_remembers_the_price_used() -> None:
    model = nn.Sequential(layer_of("budget"), layer_of("mixtral"))
    assert gm.report(model) == {}
    model(torch.randn(30, 12))
    before = gm.report(model)
    assert list(before) == ["0.router", "1.router"]
    assert 1 <= before["0.router"].mean_active <= 2 and before["1.router"].mean_active == 2
    gm.step(model)
    assert gm.report(model) == before
