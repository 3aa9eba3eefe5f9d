"""The study of scale: its model against counting row by row, its placement, its fit, and its record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genesis_moe.studies import scale
from genesis_moe.studies.record import read_json, write_json
from genesis_moe.studies.scale import gloo, paper
from genesis_moe.studies.scale.cost import (
    SCHEDULES,
    Rows,
    dispatch_and_combine,
    families,
    reach,
    reached,
)
from genesis_moe.studies.scale.fabrics import FABRICS, GPUS_PER_NODE, NVLINK_ALPHA, NVLINK_BANDWIDTH
from genesis_moe.studies.scale.placement import by_coactivation, by_number
from genesis_moe.studies.scale.traces import NAMES, as_text, count_pairs

EXPERTS = 64


def choices(tokens: int = 400, seed: int = 0) -> np.ndarray:
    """[T, 2] sorted experts; every third token has one only."""
    generator = np.random.default_rng(seed)
    index = np.stack([generator.choice(EXPERTS, 2, replace=False, p=loads()) for _ in range(tokens)])
    index[::3, 1] = EXPERTS
    return index


def loads() -> np.ndarray:
    uneven = np.linspace(1, 3, EXPERTS)
    return uneven / uneven.sum()


def pairs_of(index: np.ndarray) -> np.ndarray:
    pairs = np.zeros((EXPERTS, EXPERTS), dtype=np.int64)
    count_pairs(index, pairs)
    return pairs


def test_pairs_say_what_tokens_chose_together() -> None:
    pairs = pairs_of(np.array([[3, 1], [1, 3], [5, EXPERTS], [EXPERTS, 5], [1, 3]]))
    assert pairs[1, 3] == 3 and pairs[5, 5] == 2 and pairs.sum() == 5
    with pytest.raises(ValueError, match="index: 3 slots a token, want at most 2"):
        count_pairs(np.zeros((1, 3), dtype=np.int64), pairs)


def rows_counted(index: np.ndarray, rank_of: np.ndarray, ranks: int, schedule: str) -> tuple[float, float]:
    """(NVLink, network) rows per token of a rank's mean, by sending every token of every rank."""
    nvlink = network = 0
    for me in range(ranks):
        node = me // GPUS_PER_NODE
        for token in index:
            needed = {int(rank_of[e]) for e in token if e < EXPERTS}
            beside = {r for r in needed if r // GPUS_PER_NODE == node}
            nvlink += len(beside - {me})
            if schedule == "direct":
                network += len(needed - beside)
                continue
            for other in {r // GPUS_PER_NODE for r in needed - beside}:
                network += 1
                entrance = other * GPUS_PER_NODE + me % GPUS_PER_NODE
                nvlink += len({r for r in needed if r // GPUS_PER_NODE == other} - {entrance})
    return nvlink / (ranks * len(index)), network / (ranks * len(index))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("ranks", [8, 32])
def test_the_model_counts_the_rows_that_are_sent(schedule: str, ranks: int) -> None:
    index, rows = choices(), Rows()
    pairs, rank_of = pairs_of(index), by_number(EXPERTS, ranks)
    cost = dispatch_and_combine(reach(pairs, rank_of, ranks), FABRICS[0], rows, schedule)
    nvlink, network = rows_counted(index, rank_of, ranks, schedule)
    size = rows.bytes_out + rows.bytes_back
    assert cost.nvlink_bytes_per_token == pytest.approx(size * nvlink)
    assert cost.network_bytes_per_token == pytest.approx(size * network)
    assert (network == 0) == (ranks == 8)


def test_a_node_takes_the_time_of_its_messages_and_its_fullest_rank() -> None:
    pairs, rows = np.diag(np.r_[3, np.ones(7, dtype=np.int64)]), Rows(tokens=1000)
    cost = dispatch_and_combine(reach(pairs, np.arange(8), 8), FABRICS[0], rows, "direct")
    received = 7 * rows.tokens * 3 / 10  # by the fullest; from seven others
    bytes_both_ways = received * (rows.bytes_out + rows.bytes_back)
    seconds = 2 * 7 * NVLINK_ALPHA.value + bytes_both_ways / NVLINK_BANDWIDTH.value
    assert cost.seconds_per_token * rows.tokens == pytest.approx(seconds)
    with pytest.raises(ValueError, match="schedule: 'ring', want one of"):
        dispatch_and_combine(reach(pairs, np.arange(8), 8), FABRICS[0], rows, "ring")


def test_fewer_experts_a_token_cost_less() -> None:
    index = choices()
    one = index.copy()
    one[:, 1] = EXPERTS
    for schedule in SCHEDULES:
        for fabric in FABRICS:
            both, single = (
                dispatch_and_combine(reach(pairs_of(i), by_number(EXPERTS, 64), 64), fabric, Rows(), schedule)
                for i in (index, one)
            )
            assert single.joules_per_token < both.joules_per_token
            assert single.network_bytes_per_token < both.network_bytes_per_token


@pytest.mark.parametrize("times", [2, 8, 16])
def test_families_keep_their_experts_loads(times: int) -> None:
    pairs = pairs_of(choices())
    larger = families(pairs, times)
    assert larger.sum() == pytest.approx(pairs.sum())
    back = reached(larger, np.repeat(np.arange(EXPERTS), times), EXPERTS)
    np.testing.assert_allclose(back, reached(pairs, np.arange(EXPERTS), EXPERTS))
    # The short way for large families is the long one.
    position = np.random.default_rng(0).permutation(EXPERTS)
    found = reach(pairs, position, EXPERTS, times)
    members = (position[:, None] * times + np.arange(times)).ravel()
    wanted = reach(larger, members, EXPERTS * times)
    np.testing.assert_allclose(found.ranks, wanted.ranks)
    np.testing.assert_allclose(found.nodes, wanted.nodes)


def test_placement_finds_experts_that_are_chosen_together() -> None:
    groups = np.random.default_rng(1).permutation(EXPERTS).reshape(8, 8)
    pairs = np.zeros((EXPERTS, EXPERTS), dtype=np.int64)
    for group in groups:
        for a in group:
            for b in group:
                pairs[min(a, b), max(a, b)] += 10 * (a != b)
    pairs += np.triu(np.ones_like(pairs), 1)
    placed = by_coactivation(pairs, 8)
    assert np.array_equal(np.bincount(placed), np.full(8, 8))
    assert all(len(set(placed[group])) == 1 for group in groups)
    assert reached(pairs, placed, 8).sum() < reached(pairs, by_number(EXPERTS, 8), 8).sum()
    assert np.array_equal(by_coactivation(pairs, 8), placed)  # the same every time
    with pytest.raises(ValueError, match="ranks: 6, want a power of two that divides the 64 experts"):
        by_coactivation(pairs, 6)


def test_the_fit_recovers_alpha_and_beta() -> None:
    splits = [gloo.even(rows, 4) for rows in gloo.FITTED]
    loads_ = [gloo.load(split) for split in splits]
    assert loads_[0] == (3, 3 * 4 * gloo.WIDTH)
    alpha, beta = gloo.fit(splits, [40e-6 * messages + size / 2e9 for messages, size in loads_])
    assert alpha == pytest.approx(40e-6) and beta == pytest.approx(1 / 2e9)
    alpha, beta = gloo.fit(splits, [size / 2e9 for _, size in loads_])
    assert alpha == pytest.approx(0, abs=1e-12) and beta == pytest.approx(1 / 2e9)
    falling = gloo.fit(splits, [1 / size for _, size in loads_])
    assert min(falling) >= 0


def test_exchanges_are_measured() -> None:
    small, large = gloo.measure([gloo.even(1, 2), gloo.even(4096, 2)], 2, rounds=15)
    assert 0 < small["q25"] <= small["median"] <= small["q75"]
    assert large["q25"] > small["q25"]  # the medians have what else the machine does


def test_the_command_writes_a_record_that_its_table_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halves = as_text(np.stack([pairs_of(choices(seed=seed))[None] for seed in (1, 2)]))
    traces = [{"arm": name, "held_out_loss": 1.0, "halves": halves} for name in NAMES]
    write_json(tmp_path / "traces.json", {"traces": traces})
    arguments = ["scale", "--out", str(tmp_path), "--no-check"]
    from genesis_moe.cli import main

    assert main(arguments) == 0
    record = read_json(tmp_path / "scale.json")
    costs = record["paper"]["costs"]
    assert {cost["gpus"] for cost in costs} == set(paper.GPUS)
    assert all(cost["seconds_per_token"] > 0 and cost["joules_per_token"] > 0 for cost in costs)
    assert all(cost["extrapolated"] == (cost["spread"] == "wide") for cost in costs)
    assert all(figure["source"] for fabric in record["paper"]["figures"]["fabrics"]
               for figure in fabric.values() if isinstance(figure, dict))  # fmt: skip
    assert "halves" not in json.dumps(record)
    table = (tmp_path / "table.md").read_text()
    (tmp_path / "table.md").unlink()
    assert main(["scale", "--from-json", str(tmp_path / "scale.json")]) == 0
    assert (tmp_path / "table.md").read_text() == table
    assert main(["scale", "--out", str(tmp_path), "--rounds", "0"]) == 1
    assert "--rounds: 0, want at least 1" in capsys.readouterr().err
    assert scale.run
