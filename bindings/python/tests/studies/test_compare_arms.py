"""Every arm trains; its controls route as they claim; its FLOPs are what a hand counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import genesis_moe as gm
from genesis_moe.studies.compare.arms import ARMS, BASELINE, SIGN_RATES, TOP_K, variants, variations
from genesis_moe.studies.compare.measures import forward_flops, max_violation, row_flops, windows
from genesis_moe.studies.compare.model import LanguageModel, Shape
from genesis_moe.studies.compare.routers import HashRouter, LoweredRouter, TopPRouter, scheduled
from genesis_moe.studies.compare.training import Run


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains(name, corpus, settings, tmp_path):
    run = Run(ARMS[name], 0, settings, corpus, tmp_path)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    result = run.train()
    assert result["done"]
    assert np.isfinite(result["curves"]["loss"]).all()
    after = run.model.state_dict()
    matrices = [key for key in before if before[key].ndim >= 2 and ".clans." not in key]
    unchanged = [key for key in matrices if torch.equal(before[key], after[key])]
    assert unchanged == [key for key in before if key.endswith("router.table")]
    experts = result["held_out"]["experts_per_token"]
    assert experts is None if name == "dense" else 1 <= experts <= ARMS[name].top_k


def test_equal_seeds_begin_with_equal_weights(settings):
    models = {
        name: dict(LanguageModel(settings.shape, arm.build(settings.shape, 3), 3).named_parameters())
        for name, arm in ARMS.items()
    }
    base = models[BASELINE]
    for name in ("mixtral-top-1", "hamiltonian-top-2", "hamiltonian-1.25", "hash"):
        for key, parameter in models[name].items():
            if ".router." not in key:
                assert torch.equal(parameter, base[key]), (name, key)


def test_active_parameters_are_equal():
    """Per token: top-2 of width I, one shared and two of width 2I/3, a dense part of width 2I."""
    shape = Shape()
    active = {}
    for name in ("mixtral-top-2", "deepseek", "dense", "hamiltonian-top-2", "hash"):
        layer = ARMS[name].build(shape, 0)()
        active[name] = forward_flops(layer, rows=TOP_K * 100, tokens=100)
    assert len(set(active.values())) == 1
    assert active["dense"] == 100 * 2 * row_flops(128, 192) == 100 * 2 * 6 * 128 * 192


def test_flops_by_hand_and_by_the_library(corpus, settings, tmp_path):
    """Both say the same: 3 x 2 FLOPs x 3 matrices of 16 x 12 for each row of each layer."""
    settings = type(settings)(**{**vars(settings), "steps": 1})
    run = Run(ARMS["mixtral-top-2"], 0, settings, corpus, tmp_path)
    before = gm.engine_counters()
    run.repeat_step()
    after = gm.engine_counters()
    rows = after["expert_rows"] - before["expert_rows"]
    assert rows == 2 * 2 * 4 * 16  # layers x top-2 x batch x sequence
    counted = run.curves["expert_rows"][0]
    assert sum(counted) == rows
    result = Run(ARMS["mixtral-top-2"], 0, settings, corpus, tmp_path).train()
    assert result["expert_flops"] == 3 * (2 * 3 * 16 * 12) * rows
    assert sum(result["curves"]["expert_flops_per_step"]) == result["expert_flops"]


def test_budget_lowers_the_flops(corpus, settings, tmp_path):
    settings = type(settings)(**{**vars(settings), "steps": 30})
    top_2 = Run(ARMS["hamiltonian-top-2"], 0, settings, corpus, tmp_path / "a").train()
    lowered = Run(ARMS["mixtral-lowered"], 0, settings, corpus, tmp_path / "b").train()
    full = top_2["expert_flops"]
    assert full == 30 * 3 * row_flops(16, 12) * 2 * 2 * 64
    # 2 to 1 over the first half, 1 from there on: three eighths less.
    assert lowered["expert_flops"] == pytest.approx(full * 5 / 8, rel=0.03)


def test_growing_arm_begins_with_half_and_splits(corpus, settings, tmp_path):
    """With thresholds that any two groups pass it has split before the end; closed clans have no load."""
    loose = gm.MitosisOptions(
        interval=4, window=1, min_tokens=1, spread=0, null_percentile=1, null_samples=20, max_cosine=1, cooldown=4,
        ramp=2,
    )  # fmt: skip
    arm = replace(ARMS["hamiltonian-mitosis"], options={"mitosis": loose})
    settings = replace(settings, steps=12)
    result = Run(arm, 0, settings, corpus, tmp_path).train()
    assert all(2 < layer["experts"] <= settings.shape.experts for layer in result["growth"])
    assert any("split of slot" in event for layer in result["growth"] for event in layer["events"])
    # Both of two clans have every token: the two that are closed would make it 1.
    assert result["balance_at_end"]["max_violation_running"] == [0.0, 0.0]
    assert result["balance_at_end"]["dead_share"] == 0
    assert result["held_out"]["experts_per_token"] == 2.0


def test_schedule():
    assert [scheduled(2.0, 1.0, progress) for progress in (0, 0.25, 0.5, 1)] == [2.0, 1.5, 1.0, 1.0]


@pytest.mark.parametrize("wanted", [1.0, 1.3, 2.0])
def test_lowered_router_thins_by_place(wanted):
    router = LoweredRouter(16, 4, 2, end=wanted)
    router.update(torch.zeros(4), 1, progress=1.0)
    routing = router(torch.randn(1000, 16))
    assert routing.counts.sum().item() / 1000 == pytest.approx(wanted, abs=2e-3)
    assert torch.allclose(routing.weights.sum(dim=-1), torch.ones(1000))
    assert torch.equal(routing.index == 4, routing.weights == 0)


def test_top_p_keeps_the_fewest_that_reach_p():
    router = TopPRouter(16, 4, 2, end=1.25)
    router.p.fill_(0.6)
    x = torch.randn(500, 16) * 3
    routing = router(x)
    probability = torch.softmax(x @ router.centroids.T, dim=-1).amax(dim=-1)
    assert torch.equal(routing.index[:, 1] == 4, probability >= 0.6)
    assert router.counts.equal(routing.counts)


def test_top_p_follows_its_budget():
    router = TopPRouter(16, 4, 2, end=1.25)
    x = torch.randn(2000, 16)
    for _ in range(300):
        router(x)
        router.update(router.counts, 2000, progress=1.0)
        router.counts.zero_()
    assert router(x).counts.sum().item() / 2000 == pytest.approx(1.25, abs=0.02)


def test_hash_router_is_fixed_by_byte():
    router = HashRouter(8, 2, vocabulary=256, seed=1)
    router.tokens = torch.tensor([65, 66, 65])
    first = router(torch.randn(3, 4))
    assert torch.equal(first.index[0], first.index[2])
    assert (router.table[:, 0] != router.table[:, 1]).all()
    with pytest.raises(ValueError, match="tokens: 3, want 5"):
        router(torch.randn(5, 4))


def test_search_varies_the_rates():
    assert len(variants(ARMS["mixtral-top-2"])) == 3
    signs = {arm.options.get("price_rate") for arm in variants(ARMS["deepseek"])}
    assert set(SIGN_RATES) <= signs | {ARMS["deepseek"].options.get("price_rate", 1e-3)}


def test_variations_change_one_thing_each():
    base, arm, *varied = variations()
    assert (base, arm) == (ARMS[BASELINE], ARMS["hamiltonian-1.25"])
    built = [one.build(Shape(), 0)().router for one in (arm, *varied)]
    looks = [
        (*vars(r.options).values(), r.price_rate, r.gap_rate, r.initial_temperature, r.centroids.shape)
        for r in built
    ]
    assert len(set(looks)) == len(looks) == 11
    assert {one.learning_rate for one in varied} == {arm.learning_rate}


def test_max_violation_by_hand():
    assert max_violation(np.array([4, 1, 1, 2])) == 1.0
    assert max_violation(np.array([3, 3])) == 0.0
    assert max_violation(np.zeros(4)) == 0.0


def test_windows_do_not_overlap():
    found = windows(np.arange(100), sequence=10, wanted=4)
    assert found.shape == (4, 11)
    assert (np.diff(found[:, 0]) >= 10).all()
    assert windows(np.arange(35), sequence=10, wanted=9).shape == (3, 11)
