"""Layers of torchtitan itself, with our experts and router put in by its override mechanism."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import genesis_moe as gm
from distributed.ranks import Ranks
from integrations import programs_torchtitan as programs
from integrations.titan import EXPERTS, HIDDEN, TOP_K, WIDTH, built, layer_config, model_config, overridden

pytest.importorskip("torchtitan")


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchtitan's experts compute in bfloat16 whatever they are given; here the same code stays in float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


def outcome(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output and the gradients of input and parameters, by their names in checkpoints."""
    x = x.clone().requires_grad_()
    y = model(x)
    torch.manual_seed(2)
    (y * torch.randn_like(y)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name in [name for name in gradients if name.endswith("w13")]:
        w13 = gradients.pop(name)
        gradients[name.replace("w13", "w1_EFD")], gradients[name.replace("w13", "w3_EFD")] = w13.unbind(2)
    return {"output": y.detach(), "input": x.grad, **gradients}


def tokens() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 7, WIDTH)


def close(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-5) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.usefixtures("in_float32")
def test_experts_are_torchtitans() -> None:
    theirs, ours = built(model_config(layer_config())), overridden(layer_config(), "experts")
    assert type(ours.moe.routed_experts.inner_experts).__module__ == "genesis_moe.integrations.torchtitan"
    state = theirs.state_dict()
    assert set(ours.state_dict()) == set(state)
    ours.load_state_dict(state)
    close(outcome(ours, tokens()), outcome(theirs, tokens()))


def test_experts_in_bfloat16_are_torchtitans() -> None:
    theirs, ours = built(model_config(layer_config())), overridden(layer_config(), "experts")
    ours.load_state_dict(theirs.state_dict())
    wanted, x = outcome(theirs, tokens()), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(ours, x)
    for name, value in wanted.items():
        difference = (found[name].float() - value.float()).norm() / value.float().norm()
        assert difference < 2e-2, name


def test_checkpoints_pass_both_ways(tmp_path: Path) -> None:
    ours = overridden(layer_config(), "experts")
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    theirs = built(model_config(layer_config()))
    theirs.load_state_dict(torch.load(tmp_path / "ours.pt"))
    back = overridden(layer_config(), "experts")
    back.load_state_dict(theirs.state_dict())
    for name, value in ours.named_parameters():
        assert torch.equal(value, back.get_parameter(name)), name


def test_weights_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    run = gm.functional.experts

    def watched(x: Any, index: Any, weights: Any, gate_up: Any, down: Any, **options: Any) -> Any:
        seen.update(gate_up=gate_up.data_ptr(), down=down.data_ptr())
        return run(x, index, weights, gate_up, down, **options)

    model = overridden(layer_config(), "experts")
    monkeypatch.setattr(gm.functional, "experts", watched)
    model(tokens())
    inner = model.moe.routed_experts.inner_experts
    assert seen == {"gate_up": inner.w13.data_ptr(), "down": inner.w2_EDF.data_ptr()}


def test_rows_beyond_the_counts_give_zeros() -> None:
    inner = overridden(layer_config(), "experts").moe.routed_experts.inner_experts
    counts = torch.tensor([2, 0, 3, 0, 0, 1])
    x = torch.randn(9, WIDTH)
    whole, part = inner(x, counts), inner(x[:6], counts)
    assert torch.equal(whole[:6], part) and not whole[6:].any()
    assert inner(x[:0], torch.zeros(EXPERTS, dtype=torch.int64)).shape == (0, WIDTH)


ROUTERS = {
    "softmax": ({}, "mixtral", {}),
    "softmax, not normalised, scaled": ({"route_norm": False, "route_scale": 2.5}, "mixtral", {}),
    "sigmoid": ({"score_func": "sigmoid"}, "deepseek", {}),
    "sigmoid in groups": (
        {"score_func": "sigmoid", "num_expert_groups": 3, "num_limited_groups": 2, "route_scale": 1.5},
        "deepseek",
        {},
    ),
    "hamiltonian at its start": ({}, "hamiltonian", {}),
    "hamiltonian at its start, not normalised": ({"route_norm": False}, "hamiltonian", {}),
}


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("case", ROUTERS)
def test_router_is_torchtitans(case: str) -> None:
    router, mode, options = ROUTERS[case]
    theirs = built(model_config(layer_config(**router)))
    ours = overridden(layer_config(**router), "moe", router=mode, **options)
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert {name.rpartition(".")[2] for name in missing.missing_keys} <= {"price", "temperature"}
    wanted, found = outcome(theirs, tokens()), outcome(ours, tokens())
    close(found, wanted)
    ids, theirs_ids = (m.moe.router(tokens())[1].sort(dim=-1).values for m in (ours, theirs))
    assert torch.equal(ids, theirs_ids)
    assert torch.equal(ours.moe.tokens_per_expert_E, theirs.moe.tokens_per_expert_E)


