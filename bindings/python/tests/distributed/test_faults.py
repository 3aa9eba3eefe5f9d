"""A rank that dies or differs: every other rank says so, and says who, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributed import programs_faults as programs
from distributed.ranks import Ranks
from genesis_moe.distributed import latest


@pytest.mark.parametrize("sharded", [False, True], ids=["whole experts", "sharded experts"])
def test_nan_on_one_rank(ranks: Ranks, sharded: bool) -> None:
    for message, unmoved in ranks.run(programs.not_finite, sharded, world=3):
        assert "NaN or infinity in the routing weights on rank 1" in message and unmoved


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        (
            programs.other_version,
            "ranks differ in the version of genesis_moe: 0.1.0 on rank 0, 0.0.1 on rank 1",
        ),
        (programs.other_router, "ranks differ in the budget and rates of router router: (1.5, "),
        (programs.fewer_routers, "ranks differ in the number of routers: 1 on rank 0, 0 on rank 1"),
        (
            programs.other_experts,
            "shard_experts: ranks differ in gate_up_proj of the layer: ([4, 16, 8], 'torch.float32') on rank 0",
        ),
        (programs.parted_prices, "the prices and gaps of 2 ranks are not the same"),
    ],
)
def test_ranks_that_differ(ranks: Ranks, program: Callable[[], str], wanted: str) -> None:
    for message in ranks.run(program, world=2):
        assert wanted in message


def check_killed(program: Callable[..., str], *arguments: Any) -> None:
    ranks = Ranks(3)
    try:
        first, killed, last = ranks.answers(program, *arguments)
    finally:
        ranks.close()
    assert killed == (False, "ended")
    for done, message in (first, last):
        assert done and "rank 1 died or stalls" in message, message


@pytest.mark.parametrize(
    "program",
    [
        programs.killed,
        programs.killed_in_the_layer,
        programs.killed_in_backward,
        programs.killed_in_held_out,
    ],
)
def test_a_killed_rank(program: Callable[[], str]) -> None:
    check_killed(program)


def test_a_rank_killed_in_a_save(tmp_path: Path) -> None:
    check_killed(programs.killed_in_save, str(tmp_path))
    assert latest(tmp_path) is None


@pytest.mark.parametrize("in_the_layer", [False, True], ids=["in gm.step", "in the layer"])
def test_a_stalled_rank(ranks: Ranks, in_the_layer: bool) -> None:
    *others, _ = ranks.run(programs.stalled, in_the_layer, world=3)
    for message, seconds in others:
        assert "rank 2 died or stalls" in message
        assert programs.STALL_TIMEOUT_SECONDS - 1 < seconds < programs.STALL_TIMEOUT_SECONDS + 15
