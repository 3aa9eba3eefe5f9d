"""The table and the figures, from a record alone; the command line's errors."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

import genesis_moe as gm
from genesis_moe.studies.compare import command, main
from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.compare.study import Plan, carry_out
from genesis_moe.studies.compare.summary import energy_label, markdown_table, rows, text_table
from genesis_moe.studies.compare.training import Run
from genesis_moe.studies.record import read_json, write_json

NAMES = ("mixtral-top-2", "mixtral-lowered", "hamiltonian-1.25", "dense")


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus, settings):
    out = tmp_path_factory.mktemp("study")
    corpus.save(out / "corpus.npz")
    plan = Plan("smoke", tuple(ARMS[name] for name in NAMES), (0, 1), settings, out)
    return plan, carry_out(plan, show_progress=False)


def test_record_says_where_it_comes_from(study):
    plan, record = study
    assert json.loads(json.dumps(record)) == read_json(plan.out / "compare.json")
    assert record["environment"]["versions"]["torch"]
    assert record["environment"]["machine"]["processor"]
    assert len(record["corpus"]["sha256"]) == 64
    assert record["seeds"] == [0, 1]
    assert not record["partial"]
    assert record["not_run"]["hamiltonian-mitosis"] == "not asked for"
    assert "mixtral-top-1" in record["not_run"]
    assert all(run["library"]["version"] == gm.__version__ for run in record["runs"])
    assert all(run["environment"] == record["environment"] for run in record["runs"])
    for run in record["runs"]:  # as good as the meter of this machine
        assert (run["energy"]["joules"] is None) == (run["energy"]["source"] == "none")
        assert (run["energy"]["quality"] is None) == (run["energy"]["source"] == "none")


def test_rows_compare_seed_by_seed(study):
    _, record = study
    table = {row.name: row for row in rows(record)}
    assert list(table) == list(NAMES)
    base = table["mixtral-top-2"]
    assert (base.difference, base.relative_flops, base.relative_flops_at_end) == (None, 1.0, 1.0)
    losses = {(run["arm"], run["seed"]): run["held_out"]["loss"] for run in record["runs"]}
    differences = [losses["dense", seed] - losses["mixtral-top-2", seed] for seed in (0, 1)]
    assert table["dense"].difference.mean == pytest.approx(sum(differences) / 2)
    assert table["dense"].experts_per_token is None
    assert table["dense"].relative_flops == 1.0
    assert table["mixtral-lowered"].relative_flops < 0.8


def test_tables_name_every_arm_and_what_was_not_run(study):
    _, record = study
    for table in (text_table(record), markdown_table(record)):
        for arm in record["arms"]:
            assert arm["label"] in table
        assert "not measured" in table
        assert "hamiltonian-mitosis" in table
        assert "PARTIAL" not in table


def test_an_unfinished_run_is_not_compared(study):
    _, record = study
    cut = json.loads(json.dumps(record))
    cut["runs"][0].update(done=False)
    cut["missing"] = [{"arm": "mixtral-top-2", "seed": 0}]
    table = {row.name: row for row in rows(cut)}
    assert table["mixtral-top-2"].seeds == 1
    assert table["dense"].difference.pairs == 1
    assert "PARTIAL: not finished: mixtral-top-2 seed 0" in text_table(cut)


def test_a_record_is_continued_without_its_runs(study, corpus, tmp_path, monkeypatch):
    """As after a clone: further seeds of two arms, the record's own not trained again."""
    plan, record = study
    earlier = json.loads(json.dumps(record))
    for run in earlier["runs"]:
        del run["environment"]  # as in records of before runs had one
    corpus.save(tmp_path / "corpus.npz")
    timing = {"arms": {}, "rounds": 1, "seed": 0, "threads": 3, "load_average": 0.5}
    timing["environment"] = record["environment"]
    write_json(tmp_path / "compare.json", {**earlier, "timing": timing})
    trained, train_step = [], Run._train_step

    def counted(run):
        trained.append((run.arm.name, run.seed))
        return train_step(run)

    monkeypatch.setattr(Run, "_train_step", counted)
    more = replace(plan, out=tmp_path, arms=(ARMS["dense"], ARMS["mixtral-top-2"]), seeds=(1, 2))
    found = carry_out(more, show_progress=False)
    assert set(trained) == {("dense", 2), ("mixtral-top-2", 2)}
    assert (found["seeds"], found["partial"], found["timing"]) == ([0, 1, 2], False, timing)
    assert len(found["runs"]) == len(record["runs"]) + 2
    old = [run for run in found["runs"] if run["seed"] < 2]
    assert {(run["arm"], run["seed"]): run for run in old} == {
        (run["arm"], run["seed"]): run for run in record["runs"]
    }
    table = {row.name: row for row in rows(found)}
    assert [(row.seeds, row.difference and row.difference.pairs) for row in table.values()] == [
        (3, None), (2, 2), (2, 2), (3, 3),
    ]  # fmt: skip
    # The mean losses are over the seeds that most arms have; an arm that lacks one says so.
    assert {name: row.loss for name, row in table.items()} == {row.name: row.loss for row in rows(record)}
    assert "is the mean over seeds 0, 1; differences" in text_table(found)
    found["runs"] = [run for run in found["runs"] if (run["arm"], run["seed"]) != ("mixtral-lowered", 0)]
    table = {row.name: row for row in rows(found)}
    assert [name for name, row in table.items() if row.loss_of_own_seeds] == ["mixtral-lowered"]
    assert f"{table['mixtral-lowered'].loss:.4f}*" in text_table(found)
    assert "or where there is a * over the seeds that the arm has" in text_table(found)


