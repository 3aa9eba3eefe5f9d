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


@pytest.mark.parametrize(("layout", "world"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
def test_as_one_process(ranks: Ranks, one: dict[str, Any], layout: str, world: int) -> None:
    check(ranks.run(programs.whole, layout, world=world), one)


@pytest.mark.parametrize(
    ("written", "wrote", "read", "reads"),
    [("ddp", 4, "one", 1), ("one", 1, "ddp", 2), ("fsdp2", 2, "fsdp2", 3)],
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


def test_spread_experts_do_not_split(ranks: Ranks) -> None:
    for message in ranks.run(programs.spread, world=2):
        assert "has max_experts; experts that split cannot be sharded" in message
