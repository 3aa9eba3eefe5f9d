"""The comparison's training, its batch cut between processes: the same loss and the same routing buffers."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.programs_training import trained
from distributed.ranks import Ranks
from genesis_moe.studies.distributed.training import LAYOUTS, first_difference

ARM_NAMES = ("hamiltonian-1.25", "deepseek")


@pytest.fixture(scope="module")
def one(ranks: Ranks) -> dict[str, dict[str, Any]]:
    found = ranks.run(trained, [("one", arm) for arm in ARM_NAMES], world=1)[0]
    return {run["arm"]: run for run in found}


@pytest.mark.parametrize("world", [2, 4])
def test_same_loss_and_buffers(ranks: Ranks, one: dict[str, dict[str, Any]], world: int) -> None:
    runs = [(layout, ARM_NAMES[0]) for layout in LAYOUTS] + [("ddp", ARM_NAMES[1])]
    of_ranks = ranks.run(trained, runs, world=world)
    assert all(found == of_ranks[0] for found in of_ranks), "every rank the same, to the last bit"
    for run in of_ranks[0]:
        alone = one[run["arm"]]
        assert run["ranks_parted_at"] is None
        assert first_difference(alone, run) is None, run["layout"]
        assert run["buffers"] == alone["buffers"]
        assert len(set(run["buffers_crc32"])) >= run["steps"] - 1, (
            "they move; at the last step the rate may be 0"
        )
        assert run["held_out"] == pytest.approx(alone["held_out"], abs=1e-9)
        assert run["training_loss"] == pytest.approx(alone["training_loss"], abs=2e-6)
    assert of_ranks[0][2]["exchanged_bytes"] > 0, "the experts were spread"


def test_wrong_layouts_are_refused(ranks: Ranks) -> None:
    for done, message in ranks.answers(trained, [("one", ARM_NAMES[0])], world=2):
        assert not done and "layout: 'one' on 2 ranks, want one of ddp, fsdp2, experts" in message
    for done, message in ranks.answers(trained, [("ddp", ARM_NAMES[0])], world=3):
        assert not done and "batch: 4, want a multiple of 3 ranks" in message
