"""Experts split alike in one process and in several, and from a checkpoint of either in either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distributed import programs_growth as programs
from distributed.ranks import Ranks


@pytest.fixture(scope="module")
def one(ranks: Ranks) -> dict[str, Any]:
    found = ranks.run(programs.whole, "one", world=1)[0]
    assert sum(kind == "split" for _, kind, _ in found["events"]) >= 2
    return found


def check(found: list[dict[str, Any]], one: dict[str, Any]) -> None:
    for rank in found:
        assert rank["events"] == one["events"] and rank["names"] == one["names"]
        assert torch.equal(rank["price"], found[0]["price"])
        for name, buffer in found[0]["clans"].items():
            assert torch.equal(rank["clans"][name].nan_to_num(), buffer.nan_to_num()), name
        for name, parameter in one["parameters"].items():
            assert torch.allclose(rank["parameters"][name], parameter, atol=1e-9), name
        for mine, theirs in zip(rank["moments"], one["moments"], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("layout", "world"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4), ("experts", 2), ("experts", 3)]
)
def test_as_one_process(ranks: Ranks, one: dict[str, Any], layout: str, world: int) -> None:
    check(ranks.run(programs.whole, layout, world=world), one)


@pytest.mark.parametrize(
    ("written", "wrote", "read", "reads"),
    [("ddp", 4, "one", 1), ("one", 1, "experts", 2), ("fsdp2", 2, "fsdp2", 3), ("experts", 4, "ddp", 2)],
)
def test_from_a_checkpoint_within_a_window(
    ranks: Ranks, one: dict[str, Any], tmp_path: Path, written: str, wrote: int, read: str, reads: int
) -> None:
    """After a split, with children young and sums half gathered."""
    split = next(step for step, kind, _ in one["events"] if kind == "split")
    at = split + 2
    assert at % programs.OPTIONS.window
    ranks.run(programs.write, written, str(tmp_path), at, world=wrote)
    check(ranks.run(programs.read, read, str(tmp_path), world=reads), one)


def test_checkpoint_of_a_data_group(ranks: Ranks, one: dict[str, Any], tmp_path: Path) -> None:
    check(ranks.run(programs.in_groups, str(tmp_path)), one)


HAPPENED = {
    "strict": {"split", "death", "death refused", "promotion refused"},
    "lenient": {"split", "promotion"},
}


@pytest.fixture(scope="module", params=HAPPENED)
def tried(ranks: Ranks, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    found = ranks.run(programs.tried, "one", request.param, world=1)[0]
    assert {kind for _, kind, _ in found["events"]} - {"full"} == HAPPENED[request.param]
    return request.param, found


@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "experts"])
def test_death_and_promotion(ranks: Ranks, tried: tuple[str, dict[str, Any]], layout: str) -> None:
    how, alone = tried
    check(ranks.run(programs.tried, layout, how, world=2), alone)


def test_held_out_is_averaged_where_the_layer_is(ranks: Ranks) -> None:
    """NCCL has no collectives of CPU tensors."""
    for message in ranks.run(programs.evaluated_elsewhere, world=2):
        assert "gm.step: held_out: the all_reduce of 1 numbers" in message and "asked for meta" in message
