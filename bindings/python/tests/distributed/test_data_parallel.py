"""DDP and FSDP2: every rank the same routing buffers, and the numbers of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distributed import programs_data as programs
from distributed.ranks import Ranks


@pytest.fixture(scope="module")
def one(ranks: Ranks) -> dict[str, Any]:
    return ranks.run(programs.one, world=1)[0]


def check(found: list[dict[str, Any]], one: dict[str, Any], counted: bool = True) -> None:
    for rank in found:
        assert torch.equal(rank["prices"], found[0]["prices"]), "bit for bit"
    assert torch.equal(found[0]["prices"], one["prices"]), "whole counts, so the same prices as one process"
    if counted:
        for step in range(len(one["counts"])):
            assert torch.equal(sum(rank["counts"][step] for rank in found), one["counts"][step])
            assert torch.equal(sum(rank["tokens"][step] for rank in found), one["tokens"][step])
    for name, parameter in one["parameters"].items():
        assert torch.allclose(found[0]["parameters"][name], parameter, atol=1e-5), name


@pytest.mark.parametrize("world", [2, 4])
def test_replicated(ranks: Ranks, one: dict[str, Any], world: int) -> None:
    check(ranks.run(programs.replicated, world == 4, False, False, world=world), one)


def test_replicated_with_activation_checkpointing(ranks: Ranks, one: dict[str, Any]) -> None:
    check(ranks.run(programs.replicated, False, True, False, world=2), one)


def test_replicated_and_compiled(ranks: Ranks, one: dict[str, Any]) -> None:
    check(ranks.run(programs.replicated, True, False, True, world=2), one)


@pytest.mark.parametrize("world", [2, 4])
def test_sharded(ranks: Ranks, one: dict[str, Any], world: int) -> None:
    check(ranks.run(programs.sharded, world == 4, False, False, world=world), one)


def test_sharded_and_compiled(ranks: Ranks, one: dict[str, Any]) -> None:
    check(ranks.run(programs.sharded, False, True, False, world=2), one)


def test_sharded_and_accumulated_before_it_is_reduced(ranks: Ranks, one: dict[str, Any]) -> None:
    check(ranks.run(programs.sharded, False, False, False, True, world=2), one)


def check_bfloat16(found: list[dict[str, Any]], one: dict[str, Any]) -> None:
    """Every token is counted and all ranks have the same bits; rounding may send a token elsewhere."""
    for rank in found:
        assert torch.equal(rank["prices"], found[0]["prices"]), "bit for bit"
    for step, tokens in enumerate(one["tokens"]):
        assert torch.equal(sum(rank["tokens"][step] for rank in found), tokens)
    assert torch.allclose(found[0]["prices"], one["prices"], atol=0.02)
    for name, parameter in one["parameters"].items():
        assert torch.allclose(found[0]["parameters"][name], parameter, atol=0.02), name


def test_replicated_in_bfloat16(ranks: Ranks) -> None:
    one = ranks.run(programs.one, True, world=1)[0]
    check_bfloat16(ranks.run(programs.replicated, True, False, False, True, world=2), one)


def test_sharded_in_bfloat16(ranks: Ranks) -> None:
    one = ranks.run(programs.sharded, False, False, False, False, True, world=1)[0]
    check_bfloat16(ranks.run(programs.sharded, True, False, False, True, True, world=2), one)


def test_sharded_on_a_mesh_of_two_dimensions(ranks: Ranks, one: dict[str, Any]) -> None:
    check(ranks.run(programs.sharded, False, False, True), one)


@pytest.mark.parametrize("sharding", [False, True], ids=["ddp", "fsdp2"])
def test_injected_hugging_face_model(ranks: Ranks, sharding: bool) -> None:
    one = ranks.run(programs.hugging_face, sharding, world=1)[0]
    found = ranks.run(programs.hugging_face, sharding, world=2)
    assert torch.equal(found[0]["prices"], found[1]["prices"])
    assert torch.equal(found[0]["prices"], one["prices"])
    assert found[0]["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_a_step_is_one_small_collective(ranks: Ranks) -> None:
    (sizes, _) = ranks.run(programs.collectives_of_a_step, world=2)
    assert sizes == [5 + 1 + 4 + 1 + 6], "experts and tokens of each router, and what guards them"
