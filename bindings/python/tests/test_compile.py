"""The operators keep the dispatcher's rules, and torch.compile sees through nothing it should not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import genesis_moe as gm
from cases import ROUTERS, experts_case, router_arguments
from genesis_moe import functional
from genesis_moe.options import experts_scalars

OPS = torch.ops.genesis_moe


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    warnings.simplefilter("ignore")


def experts_arguments(keep: bool, **options: Any) -> tuple[Any, ...]:
    case = experts_case(5, 8, 6, 3, 2, torch.float32, bias=True, **options)
    functional.experts(*case.tensors())  # registers the operators
    biases = case.options["gate_up_bias"], case.options["down_bias"]
    return (
        *case.tensors()[:4],
        biases[0],
        case.down_proj,
        biases[1],
        *experts_scalars("silu", True, False, 1.702, 7.0),
        keep,
    )


def leaf(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.clone().requires_grad_() if floating else value


def test_opcheck_experts() -> None:
    forward = experts_arguments(keep=True)
    torch.library.opcheck(OPS.experts_forward.default, tuple(map(leaf, forward)))
    torch.library.opcheck(OPS.experts_forward.default, experts_arguments(keep=False))
    _, z = OPS.experts_forward.default(*forward)
    backward = (torch.randn(5, 8), *forward[:7], z, *forward[7:-1])
    for wanted in ([True] * 6, [False, True, False, False, True, False]):
        torch.library.opcheck(OPS.experts_backward.default, (*backward, wanted))


@pytest.mark.parametrize("name", ROUTERS)
def test_opcheck_router(name: str) -> None:
    options = ROUTERS[name]
    given = router_arguments(options, 6, 8, 8, torch.float32, width=4)
    order = ("hidden_states", "projection", "centroids", "bias", "price", "temperature", "gap")
    tensors = tuple(given[key] for key in order)
    forward = (*tensors, *options.scalars())
    differentiable = tuple(
        leaf(t) if key not in ("price", "gap") else t for key, t in zip(order, tensors, strict=True)
    )
    torch.library.opcheck(OPS.router_forward.default, (*differentiable, *options.scalars()))
    weights, logits, index, _ = OPS.router_forward.default(*forward)
    backward = (*tensors[:4], tensors[5], logits, index, torch.randn_like(weights), None, *options.scalars())
    wanted = [t is not None for t in (*tensors[:4], tensors[5])]
    torch.library.opcheck(OPS.router_backward.default, (*backward, wanted))


LAYERS: dict[str, dict[str, Any]] = {
    "hamiltonian": {},
    "budget": {"budget": 1.25},
    "mixtral": {"router": "mixtral", "bias": True},
    "deepseek": {"router": "deepseek", "shared_experts": 1},
}


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layer_equals_eager(name: str) -> None:
    layer = gm.MoE(16, 24, 8, top_k=2, **LAYERS[name])
    x = torch.randn(2, 5, 16)
    want = layer(x)
    want.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    counts, tokens = layer.router.counts.clone(), layer.router.tokens.clone()
    layer.zero_grad()
    layer.router.counts.zero_()
    layer.router.tokens.zero_()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = compiled(x)
    got.square().sum().backward()
    assert torch.allclose(got, want, atol=1e-6)
    assert {n for n, p in layer.named_parameters() if p.grad is not None} == set(gradients)
    for n, p in layer.named_parameters():
        if n in gradients:
            assert torch.allclose(p.grad, gradients[n], atol=1e-5), n
    assert torch.equal(layer.router.counts, counts) and torch.equal(layer.router.tokens, tokens)
    assert layer.last_routing is not None and layer.last_routing.index.shape == (10, 2)


def test_changing_lengths_compile_once() -> None:
    model = torch.nn.Sequential(torch.nn.LayerNorm(16), gm.MoE(16, 24, 4, budget=1.5), torch.nn.Linear(16, 3))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (7, 12, 30):
            x = torch.randn(length, 16)
            want, got = model(x).sum(), compiled(x).sum()
            assert torch.allclose(got, want, atol=1e-5)
            pairs = [torch.autograd.grad(y, list(model.parameters())) for y in (want, got)]
            for a, b in zip(*pairs, strict=True):
                assert torch.allclose(a, b, atol=1e-4)


def test_inductor() -> None:
    """In eval nothing but our operators is left for Inductor to place, so it needs no compiler of C++."""
    layer = gm.MoE(16, 24, 4).eval()
    x = torch.randn(5, 16, requires_grad=True)
    direction = torch.randn(5, 16)
    (want,) = torch.autograd.grad(layer(x), x, direction)
    with torch._inductor.config.patch(compile_threads=1):
        (got,) = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x), x, direction)
    assert torch.allclose(got, want, atol=1e-5)


def test_functions_compile() -> None:
    case = experts_case(5, 8, 6, 3, 2, torch.float32, bias=True)
    compiled = torch.compile(
        lambda *t: functional.experts(*t, **case.options), fullgraph=True, backend="aot_eager"
    )
    assert torch.allclose(compiled(*case.tensors()), functional.experts(*case.tensors(), **case.options))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(*case.tensors()).dtype == torch.bfloat16


def test_fake_tensors_and_meta() -> None:
    from torch._subclasses import FakeTensorMode

    case = experts_case(5, 8, 6, 3, 2, torch.float32)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in case.tensors()]
        fake[3].requires_grad_()
        y = functional.experts(*fake)
        y.sum().backward()
    assert y.shape == (5, 8) and fake[3].grad.shape == case.gate_up_proj.shape
    layer = gm.MoE(8, 16, 4, device="meta")
    assert layer(torch.empty(3, 8, device="meta")).shape == (3, 8)


def test_export() -> None:
    layer = gm.MoE(8, 16, 4).eval()
    x = torch.randn(6, 8)
    program = torch.export.export(layer, (x,))
    assert "genesis_moe.experts_forward" in str(program.graph)
    assert torch.allclose(program.module()(x), layer(x), atol=1e-6)


def test_lazily_negated_tensors_are_read_right() -> None:
    case = experts_case(5, 8, 6, 3, 2, torch.float32)
    negated = torch.complex(torch.zeros(5, 8), -case.x).conj().imag
    assert negated.is_neg()
    want = functional.experts(*case.tensors())
    assert torch.equal(functional.experts(negated, *case.tensors()[1:]), want)


def test_dispatch_modes_see_the_operators() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    case = experts_case(5, 8, 6, 3, 2, torch.float32)
    case.x.requires_grad_()
    with Watch():
        functional.experts(*case.tensors()).sum().backward()
    assert {"genesis_moe.experts_forward.default", "genesis_moe.experts_backward.default"} <= set(seen)
