"""functional.route, update and report against the plain reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import genesis_moe as gm
from cases import ROUTERS, expected_routing, router_arguments
from genesis_moe import RouterOptions, functional


def compare(options: RouterOptions, given: dict[str, Any], tolerance: float) -> None:
    routing = functional.route(options=options, **given)
    index, weights, logits, margin = expected_routing(options, given)
    experts = given["centroids"].shape[0]
    scale = max(1.0, float(logits.abs().amax())) if logits.numel() else 1.0
    assert torch.allclose(routing.logits.double(), logits, atol=tolerance * scale)
    clear = margin > 10 * tolerance
    assert torch.equal(routing.index[clear], index[clear])
    assert torch.allclose(routing.weights[clear].double(), weights[clear], atol=20 * tolerance)
    counts = torch.bincount(routing.index.reshape(-1), minlength=experts + 1)[:experts]
    assert torch.equal(routing.counts, counts)
    for result, dtype in zip(routing, (torch.int64, None, None, torch.int64), strict=True):
        assert dtype is None or result.dtype == dtype


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_modes(name: str, dtype: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}[dtype]
    compare(ROUTERS[name], router_arguments(ROUTERS[name], 33, 16, 8, dtype, width=6), tolerance)


@given(
    name=st.sampled_from(sorted(ROUTERS)),
    tokens=st.integers(0, 12),
    hidden=st.integers(1, 20),
    experts=st.integers(1, 12),
    top_k=st.integers(1, 6),
    width=st.one_of(st.none(), st.integers(1, 9)),
)
def test_any_shape(name: str, tokens: int, hidden: int, experts: int, top_k: int, width: int | None) -> None:
    assume(top_k <= experts)
    options = replace(ROUTERS[name], top_k=top_k)
    if options.num_groups > 1:
        assume(
            experts % options.num_groups == 0
            and top_k <= experts // options.num_groups * options.top_k_groups
        )
    given_ = router_arguments(options, tokens, hidden, experts, torch.float64, width)
    compare(options, given_, 1e-11)
    arrays = {k: None if v is None else np.asfortranarray(v.numpy()) for k, v in given_.items()}
    for ours, theirs in zip(
        functional.route(options=options, **arrays), functional.route(options=options, **given_), strict=True
    ):
        assert np.array_equal(ours, theirs.numpy())


def test_dot_without_price_is_mixtral() -> None:
    """A pretrained gate can be injected without changing one weight."""
    x, weight = torch.randn(40, 16, dtype=torch.float64), torch.randn(8, 16, dtype=torch.float64)
    ours = functional.route(x, weight, options=RouterOptions(binding="dot"))
    theirs = functional.route(x, weight, options=RouterOptions(mode="mixtral"))
    assert torch.equal(ours.index, theirs.index)
    assert torch.allclose(ours.weights, theirs.weights, atol=1e-14)


def test_budget_rule() -> None:
    """S_t = {e : f_te - min f <= gap}: at least one expert, at most top_k, absent slots hold E and 0."""
    options = RouterOptions(budgeted=True, top_k=4)
    given = router_arguments(options, 64, 16, 8, torch.float64)
    for gap, smallest, largest in ((0.0, 1, 1), (10.0, 4, 4)):
        given["gap"] = torch.tensor([gap], dtype=torch.float64)
        routing = functional.route(options=options, **given)
        active = (routing.index < 8).sum(1)
        assert active.min() == smallest and active.max() == largest
        assert torch.equal(
            routing.weights[routing.index == 8], routing.weights.new_zeros(int((routing.index == 8).sum()))
        )
        assert torch.allclose(routing.weights.sum(1), torch.ones(64, dtype=torch.float64))


def test_price_update_is_the_equation() -> None:
    options = RouterOptions(load_penalty=5.0)
    counts = torch.tensor([10, 0, 4, 2])
    price = torch.tensor([0.1, -0.2, 0.0, 0.1], dtype=torch.float64)
    delta = (0.02 * (counts / counts.double().mean() - 1 - price / 5.0)).clamp(-0.02, 0.02)
    want = price + delta
    want -= want.mean()
    version = price._version
    functional.update(options, counts, 10, price, rate=0.02)
    assert torch.allclose(price, want, atol=1e-14)
    assert price._version > version
    array = np.array([0.1, -0.2, 0.0, 0.1])
    functional.update(options, counts.numpy(), 10, array, rate=0.02)
    assert np.allclose(array, want.numpy(), atol=1e-14)


def test_gap_update_follows_the_budget() -> None:
    options = RouterOptions(budgeted=True, top_k=2)
    price, gap = torch.zeros(4), torch.tensor([0.05])
    functional.update(
        options, torch.tensor([4, 4, 4, 4]), 10, price, gap, rate=0.0, budget=1.25, gap_rate=0.1
    )
    assert gap.item() == pytest.approx(0.05 + 0.1 * (1.25 - 1.6))
    functional.update(
        options, torch.tensor([5, 5, 5, 5]), 10, price, gap, rate=0.0, budget=1.0, gap_rate=10.0
    )
    assert gap.item() == 0.0
    assert torch.equal(price, torch.zeros(4))


def test_deepseek_bias_moves_by_sign() -> None:
    price = torch.zeros(4)
    functional.update(RouterOptions(mode="deepseek"), torch.tensor([10, 0, 4, 2]), 10, price, rate=1e-3)
    assert torch.allclose(price, torch.tensor([-1e-3, 1e-3, 0.0, 1e-3]))


def test_no_tokens_change_nothing() -> None:
    price, gap = torch.tensor([0.1, -0.1]), torch.tensor([0.3])
    options = RouterOptions(budgeted=True)
    functional.update(options, torch.zeros(2, dtype=torch.int64), 0, price, gap, rate=0.02, budget=1.5)
    assert price.tolist() == pytest.approx([0.1, -0.1]) and gap.item() == pytest.approx(0.3)


def test_report_is_the_equations() -> None:
    options = RouterOptions(top_k=2, load_penalty=7.0)
    given = router_arguments(options, 50, 16, 6, torch.float64)
    routing = functional.route(options=options, **given)
    report = functional.report(options, routing.logits, routing.index, given["price"])
    load = routing.counts.double() / routing.counts.double().mean()
    assert report.max_violation == pytest.approx(float(load.max()) - 1)
    assert report.load_cv == pytest.approx(float(load.std(correction=0)))
    assert report.dead_share == 0 and report.mean_active == 2 and report.churn == -1
    assert report.non_finite_tokens == 0
    probabilities = routing.logits.softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1).mean()
    assert report.token_entropy == pytest.approx(float(entropy))
    mean = probabilities.mean(0)
    assert report.marginal_entropy == pytest.approx(float(-(mean * mean.log()).sum()))
    f = -(routing.logits - given["price"])
    ordered = f.sort(-1).values
    assert report.top_k_margin == pytest.approx(float((ordered[:, 2] - ordered[:, 1]).mean()))
    assert report.price_min == pytest.approx(float(given["price"].min()))
    assert report.energy == pytest.approx(report.energy_bind + report.energy_entropy + report.energy_cost)
    assert math.isfinite(report.energy)
    changed = routing.index.clone()
    changed[:5, 0] = (changed[:5, 0] + 1) % 6
    assert 0 < functional.report(options, routing.logits, routing.index, None, changed).churn <= 0.1
    same = functional.report(options, routing.logits.numpy(), routing.index.numpy(), given["price"].numpy())
    assert same == report


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_token_stays_alone(name: str, bad: float) -> None:
    options = ROUTERS[name]
    given = router_arguments(options, 9, 16, 8, torch.float32)
    before = functional.route(options=options, **given)
    given["hidden_states"][4, 3] = bad
    after = functional.route(options=options, **given)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    for field in ("index", "weights", "logits"):
        assert torch.equal(getattr(after, field)[others], getattr(before, field)[others]), field
    assert ((after.index[4] >= 0) & (after.index[4] <= 8)).all()
    assert functional.report(options, after.logits, after.index).non_finite_tokens == 1


def test_batch_solver_balances_better() -> None:
    x = torch.randn(256, 16) + 0.5 * torch.randn(16)
    centroids = torch.randn(8, 16)
    violation = {}
    for solver in ("price", "batch"):
        options = RouterOptions(solver=solver)
        routing = functional.route(x, centroids, options=options)
        violation[solver] = gm.functional.report(options, routing.logits, routing.index).max_violation
    assert violation["batch"] < violation["price"]
