"""First derivatives against finite differences and the plain reference; second ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import genesis_moe as gm
from cases import ROUTERS, expected_routing, experts_case, router_arguments
from genesis_moe import RouterOptions, functional
from genesis_moe.options import ACTIVATIONS


def router_leaves(given: dict[str, Any]) -> list[str]:
    names = ("hidden_states", "centroids", "projection", "bias", "temperature")
    return [name for name in names if given[name] is not None]


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("width", [None, 5])
def test_router_gradcheck(name: str, width: int | None) -> None:
    options = ROUTERS[name]
    given = router_arguments(options, 6, 7, 8, torch.float64, width)
    margin = expected_routing(options, given)[3]
    assert margin.min() > 1e-4, "a tie would make the finite difference jump"
    names = router_leaves(given)

    def gates(*values: Tensor) -> tuple[Tensor, Tensor]:
        routing = functional.route(options=options, **{**given, **dict(zip(names, values, strict=True))})
        return routing.weights, routing.logits

    inputs = [given[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(gates, inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "gated"),
    [
        (name, gated)
        for name in ACTIVATIONS
        for gated in (True, False)
        if gated or not name.startswith("clipped")
    ],
)
def test_experts_gradcheck(activation: str, gated: bool) -> None:
    case = experts_case(5, 6, 4, 3, 2, bias=True, sentinels=True, activation=activation, gated=gated)
    names = ["gate_up_bias", "down_bias"]
    flags = {k: v for k, v in case.options.items() if k not in names}

    def run(
        x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor, down_bias: Tensor
    ) -> Tensor:
        return functional.experts(
            x, case.index, weights, gate_up, down, gate_up_bias=gate_up_bias, down_bias=down_bias, **flags
        )

    inputs = [case.x, case.weights, case.gate_up_proj, case.down_proj, *(case.options[n] for n in names)]
    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in inputs], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_experts_gradients_in_low_precision(dtype: torch.dtype) -> None:
    case = experts_case(40, 24, 16, 5, 2, dtype, bias=True, sentinels=True)
    leaves = [case.x, case.weights, case.gate_up_proj, case.down_proj, *case.options.values()]
    direction = torch.randn(40, 24).to(dtype)
    for leaf in leaves:
        leaf.requires_grad_()
    functional.experts(*case.tensors(), **case.options).backward(direction)
    got = [leaf.grad for leaf in leaves]
    assert [g.dtype for g in got if g is not None] == [leaf.dtype for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    case.reference().backward(direction.double())
    for ours, leaf in zip(got, leaves, strict=True):
        assert ours is not None and leaf.grad is not None
        error = (ours.double() - leaf.grad.double()).norm() / leaf.grad.double().norm()
        assert error < (1e-5 if dtype == torch.float32 else 2e-2)


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every subset of leaves gives the same numbers, and asks the library for no others."""
    from genesis_moe import _torch_ops

    asked: list[list[bool]] = []
    run = _torch_ops._RUN["experts_backward"]
    monkeypatch.setitem(
        _torch_ops._RUN, "experts_backward", lambda *a: (asked.append([bool(w) for w in a[-1]]), run(*a))[1]
    )
    case = experts_case(6, 8, 5, 3, 2)
    leaves = [case.x, case.weights, case.gate_up_proj, case.down_proj]
    everything: list[Tensor] = []
    for subset in ([True] * 4, *([i == j for i in range(4)] for j in range(4))):
        for leaf, wanted in zip(leaves, subset, strict=True):
            leaf.requires_grad_(wanted)
            leaf.grad = None
        functional.experts(*case.tensors()).sum().backward()
        everything = everything or [leaf.grad for leaf in leaves if leaf.grad is not None]
        for leaf, wanted, full in zip(leaves, subset, everything, strict=True):
            assert (leaf.grad is not None) == wanted
            assert leaf.grad is None or torch.equal(leaf.grad, full)
        assert asked[-1] == [subset[0], subset[1], subset[2], False, subset[3], False]


def test_nothing_is_kept_without_a_gradient() -> None:
    case = experts_case(6, 8, 5, 3, 2, torch.float32)
    case.gate_up_proj.requires_grad_()
    with torch.no_grad():
        assert functional.experts(*case.tensors()).grad_fn is None
    with torch.inference_mode():
        functional.experts(*case.tensors())
    y = functional.experts(*case.tensors())
    kept = y.grad_fn.saved_tensors
    extra = [
        t
        for t in kept
        if t is not None and all(t is not s and t.data_ptr() != s.data_ptr() for s in case.tensors())
    ]
    assert [list(t.shape) for t in extra] == [[12, 10]]  # z [T*K, 2I], nothing else


@pytest.mark.parametrize("through", ["experts", "router"])
def test_second_derivatives_are_refused(through: str) -> None:
    if through == "experts":
        case = experts_case(4, 6, 4, 3, 2)
        x = case.x.requires_grad_()
        y = functional.experts(*case.tensors()).square().sum()
    else:
        given = router_arguments(RouterOptions(), 4, 6, 5, torch.float64)
        x = given["hidden_states"].requires_grad_()
        y = functional.route(options=RouterOptions(), **given).weights.square().sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(gm.UnsupportedError, match="create_graph"):
        first.sum().backward()


def test_integer_outputs_carry_no_gradient() -> None:
    given = router_arguments(RouterOptions(), 4, 6, 5, torch.float64)
    given["hidden_states"].requires_grad_()
    routing = functional.route(options=RouterOptions(), **given)
    assert routing.weights.requires_grad and routing.logits.requires_grad
    assert not routing.index.requires_grad and not routing.counts.requires_grad


def test_logits_alone_can_be_differentiated() -> None:
    """An auxiliary loss uses the logits and not the weights."""
    given = router_arguments(RouterOptions(mode="mixtral"), 4, 6, 5, torch.float64)
    x = given["hidden_states"].requires_grad_()
    functional.route(options=RouterOptions(mode="mixtral"), **given).logits.sum().backward()
    assert torch.allclose(x.grad, given["centroids"].sum(0).expand(4, 6))


def test_broadcast_gradients_pass_through() -> None:
    """sum().backward() hands down a gradient of stride 0."""
    case = experts_case(6, 8, 5, 3, 2)
    case.x.requires_grad_()
    functional.experts(*case.tensors()).sum().backward()
    by_sum, case.x.grad = case.x.grad, None
    functional.experts(*case.tensors()).backward(torch.ones(6, 8, dtype=torch.float64))
    assert torch.equal(by_sum, case.x.grad)


def test_a_change_between_forward_and_backward_is_noticed() -> None:
    case = experts_case(6, 8, 5, 3, 2)
    case.x.requires_grad_()
    y = functional.experts(*case.tensors())
    case.gate_up_proj.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
