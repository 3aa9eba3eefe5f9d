"""Injected routers: the same function at the start, ours afterwards, and clear refusals."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import genesis_moe as gm
from huggingface.tiny_models import (
    build,
    exact_router,
    loss_and_gradients,
    original_router,
    relative_difference,
    routers_of,
)

TOLERANCE = 1e-5


def test_a_pretrained_model_keeps_its_logits_and_gradients(case: str, input_ids: torch.Tensor) -> None:
    model = build(case)
    logits, gradients = loss_and_gradients(model, input_ids)
    assert gm.inject(model, exact_router(case)) is model
    ours, our_gradients = loss_and_gradients(model, input_ids)
    assert relative_difference(ours, logits) < TOLERANCE
    assert our_gradients.keys() >= gradients.keys()
    for name, gradient in gradients.items():
        assert relative_difference(our_gradients[name], gradient) < TOLERANCE, name
    added = {name.rpartition(".")[2] for name in our_gradients.keys() - gradients.keys()}
    assert added == ({"temperature"} if exact_router(case) == "hamiltonian" else set())


def test_mode_mixtral_is_exact_for_every_softmax_router(case: str, input_ids: torch.Tensor) -> None:
    model = build(case)
    expected = model(input_ids).logits
    gm.inject(model, "mixtral")
    difference = relative_difference(model(input_ids).logits, expected)
    assert (difference < TOLERANCE) == (case != "deepseek_v3")


def test_the_router_is_of_both_classes_and_returns_the_same_tuple(case: str, input_ids: torch.Tensor) -> None:
    model = build(case)
    originals = [m for m in model.modules() if isinstance(m, original_router(case))]
    x = torch.randn(2, 5, 32)
    expected = [router(x.reshape(-1, 32)) for router in originals]
    gm.inject(model, exact_router(case))
    routers = routers_of(model)
    assert [id(router) for router in routers] == [id(router) for router in originals]
    for router, (logits, weights, indices) in zip(routers, expected, strict=True):
        assert isinstance(router, original_router(case))
        assert isinstance(router, gm.Router)
        our_logits, our_weights, our_indices = router(x)
        assert relative_difference(our_logits, logits) < TOLERANCE
        # DeepSeek returns its experts unsorted.
        order, our_order = indices.argsort(dim=1), our_indices.argsort(dim=1)
        assert torch.equal(our_indices.gather(1, our_order), indices.gather(1, order))
        assert relative_difference(our_weights.gather(1, our_order), weights.gather(1, order)) < TOLERANCE


def test_cosine_starts_anew_and_learns(case: str, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case), binding="cosine", router_dim=8).train()
    for router in routers_of(model):
        assert router.centroids.shape == (router.num_experts, 8)
        assert router.weight is router.centroids
        assert router.temperature.item() == pytest.approx(0.3)
    _, gradients = loss_and_gradients(model, input_ids)
    for part in ("weight", "projection", "temperature"):
        assert any(name.endswith(f".{part}") and g.abs().max() > 0 for name, g in gradients.items()), part


def test_cosine_without_a_projection_keeps_the_gate_as_centroids() -> None:
    model = build("mixtral")
    gate = model.model.layers[0].mlp.gate.weight
    gm.inject(model, binding="cosine", router_dim=None)
    assert model.model.layers[0].mlp.gate.weight is gate


def test_prices_move_load_and_not_the_gates(input_ids: torch.Tensor) -> None:
    model = gm.inject(build("mixtral"))
    router = routers_of(model)[0]
    x = torch.randn(64, 32)
    before = router(x)
    router.price[0] += 100.0
    logits, weights, indices = router(x)
    assert not (indices == 0).any()
    assert torch.equal(logits, before[0])
    kept = ~(before[2] == 0).any(dim=1)
    assert kept.any()
    torch.testing.assert_close(weights[kept], before[1][kept])


def test_step_moves_prices_of_a_training_model_only(case: str, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case), exact_router(case))
    start = [router.price.clone() for router in routers_of(model)]
    model(input_ids)
    gm.step(model)
    assert all(torch.equal(r.price, p) for r, p in zip(routers_of(model), start, strict=True))
    model.train()
    model(input_ids)
    assert all(router.tokens == input_ids.numel() for router in routers_of(model))
    gm.step(model)
    assert any(not torch.equal(r.price, p) for r, p in zip(routers_of(model), start, strict=True))
    assert all(router.tokens == 0 for router in routers_of(model))
    assert set(gm.report(model)) == {name for name, m in model.named_modules() if m in routers_of(model)}


@pytest.mark.parametrize("gap", [0.0, 0.4, 100.0])
def test_a_budget_leaves_slots_empty(case: str, gap: float, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case, output_router_logits=True), budget=1.25).train()
    for router in routers_of(model):
        router.gap.fill_(gap)
    output = model(input_ids, labels=input_ids)
    output.loss.backward()
    for router in routers_of(model):
        index, weights = router.last_routing.index, router.last_routing.weights
        absent = index == router.num_experts
        active = 2 - absent.float().sum(dim=1).mean()
        assert active == {0.0: 1.0, 100.0: 2.0}.get(gap, active)
        assert (weights[absent] == 0).all()
        assert (weights[~absent] > 0).all()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.set_experts_implementation("batched_mm")
    theirs = model(input_ids, labels=input_ids)
    assert relative_difference(theirs.logits, output.logits) < TOLERANCE


def test_router_logits_and_the_auxiliary_loss_are_as_before(case: str, input_ids: torch.Tensor) -> None:
    if case == "deepseek_v3":
        return  # records no router logits and has no auxiliary loss
    mask = torch.ones_like(input_ids)
    mask[:, :3] = 0
    model = build(case)
    expected = model(input_ids, attention_mask=mask, labels=input_ids, output_router_logits=True)
    model_of_mixtral = gm.inject(copy.deepcopy(model), "mixtral")
    output = model_of_mixtral(input_ids, attention_mask=mask, labels=input_ids, output_router_logits=True)
    assert len(output.router_logits) == len(expected.router_logits) == 2
    for ours, theirs in zip(output.router_logits, expected.router_logits, strict=True):
        assert relative_difference(ours, theirs) < TOLERANCE
    assert output.aux_loss.item() == pytest.approx(expected.aux_loss.item(), rel=TOLERANCE)
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=TOLERANCE)
    # The recorder's hooks were installed by the first forward: the router keeps them.
    hamiltonian = gm.inject(model)(
        input_ids, attention_mask=mask, labels=input_ids, output_router_logits=True
    )
    assert len(hamiltonian.router_logits) == 2
    without = model(input_ids, attention_mask=mask, labels=input_ids, output_router_logits=False)
    assert hamiltonian.loss.item() == pytest.approx(without.loss.item(), rel=1e-6)  # coefficient 0


def test_bfloat16(case: str, input_ids: torch.Tensor) -> None:
    model = build(case).to(torch.bfloat16)
    expected = model(input_ids).logits.float()
    gm.inject(model, exact_router(case))
    assert all(router.weight.dtype == torch.bfloat16 for router in routers_of(model))
    assert all(router.price.dtype == torch.float32 for router in routers_of(model))
    logits, gradients = loss_and_gradients(model.train(), input_ids)
    # Routes of near ties may differ where transformers rounds its logits to bfloat16.
    close = (logits.float() - expected).abs().amax(dim=-1) < 0.05 * expected.abs().max()
    assert close.float().mean() > 0.8
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    gm.step(model)


def test_gradient_checkpointing(case: str, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case), exact_router(case)).train()
    logits, gradients = loss_and_gradients(model, input_ids)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again, gradients_again = loss_and_gradients(model, input_ids)
    torch.testing.assert_close(again, logits, rtol=0, atol=0)
    for name, gradient in gradients.items():
        assert relative_difference(gradients_again[name], gradient) < TOLERANCE, name


def test_copies_and_pickles(case: str, input_ids: torch.Tensor) -> None:
    model = gm.inject(build(case), exact_router(case))
    expected = model(input_ids).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(r) for r in routers_of(twin)] == [type(r) for r in routers_of(model)]
        torch.testing.assert_close(twin(input_ids).logits, expected, rtol=0, atol=0)


def test_the_alias() -> None:
    model = gm.inject_router(build("mixtral"), mode="genesis", budget=1.5)
    assert routers_of(model)[0].options.mode == "hamiltonian"
    assert routers_of(model)[0].budget == 1.5
    assert routers_of(gm.inject_router(build("mixtral"), mode="deepseek"))[0].options.mode == "deepseek"


def test_options_reach_the_router_and_the_host() -> None:
    model = build("mixtral")
    gm.inject(model, top_k=3, budget=1.5, temperature=0.7, load_penalty=4.0, price_rate=0.1, initial_gap=0.5)
    router = routers_of(model)[0]
    assert (router.top_k, router.budget, router.price_rate, router.options.load_penalty) == (3, 1.5, 0.1, 4.0)
    assert (router.temperature.item(), router.gap.item()) == (pytest.approx(0.7), 0.5)
    assert (model.config.num_experts_per_tok, model.num_experts_per_tok) == (3, 3)
    assert (model.config.router_aux_loss_coef, model.router_aux_loss_coef) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "switch"}, r"router: 'switch', want one of 'hamiltonian'"),
        ({"busget": 1.2}, r"options: 'busget', want any of top_k, budget"),
        ({"budget": 3.0}, r"budget: 3.0, want between 1 and top_k = 2"),
        ({"top_k": 9}, r"top_k: 9, want between 1 and num_experts = 4"),
        ({"binding": "euclid"}, r"binding: 'euclid'"),
    ],
)
def test_bad_options_change_nothing(options: dict[str, Any], message: str, input_ids: torch.Tensor) -> None:
    model = build("mixtral")
    expected = model(input_ids).logits
    with pytest.raises(gm.InvalidArgumentError, match=message):
        gm.inject(model, **options)
    assert routers_of(model) == []
    assert not hasattr(model.config, "genesis_moe")
    torch.testing.assert_close(model(input_ids).logits, expected, rtol=0, atol=0)


def test_what_cannot_be_injected_is_named() -> None:
    with pytest.raises(gm.UnsupportedError, match=r"model: Linear, want a transformers.PreTrainedModel"):
        gm.inject(nn.Linear(2, 2))
    config = {
        "vocab_size": 31,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    dense = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, intermediate_size=16))
    with pytest.raises(gm.UnsupportedError, match=r"LlamaForCausalLM has no router.*MixtralTopKRouter"):
        gm.inject(dense)
    other = transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(
            **config, num_experts=2, moe_intermediate_size=8, shared_expert_intermediate_size=8
        )
    )
    with pytest.raises(
        gm.UnsupportedError, match=r"Qwen2MoeForCausalLM has the routers Qwen2MoeTopKRouter; .*supports"
    ):
        gm.inject(other)
    model = gm.inject(build("mixtral"))
    with pytest.raises(
        gm.InvalidArgumentError, match=r"model.layers.0.mlp.gate is a InjectedMixtral.*already"
    ):
        gm.inject(model)
    dispatched = build("mixtral")
    dispatched.model.layers[1].mlp.gate._hf_hook = object()
    with pytest.raises(
        gm.UnsupportedError, match=r"accelerate has dispatched model.layers.1.mlp.gate.*device_map"
    ):
        gm.inject(dispatched)
