"""Layers of Megatron-Core itself, with our experts and router in their specification."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F  # noqa: N812

import genesis_moe as gm
from distributed.ranks import Ranks
from integrations import megatron_layer as program
from integrations.megatron_layer import EXPERTS, HIDDEN, TOP_K, WIDTH, config, groups, layer, outcome, tokens

pytest.importorskip("megatron.core.transformer")


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meet = tmp_path_factory.mktemp("megatron") / "meet"
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    with groups():
        yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Ranks]:
    started = Ranks(2, PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    yield started
    started.close()


def close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) >= set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def experts_options() -> dict[str, dict[str, Any]]:
    from megatron.core.activations import quick_gelu, squared_relu

    clamped = {"activation_func_clamp_value": 1.0}
    return {
        "silu": {},
        "gelu": {"activation_func": F.gelu},
        "squared_relu, no gate": {"activation_func": squared_relu, "gated_linear_unit": False},
        "gpt-oss": {"activation_func": quick_gelu, "glu_linear_offset": 1.0, **clamped},
        "clamped silu": clamped,
        "all to all": {"moe_token_dispatcher_type": "alltoall"},
    }


@pytest.mark.parametrize(
    "case", ["silu", "gelu", "squared_relu, no gate", "gpt-oss", "clamped silu", "all to all"]
)
def test_experts_are_megatrons(case: str) -> None:
    options = experts_options()[case]
    theirs, ours = layer(config(**options), ours=False), layer(config(**options))
    state = theirs.state_dict()
    assert type(theirs.experts).__name__ == "SequentialMLP"
    assert {name for name in state if not name.endswith("_extra_state")} == set(ours.state_dict())
    ours.load_state_dict(state)
    close(outcome(ours), outcome(theirs))


def test_checkpoints_pass_both_ways() -> None:
    ours, theirs, back = layer(config()), layer(config(), ours=False), layer(config())
    state = ours.state_dict()
    missing = theirs.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(name.endswith("_extra_state") for name in missing.missing_keys)
    back.load_state_dict(theirs.state_dict())
    for name, value in ours.named_parameters():
        assert torch.equal(value, back.get_parameter(name)), name
    grouped = {f"linear_fc{n}.weight{i}": torch.randn_like(state[f"experts.local_experts.{i}.linear_fc{n}.weight"])
               for n in (1, 2) for i in range(EXPERTS)}  # fmt: skip
    back.experts.load_state_dict(grouped)  # the names of TEGroupedMLP
    assert torch.equal(back.experts.gate_up_proj[3], grouped["linear_fc1.weight3"])
    assert torch.equal(back.experts.down_proj[5], grouped["linear_fc2.weight5"])


ROUTERS: dict[str, tuple[dict[str, Any], str]] = {
    "softmax": ({}, "mixtral"),
    "softmax before, scaled": (
        {"moe_router_pre_softmax": True, "moe_router_topk_scaling_factor": 2.5},
        "mixtral",
    ),
    "sigmoid": ({"moe_router_score_function": "sigmoid"}, "deepseek"),
    "sigmoid in groups": (
        {"moe_router_score_function": "sigmoid", "moe_router_num_groups": 3, "moe_router_group_topk": 1},
        "deepseek",
    ),
    "hamiltonian at its start": ({}, "hamiltonian"),
    "hamiltonian at its start, softmax before": ({"moe_router_pre_softmax": True}, "hamiltonian"),
}


@pytest.mark.parametrize("case", ROUTERS)
def test_router_is_megatrons(case: str) -> None:
    options, mode = ROUTERS[case]
    theirs, ours = layer(config(**options), ours=False), layer(config(**options), mode)
    missing = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert {name.rpartition(".")[2] for name in missing.missing_keys} <= {"price", "temperature"}
    probs, chosen = ours.router(tokens())
    wanted_probs, wanted = theirs.router(tokens())
    assert torch.equal(chosen, wanted) and chosen.dtype == wanted.dtype
    torch.testing.assert_close(probs, wanted_probs, rtol=1e-5, atol=1e-6)
    close(outcome(ours), outcome(theirs))


@pytest.mark.parametrize("dispatcher", ["allgather", "alltoall"])
def test_it_trains_with_a_budget_and_balances(dispatcher: str) -> None:
    module = layer(
        config(moe_token_dispatcher_type=dispatcher),
        "hamiltonian",
        budget=1.25,
        gap_rate=0.05,
        binding="cosine",
        router_dim=8,
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    torch.manual_seed(3)
    x, target = torch.randn(32, 4, WIDTH), torch.randn(32, 4, WIDTH)
    losses, budgets = [], []
    for step in range(60):
        loss = (module(x)[0] - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        budgets.append(int(module.router.counts.sum()) / 128)
        gm.step(module, progress=step / 60)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert budgets[0] > 1.5 and budgets[-1] == pytest.approx(1.25, abs=0.15)
    assert module.router.price.abs().sum() > 0


@pytest.mark.parametrize("dispatcher", ["allgather", "alltoall"])
@pytest.mark.parametrize("budget", [None, 1.25])
def test_expert_parallel_over_megatrons_dispatcher(
    two_ranks: Ranks, dispatcher: str, budget: float | None
) -> None:
    whole = two_ranks.run(program.expert_parallel, dispatcher, budget, world=1)[0]
    parts = two_ranks.run(program.expert_parallel, dispatcher, budget)
    for name in ("output", "input", "gate_up_proj", "down_proj"):
        found = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(
            found, whole[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert torch.equal(parts[0]["price"], parts[1]["price"])
    assert sum(part["rows"] for part in parts) == whole["rows"] <= 24 * TOP_K
    assert budget is None or whole["rows"] < 24 * TOP_K


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Megatron's writer needs a GPU")
@pytest.mark.parametrize("ours_writes", [True, False])
def test_distributed_checkpoints_pass_both_ways(two_ranks: Ranks, tmp_path: Path, ours_writes: bool) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    written = two_ranks.run(program.checkpoint, str(folder), True, ours_writes)
    read = two_ranks.run(program.checkpoint, str(folder), False, not ours_writes, world=1)[0]
    for rank, part in enumerate(written):
        for name, value in part.items():
            _, expert, weight = name.split(".", 2)
            number = int(expert) + rank * EXPERTS // 2
            assert torch.equal(read[f"local_experts.{number}.{weight}"], value), name


def test_a_whole_gpt_model_trains() -> None:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    from genesis_moe.integrations.megatron import Experts, TopKRouter, moe_submodules

    spec = get_gpt_layer_local_spec(num_experts=EXPERTS, moe_grouped_gemm=False)
    mlp = spec.submodules.mlp
    mlp.submodules = moe_submodules(mlp.submodules, router="hamiltonian", budget=1.25)
    torch.manual_seed(0)
    model = GPTModel(
        config(num_layers=2, moe_token_dispatcher_type="alltoall", hidden_dropout=0.0, attention_dropout=0.0,
               init_method_std=0.02),
        spec, vocab_size=32, max_sequence_length=16,
    )  # fmt: skip
    assert sum(isinstance(m, Experts) for m in model.modules()) == 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.arange(16).repeat(4, 1) % 7
    positions = torch.arange(16).expand(4, -1)
    mask = torch.ones(16, 16, dtype=torch.bool).triu(1)[None, None]
    losses = []
    for step in range(20):
        loss = model(ids, positions, mask, labels=ids.roll(-1, 1)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, progress=step / 20)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    routers = [m for m in model.modules() if isinstance(m, TopKRouter)]
    assert [router.layer_number for router in routers] == [1, 2]
    assert all(router.price.abs().sum() > 0 for router in routers)


@pytest.mark.parametrize(
    ("options", "router", "arguments", "message"),
    [
        ({}, "top", {}, "router: 'top', want one of"),
        ({}, "hamiltonian", {"temprature": 1}, "options: 'temprature', want any of"),
        ({}, "hamiltonian", {"budget": 3.0}, "budget: 3.0, want between 1 and top_k = 2"),
        ({}, "hamiltonian", {"top_k": 3}, "top_k: 3, want 2 as moe_router_topk is"),
        (
            {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.01},
            "hamiltonian", {}, "moe_aux_loss_coeff: 0.01, want 0",
        ),
        ({"moe_z_loss_coeff": 0.1}, "hamiltonian", {}, "moe_z_loss_coeff: 0.1, want None"),
        ({"moe_router_num_groups": 3, "moe_router_group_topk": 2}, "hamiltonian", {}, "moe_router_num_groups: 3"),
        (
            {"moe_router_num_groups": 3, "moe_router_group_topk": 2, "moe_router_score_function": "sigmoid"},
            "deepseek",
            {},
            "moe_router_group_topk: 2 with moe_router_topk 2",
        ),
        ({"moe_token_dispatcher_type": "flex"}, "hamiltonian", {"budget": 1.5}, "moe_token_dispatcher_type: 'flex'"),
        ({"activation_func": torch.sin}, None, {}, "activation_func: sin, want one of silu"),
        ({"glu_linear_offset": 1.0}, None, {}, "glu_linear_offset: 1.0 with"),
        ({"params_dtype": torch.float16}, None, {}, "params_dtype: torch.float16, want torch.float32"),
        ({"moe_apply_probs_on_input": True}, None, {}, "moe_apply_probs_on_input: True, want False"),
    ],
)  # fmt: skip
def test_refusals(
    options: dict[str, Any], router: str | None, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=message):
        layer(config(**options), router, **arguments)


def test_refusals_at_run_time() -> None:
    module = layer(config(), "hamiltonian")
    with pytest.raises(NotImplementedError, match="padding_mask: was given"):
        module(tokens(), padding_mask=torch.zeros(3, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="budget: was given, but router is None"):
        layer(config(), None, budget=1.5)
    assert HIDDEN != WIDTH  # the shapes above tell the axes apart


def test_the_documented_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program = Path(__file__).parents[4] / "examples" / "python" / "integrations" / "megatron.py"
    runpy.run_path(str(program))
    prices = re.findall(r"-?\d\.\d+", capsys.readouterr().out)
    assert len(prices) == 8 and any(float(price) for price in prices)
