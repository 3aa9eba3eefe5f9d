"""What a record says of layers that grow."""

from __future__ import annotations

from pathlib import Path

import torch

import genesis_moe as gm
from genesis_moe import energy
from genesis_moe.energy.families import Family, events_between, family_of
from genesis_moe.mitosis import MitosisOptions, split


def growing() -> gm.MoE:
    torch.manual_seed(0)
    return gm.MoE(8, 12, 2, top_k=1, max_experts=5, mitosis=MitosisOptions(interval=1000, window=4))


def test_a_record_tells_of_splits(tmp_path: Path) -> None:
    path, layer = tmp_path / "run.jsonl", growing()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    with gm.EnergyRecorder(path, model=torch.nn.Sequential(layer), report_every=3) as recorder:
        for step in range(12):
            layer(torch.randn(64, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            gm.step(layer, optimizer)
            if step == 5:
                assert split(layer, 1, optimizer) == 2
            if step == 10:
                assert split(layer, 2, optimizer) == 3
            recorder.step(64)
        recorder.trace([str(token) for token in range(64)])
    (trace,) = (line for line in energy.read_record(path) if line["kind"] == "trace")
    used = {expert for token in trace["tokens"] for expert in token["layers"][0]["experts"]}
    assert used == {0, 1, 2, 3}, "slots, and not the clans that the router chose"
    lines = [line for line in energy.read_record(path) if line["kind"] in ("run", "step", "event")]
    (head,) = (line["layers"] for line in lines if line["kind"] == "run")
    assert (head[0]["experts"], head[0]["clans"], head[0]["free"]) == (5, [-1] * 5, [2, 3, 4])
    events = [
        (line["event"], line["layer"], line["expert"], line["child"])
        for line in lines
        if line["kind"] == "event"
    ]
    assert events == [("split", 0, 1, 2), ("split", 0, 2, 3)]
    kinds = [line["kind"] for line in lines]
    assert kinds[5:8] == ["step", "event", "step"]  # the sixth step, told before its line
    tokens = [line["layers"][0]["tokens"] for line in lines if line["kind"] == "step"]
    assert tokens[4][2] == 0 and tokens[7][2] > 0
    assert family_of(layer) == Family([-1, -1, 1, 2, -1], [4])


def test_every_change_has_its_event() -> None:
    before = Family([-1, -1, 1, 2, -1], [4])
    after = Family([-1, -1, -1, -1, 0], [2])  # 2 died, 3 was promoted, 0 split
    told = [(line["event"], line["expert"], line.get("child")) for line in events_between(7, before, after)]
    assert told == [("death", 2, None), ("promotion", 3, None), ("split", 0, 4)]
    assert list(events_between(7, before, before)) == []
    assert all(line["layer"] == 7 for line in events_between(7, before, after))
    # A slot that was free is born without a parent when its clan was opened by hand: nothing to tell.
    assert list(events_between(0, before, Family([-1, -1, 1, 2, -1], []))) == []


def test_a_layer_that_does_not_grow_has_no_family() -> None:
    assert family_of(gm.MoE(8, 12, 2)) is None
