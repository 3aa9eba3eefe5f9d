"""The study of growth: its measures know the answers they must know, and its arms run and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import genesis_moe as gm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.training import Settings
from genesis_moe.studies.mitosis import command
from genesis_moe.studies.mitosis.measures import Stability, mutual_information, spherical_k_means, stability
from genesis_moe.studies.mitosis.summary import loss_at, markdown, total_flops

QUICK = Stability(probes=512, clusters=4, restarts=8, seeds=(0,), pairs=2000)


def test_mutual_information_is_that_of_a_code_and_nothing_for_noise() -> None:
    domains = np.repeat(np.arange(4), 10)
    code = np.eye(4, dtype=int)[domains] * 50
    found = mutual_information(code, domains)
    assert found["mutual_information"] + found["mutual_information_null"] == pytest.approx(np.log(4))
    noise = np.random.default_rng(0).poisson(20, (40, 4))
    assert abs(mutual_information(noise, domains)["mutual_information"]) < 0.01


def test_the_index_scores_noise_high_and_collapse_one_so_the_nulls_must_stand_beside() -> None:
    generator = np.random.default_rng(1)
    noise = stability(generator.standard_normal((512, 64)), QUICK)
    assert noise["ssi"] > 0.97 and noise["ssi"] == pytest.approx(noise["ssi_random_vectors"], abs=0.01)
    collapsed = stability(np.ones((512, 64)) + 1e-9 * generator.standard_normal((512, 64)), QUICK)
    assert collapsed["ssi"] == pytest.approx(1)
    centers = 4 * generator.standard_normal((4, 64))
    grouped = stability(centers[np.arange(512) % 4] + generator.standard_normal((512, 64)), QUICK)
    assert grouped["ssi_adjusted"] > 0.7 and grouped["ssi"] > grouped["ssi_shuffled"] + 0.05
    assert grouped["within_cosine"] > 0.8 and grouped["effective_rank"] > 3


def test_k_means_finds_separate_groups() -> None:
    generator = np.random.default_rng(2)
    x = np.eye(8)[:4][np.arange(80) % 4] + 0.01 * generator.standard_normal((80, 8))
    labels = spherical_k_means(x / np.linalg.norm(x, axis=1, keepdims=True), 4, 5, generator)
    assert all(len(set(labels[i::4])) == 1 for i in range(4)) and len(set(labels)) == 4


def test_every_arm_runs_follows_mitosis_and_is_resumed(
    tmp_path: Path, corpus: Corpus, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = gm.MitosisOptions(
        interval=4, window=1, cooldown=0, min_tokens=1, spread=0, max_cosine=1, null_percentile=1, ramp=2
    )
    monkeypatch.setattr(command, "GROWTH", eager)
    monkeypatch.setattr(command, "SMOKE_STABILITY", QUICK)
    corpus.save(tmp_path / "corpus.npz")
    settings = replace(settings, steps=12, evaluate_every=6)
    record = command._study(tmp_path, (0,), settings, 1)
    assert not record["partial"] and [run["arm"] for run in record["runs"]] == list(command.ARMS)
    runs = {run["arm"]: run for run in record["runs"]}
    experts = {name: [layer["experts"] for layer in run["layers"]] for name, run in runs.items()}
    assert max(experts["mitosis"]) > 4 and experts["fixed-start"] == [4, 4]
    for name in ("fixed-end", "random-times", "random-experts"):
        assert experts[name] == experts["mitosis"], name
    same_times = [
        [layer["splits"] for layer in runs[name]["layers"]] for name in ("mitosis", "random-experts")
    ]
    assert same_times[0] == same_times[1]
    flops = {run["expert_flops"] for run in runs.values()}
    assert len(flops) == 1, "two experts a token in every arm"
    run = runs["mitosis"]
    assert loss_at(run, total_flops(run)) == pytest.approx(run["held_out"]["loss"])
    assert "as many splits" in markdown(record)
    assert json.loads((tmp_path / "mitosis.json").read_text())["runs"] == json.loads(
        json.dumps(record["runs"])
    )
    assert command._study(tmp_path, (0,), settings, 1)["runs"] == json.loads(json.dumps(record["runs"]))
    pytest.importorskip("matplotlib")
    from genesis_moe.studies.mitosis.figures import draw

    assert draw(record, tmp_path / "figures")[0].stat().st_size > 10_000
