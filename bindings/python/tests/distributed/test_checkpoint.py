"""Checkpoints go from any layout to any other, and an interrupted one replaces none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import genesis_moe as gm
from distributed import programs_checkpoint as programs
from distributed.ranks import Ranks
from genesis_moe.distributed import latest, load

LAYOUTS = [("experts", 4), ("fsdp2", 2)]


@pytest.mark.parametrize(("written", "wrote"), LAYOUTS)
def test_from_a_layout_to_every_other(ranks: Ranks, tmp_path: Path, written: str, wrote: int) -> None:
    went_on = ranks.run(programs.write, written, str(tmp_path), world=wrote)[0]
    for layout, world in (("one", 1), ("ddp", 2), ("fsdp2", 4), ("experts", 3)):
        found = ranks.run(programs.read, layout, str(tmp_path), world=world)
        for rank in found:
            assert torch.equal(rank["prices"], went_on["prices"]), (layout, world)
            for name, parameter in went_on["parameters"].items():
                assert torch.allclose(rank["parameters"][name], parameter, atol=2e-5), (layout, world, name)


def test_an_interrupted_save_replaces_nothing(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(programs.write, "ddp", str(tmp_path), world=2)
    good = latest(tmp_path)
    for message, *checkpoints in ranks.run(programs.interrupt, str(tmp_path), world=2):
        assert "rank 1: no space left on device" in message
        assert checkpoints == ["step-000000002"]
    assert latest(tmp_path) == good
    ranks.run(programs.read, "ddp", str(tmp_path), world=2)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None and latest(tmp_path / "nowhere") is None
    (tmp_path / "step-000000001").mkdir()
    assert latest(tmp_path) is None, "a folder that another program began"
    model, optimizer = programs.build("one")
    with pytest.raises(gm.InvalidArgumentError, match="no whole checkpoint"):
        load(tmp_path / "step-000000001", model, optimizer)
