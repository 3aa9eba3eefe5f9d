"""Experts spread over ranks compute what one process computes, whatever the tokens choose."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from distributed import programs_data
from distributed import programs_experts as programs
from distributed.ranks import Ranks
from distributed.test_data_parallel import check, check_bfloat16

SIZES = {"alike": [6, 6, 6, 6], "unlike": [11, 0, 1, 12], "one has all": [0, 24, 0, 0]}


@pytest.mark.parametrize("name", programs.LAYERS)
@pytest.mark.parametrize("sizes", SIZES)
def test_layer(ranks: Ranks, name: str, sizes: str) -> None:
    one = ranks.run(programs.layer, name, SIZES[sizes], torch.float32, world=1)[0]
    found = ranks.run(programs.layer, name, SIZES[sizes], torch.float32)
    for key in ("y", "x"):
        whole = torch.cat([rank[key] for rank in found])
        assert torch.allclose(whole, one[key], rtol=1e-5, atol=1e-6), key
    for rank in found:
        assert rank["gradients"].keys() == one["gradients"].keys()
        for parameter, gradient in one["gradients"].items():
            assert torch.allclose(rank["gradients"][parameter], gradient, rtol=1e-5, atol=1e-6), parameter
    check_traffic(found, programs.LAYERS[name]["num_experts"])


def check_traffic(found: list[dict[str, Any]], num_experts: int) -> None:
    """A token is one row to each other rank with an expert of it: counted from the routing alone."""
    per_rank = -(-num_experts // len(found))
    for rank, of_rank in enumerate(found):
        needed = [{e // per_rank for e in token if e < num_experts} for token in of_rank["index"].tolist()]
        sent = sum(len(ranks - {rank}) for ranks in needed)
        assert of_rank["traffic"]["forward_rows"] == sent
    rows = sum(of_rank["traffic"]["forward_rows"] for of_rank in found)
    slots = found[0]["index"].shape[1]
    there = rows * (16 * 4 + slots * (4 + 4))  # hidden states, weights and int32 indices
    assert sum(of_rank["traffic"]["forward_bytes"] for of_rank in found) == there + rows * 16 * 4
    assert sum(of_rank["traffic"]["backward_bytes"] for of_rank in found) == rows * (2 * 16 * 4 + slots * 4)


def test_float64_is_exact_to_rounding(ranks: Ranks) -> None:
    one = ranks.run(programs.layer, "uneven", [9, 5], torch.float64, world=1)[0]
    found = ranks.run(programs.layer, "uneven", [9, 5], torch.float64, world=2)
    assert torch.allclose(torch.cat([rank["y"] for rank in found]), one["y"], rtol=0, atol=1e-13)


@pytest.mark.parametrize(  # a mesh of two dimensions has four ranks
    ("wrapping", "world"), [("ddp", 2), ("ddp", 4), ("fsdp2", 2), ("fsdp2", 4), ("mesh", 4)]
)
def test_training(ranks: Ranks, wrapping: str, world: int) -> None:
    one = ranks.run(programs_data.one, world=1)[0]
    check(ranks.run(programs.trained, wrapping, world=world), one)


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp2"])
@pytest.mark.parametrize("how", ["no_sync", "checkpointed", "compiled"])
def test_training_otherwise(ranks: Ranks, wrapping: str, how: str) -> None:
    one = ranks.run(programs_data.one, world=1)[0]
    check(ranks.run(partial(programs.trained, **{how: True}), wrapping, world=2), one)


@pytest.mark.parametrize(("wrapping", "how"), [("ddp", "autocast"), ("fsdp2", "mixed")])
def test_training_in_bfloat16(ranks: Ranks, wrapping: str, how: str) -> None:
    one = ranks.run(programs_data.one, True, world=1)[0]
    check_bfloat16(ranks.run(partial(programs.trained, **{how: True}), wrapping, world=2), one)


def test_a_rank_without_experts_in_bfloat16(ranks: Ranks) -> None:
    sizes = [6, 6, 6, 6]
    name = "fewer experts than ranks"
    one = ranks.run(programs.layer, name, sizes, torch.float32, True, world=1)[0]
    found = ranks.run(programs.layer, name, sizes, torch.float32, True)
    assert torch.allclose(torch.cat([rank["y"] for rank in found]).float(), one["y"].float(), atol=0.02)
    for rank in found:
        for parameter, gradient in one["gradients"].items():
            assert torch.allclose(rank["gradients"][parameter], gradient, rtol=0.05, atol=0.05), parameter


def test_clipping_counts_every_shard_once(ranks: Ranks) -> None:
    (one,) = ranks.run(programs.clipped, world=1)
    for before, after in ranks.run(programs.clipped, world=3):
        assert before == pytest.approx(one[0], rel=1e-5) and after == pytest.approx(1.0, rel=1e-4)


def test_work_is_counted_under_the_expert_s_own_number(ranks: Ranks) -> None:
    found = ranks.run(programs.counted, world=3)
    done = torch.tensor([tokens for tokens, _ in found])
    assert torch.equal(done.sum(0), torch.tensor([loads for _, loads in found]).sum(0))
    assert [row.nonzero().flatten().tolist() for row in done] == [[0, 1, 2], [3, 4, 5], [6]]
