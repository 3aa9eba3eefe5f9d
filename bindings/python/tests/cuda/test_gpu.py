"""The PyTorch side on a GPU: streams, devices, autograd, torch.compile, transformers. Skips without one.

Numbers against float64 are the study's (genesis_moe.studies.gpu.correctness); here it is enough
that the CPU agrees.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import genesis_moe as gm
from genesis_moe import functional

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

LAYERS: dict[str, dict[str, Any]] = {
    "hamiltonian": {},
    "budget": {"budget": 1.25},
    "mixtral": {"router": "mixtral", "bias": True},
    "deepseek": {"router": "deepseek", "shared_experts": 1},
}


def twins(name: str) -> tuple[gm.MoE, gm.MoE, torch.Tensor, torch.Tensor]:
    """A layer and its input on the CPU and on the GPU."""
    torch.manual_seed(0)
    here = gm.MoE(64, 48, 8, top_k=2, **LAYERS[name])
    there = gm.MoE(64, 48, 8, top_k=2, **LAYERS[name])
    there.load_state_dict(here.state_dict())
    x = torch.randn(3, 20, 64)
    return here, there.cuda(), x, x.cuda()


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(got.cpu().float(), want.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_trains_as_on_the_cpu(name: str) -> None:
    here, there, x, y = twins(name)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.05) for layer in (here, there)]
    for step in range(4):
        for layer, tokens, optimizer in ((here, x, optimizers[0]), (there, y, optimizers[1])):
            optimizer.zero_grad()
            layer(tokens).square().mean().backward()
            optimizer.step()
            gm.step(layer, progress=step / 4)
    assert close(there(y), here(x))
    for (n, a), (_, b) in zip(there.state_dict().items(), here.state_dict().items(), strict=True):
        assert close(a, b, 1e-3), n
    reports = gm.report(here), gm.report(there)
    assert reports[1]["router"].energy == pytest.approx(reports[0]["router"].energy, abs=1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layers(name: str) -> None:
    _, layer, _, x = twins(name)
    want = layer(x)
    want.sum().backward()
    gradients = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    got.sum().backward()
    assert torch.allclose(got, want, atol=1e-5)
    for n, p in layer.named_parameters():
        if n in gradients:
            assert torch.allclose(p.grad, gradients[n], atol=1e-4), n


def test_inductor() -> None:
    _, layer, _, x = twins("hamiltonian")
    layer.eval()
    with torch.no_grad():
        assert torch.allclose(torch.compile(layer, fullgraph=True)(x), layer(x), atol=1e-5)


def test_work_is_ordered_by_the_current_stream() -> None:
    """A long product before, in another stream than the default one: our kernels wait for it."""
    _, layer, _, x = twins("mixtral")
    layer.eval()
    with torch.no_grad():
        want = layer(x)
        stream = torch.cuda.Stream()
        for _ in range(5):
            late = torch.full_like(x, float("nan"))
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(20_000_000)
                late.copy_(x)
                got = layer(late)
            stream.synchronize()
            assert torch.equal(got, want)


def test_sum_gives_a_gradient_of_strides_zero() -> None:
    _, layer, _, x = twins("mixtral")
    x.requires_grad_()
    layer(x).sum().backward()
    expanded = x.grad.clone()
    x.grad = None
    layer(x).backward(torch.ones_like(x))
    assert torch.equal(expanded, x.grad)


def test_autocast() -> None:
    _, layer, _, x = twins("hamiltonian")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and close(y, layer(x).cpu(), 0.05)


def test_refusals() -> None:
    x, index, weights = torch.randn(4, 8), torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1)
    up, down = torch.randn(2, 8, 8), torch.randn(2, 8, 4)
    on_gpu = [t.cuda() for t in (x, index, weights, up, down)]
    functional.experts(*on_gpu)
    with pytest.raises((gm.InvalidArgumentError, RuntimeError), match=r"gate_up_proj|device"):
        functional.experts(*on_gpu[:3], up, on_gpu[4])
    with pytest.raises(gm.UnsupportedError, match="float64"):
        functional.experts(*(t.double() if t.is_floating_point() else t for t in on_gpu))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_second_device() -> None:
    _, layer, _, x = twins("hamiltonian")
    want = layer(x)
    got = layer.to("cuda:1")(x.to("cuda:1"))
    assert got.device.index == 1 and torch.equal(got.cpu(), want.cpu()) and torch.cuda.current_device() == 0


def test_transformers_experts_and_injection() -> None:
    pytest.importorskip("transformers")
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).cuda()
    tokens = torch.randint(0, 61, (3, 11), device="cuda")

    def loss_and_gradients() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.set_experts_implementation("eager")
    want, gradients = loss_and_gradients()
    model.set_experts_implementation("genesis_moe")
    got, ours = loss_and_gradients()
    assert close(got, want.cpu())
    for name, gradient in gradients.items():
        assert close(ours[name], gradient.cpu(), 1e-3), name
    gm.inject(model, router="hamiltonian", budget=1.25)
    loss, _ = loss_and_gradients()
    gm.step(model)
    assert loss.isfinite()