def test_a_record_of_another_text_is_not_overwritten(study, corpus, tmp_path):
    plan, record = study
    corpus.save(tmp_path / "corpus.npz")
    write_json(tmp_path / "compare.json", {**record, "corpus": {**record["corpus"], "sha256": "0" * 64}})
    other = read_json(tmp_path / "compare.json")
    with pytest.raises(ValueError, match="a record with another corpus"):
        carry_out(replace(plan, out=tmp_path), show_progress=False)
    assert read_json(tmp_path / "compare.json") == other


def test_figures_and_table_from_json(study, tmp_path):
    pytest.importorskip("matplotlib")
    plan, _ = study
    (tmp_path / "README.md").write_text(f"before\n{command.MARKS[0]}\nold\n{command.MARKS[1]}\nafter\n")
    assert main(["--from-json", str(plan.out / "compare.json"), "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["bars.png", "expert_flops.png", "loss.png", "pareto.png"]
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 10_000
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme
    assert ARMS["dense"].label in readme


def test_a_gpu_has_loss_against_seconds_and_joules(study, tmp_path):
    """Where the record is of a device that the study had to itself, and metered; drawn of a record that says so."""
    figures = pytest.importorskip("genesis_moe.studies.compare.figures")
    record = copy.deepcopy(study[1])
    record["place"] = {"device": "cuda", "dtype": "bfloat16"}
    assert "pareto_seconds" in {path.stem for path in figures.draw(record, tmp_path)}
    assert "on cuda in bfloat16" in markdown_table(record)
    for run in record["runs"]:
        run["energy"] = {"joules": 2.5 * run["tokens"], "source": "nvml_counter", "quality": "measured"}
    assert {"pareto_seconds", "pareto_joules"} <= {path.stem for path in figures.draw(record, tmp_path)}
    record["jobs"] = 2
    assert "pareto_seconds" not in {path.stem for path in figures.draw(record, tmp_path)}


def test_figures_are_the_same_each_time(study, tmp_path):
    figures = pytest.importorskip("genesis_moe.studies.compare.figures")
    _, record = study
    first, second = (figures.draw(record, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_timing_adds_ratios_to_the_record(study, capsys):
    from genesis_moe.studies.compare.timing import measure

    plan, _ = study
    found = measure(replace(plan, threads=1), rounds=4)
    assert set(found["arms"]) == set(NAMES)
    base = found["arms"]["mixtral-top-2"]
    assert base["relative_expert_seconds"] == base["relative_expert_flops"] == 1.0
    assert found["arms"]["mixtral-lowered"]["relative_expert_flops"] == pytest.approx(0.5)
    assert "router_seconds" not in found["arms"]["dense"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "mixtral-top-3"], "--arms: 'mixtral-top-3', want one of dense, mixtral-top-2"),
        (["--seeds", "one"], "--seeds: 'one', want whole numbers"),
        (["--tokens", "5"], "--tokens: 5, want at least one step of 2048"),
        (["--jobs", "0"], "--jobs: 0, want at least 1"),
        (["--threads", "-1"], "--threads: -1, want at least 1"),
        (["--timing-only", "--out", "nowhere"], "no trained model"),
        (["--from-json", "nowhere.json"], "nowhere.json"),
    ],
)
def test_errors_name_the_option(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_conclusion_is_two_sentences_from_the_numbers(study, tmp_path):
    _, record = study
    sentences = command.conclusion(record, tmp_path, [tmp_path / "figures/loss.png"])
    assert len(sentences) == 2
    assert "energy was not measured" in sentences[0]
    assert str(tmp_path / "compare.json") in sentences[1]


def test_metered_runs_state_joules_per_token(study):
    metered = copy.deepcopy(study[1])
    for run in metered["runs"]:
        run["energy"] = {"joules": 2.5 * run["tokens"], "source": "nvml_counter", "quality": "measured"}
    label = energy_label(rows(metered)[0])
    assert ", 2.5 J/token (measured, nvml_counter)" in label
