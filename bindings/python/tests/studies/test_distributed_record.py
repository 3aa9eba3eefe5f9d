"""The committed record of the study `distributed` says what its table says, and what is claimed of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from genesis_moe.studies.distributed.command import RANKS, SEEDS
from genesis_moe.studies.distributed.table import table
from genesis_moe.studies.distributed.training import LAYOUTS, first_difference
from genesis_moe.studies.record import read_json


@pytest.fixture
def record(root: Path) -> dict:
    return read_json(root / "bench/distributed/same_training.json")


def test_the_table_is_generated(record, root):
    assert (root / "bench/distributed/same_training.md").read_text() == table(record)


def test_every_layout_ran_or_is_said_to_be_missing(record):
    found = {(run["layout"], run["ranks"], run["dtype"]) for run in record["runs"]}
    missing = {tuple(run) for run in record["missing"]}
    assert not found & missing and len(missing) <= 3
    assert found | missing == {
        (layout, ranks, dtype)
        for ranks in RANKS
        for layout in (("one",) if ranks == 1 else LAYOUTS)
        for dtype in ("float32", "float64")
    }
    assert sum(run["layout"] == "one" for run in record["runs"]) == len(SEEDS) + 1


def test_same_loss_and_buffers(record):
    ones = {(run["dtype"], run["seed"]): run for run in record["runs"] if run["layout"] == "one"}
    losses = [run["held_out"] for (dtype, _), run in ones.items() if dtype == "float32"]
    noise = max(losses) - min(losses)
    for run in record["runs"]:
        one = ones[run["dtype"], run["seed"]]
        assert run["ranks_parted_at"] is None
        assert abs(run["held_out"] - one["held_out"]) < noise / 2
        if run["dtype"] == "float64":
            assert first_difference(one, run) is None and run["buffers"] == one["buffers"]