def test_parameters_start_as_torchtitans() -> None:
    """By the host's own initialisers: nothing is left as it was allocated."""
    from genesis_moe.integrations.torchtitan import moe

    ours = overridden(layer_config(), "moe", router="hamiltonian")
    with torch.device("meta"):
        empty = model_config(moe(layer_config(), router="hamiltonian")).build()
    empty.to_empty(device="cpu")
    for tensor in [*empty.parameters(), *empty.buffers()]:
        tensor.data.fill_(float("nan"))
    torch.manual_seed(0)
    empty.init_states()
    for name, value in ours.state_dict().items():
        assert torch.equal(empty.state_dict()[name], value), name
    assert float(ours.moe.router.gate.weight.std()) == pytest.approx(0.3, rel=0.2)


def test_it_trains_with_a_budget_and_balances() -> None:
    model = overridden(
        layer_config(),
        "moe",
        router="hamiltonian",
        budget=1.25,
        gap_rate=0.05,
        binding="cosine",
        router_dim=8,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(3)
    x, target = torch.randn(4, 32, WIDTH), torch.randn(4, 32, WIDTH)
    losses, budgets = [], []
    for step in range(60):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        budgets.append(int(model.moe.router.gate.counts.sum()) / 128)
        gm.step(model, progress=step / 60)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert budgets[0] > 1.5 and budgets[-1] == pytest.approx(1.25, abs=0.15)
    assert model.moe.router.gate.price.abs().sum() > 0
    assert float(model.moe.tokens_per_expert_E.sum()) == pytest.approx(128 * sum(budgets))


def test_a_budget_dispatches_no_absent_slot() -> None:
    model = overridden(layer_config(), "moe", router="hamiltonian", budget=1.0).eval()
    model.moe.router.gate.gap.fill_(0.05)
    rows = []
    model.moe.routed_experts.inner_experts.register_forward_hook(
        lambda m, inputs, y: rows.append(len(inputs[0]))
    )
    y = model(tokens())
    scores, ids, _ = model.moe.router(tokens())
    present = ids < EXPERTS
    assert rows == [int(present.sum())] and 21 <= rows[0] < 21 * TOP_K
    inner = model.moe.routed_experts.inner_experts
    gate_up, down = inner.w13.flatten(1, 2), inner.w2_EDF
    wanted = gm.functional.experts(
        tokens().view(-1, WIDTH), ids.view(-1, TOP_K), scores.view(-1, TOP_K), gate_up, down, interleaved=True
    )
    torch.testing.assert_close(y.view(-1, WIDTH), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("router", "arguments", "message"),
    [
        ({}, {"router": "top"}, "router: 'top', want one of"),
        ({}, {"temprature": 1}, "options: 'temprature', want any of"),
        ({}, {"budget": 3.0}, "budget: 3.0, want between 1 and top_k = 2"),
        ({}, {"top_k": 3}, "top_k: 3, want 2 as the token_dispatcher has"),
        ({"_debug_force_load_balance": True}, {}, "_debug_force_load_balance: True"),
        ({"num_expert_groups": 3, "num_limited_groups": 2}, {}, "num_expert_groups: 3"),
    ],
)
def test_refusals(router: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=message):
        overridden(layer_config(**router), "moe", **arguments)


def test_refusals_of_what_surrounds_it() -> None:
    from torchtitan.models.common.token_dispatcher import DeepEPTokenDispatcher
    from torchtitan.overrides.fused_swiglu import fused_grouped_experts

    from genesis_moe.integrations import torchtitan as ours

    config = layer_config()
    with pytest.raises(NotImplementedError, match=r"inner_experts: FusedGroupedExperts\.Config"):
        ours.experts(fused_grouped_experts(config.routed_experts.inner_experts))
    config.routed_experts.token_dispatcher = DeepEPTokenDispatcher.Config(num_experts=EXPERTS, top_k=TOP_K)
    with pytest.raises(
        NotImplementedError, match=r"token_dispatcher: DeepEPTokenDispatcher\.Config sends top_k rows"
    ):
        ours.moe(config, budget=1.5)
    router = overridden(layer_config(), "moe").moe.router
    with pytest.raises(ValueError, match="load_balance_coeff: is set, want None"):
        router(tokens(), torch.zeros(EXPERTS))
    assert HIDDEN != WIDTH  # the shapes above tell the axes apart


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Ranks]:
    started = Ranks(2, PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    yield started
    started.close()


@pytest.mark.parametrize("budget", [None, 1.25])
def test_expert_parallel_over_torchtitans_all_to_all(two_ranks: Ranks, budget: float | None) -> None:
    wanted = programs.layer(budget)
    parts = two_ranks.run(programs.expert_parallel, budget)
    for name in ("output", "input"):
        found = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(found, wanted[name], rtol=1e-5, atol=1e-5)
    for name in ("w13", "w2_EDF"):
        found = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(found, wanted[name], rtol=1e-5, atol=1e-5)
    assert torch.equal(parts[0]["price"], parts[1]["price"])
    torch.testing.assert_close(parts[0]["price"], wanted["price"])


def test_the_documented_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program = Path(__file__).parents[4] / "examples" / "python" / "integrations" / "torchtitan.py"
    runpy.run_path(str(program))
    prices = re.findall(r"-?\d\.\d+", capsys.readouterr().out)
    assert len(prices) == 8 and any(float(price) for price in prices)
