"""Records: a metered run, read back, exported, compared and named."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import genesis_moe as gm
from genesis_moe import energy
from genesis_moe.cli import main
from genesis_moe.energy import baseline_of, calibrate, expert_work


def read_record(path: Path) -> list[dict]:
    """Without the lines of the meter alone, which a slow machine writes between steps."""
    return [line for line in energy.read_record(path) if line["kind"] != "power"]


def layer(**options) -> gm.MoE:
    torch.manual_seed(0)
    return gm.MoE(16, 32, 4, top_k=2, **options)


def train(path: Path, *, steps: int = 3, meter: gm.EnergyMeter | None = None, **options) -> gm.MoE:
    model = torch.nn.Sequential(layer(), layer(router="mixtral"))
    with gm.EnergyRecorder(path, meter=meter, model=model, **options) as recorder:
        for i in range(steps):
            x = torch.randn(50, 16, requires_grad=True)
            model(x).square().mean().backward()
            gm.step(model)
            time.sleep(0.05)
            recorder.step(50, loss=2.0 - i, progress=i / steps)
    return model


def test_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    meter = gm.EnergyMeter("mock", idle_watts=40)
    train(
        path,
        meter=meter,
        name="test",
        shape={"batch": 50},
        calibration={"joules_per_flop": 1e-6, "idle_watts": 40},
    )
    lines = list(read_record(path))
    assert [line["kind"] for line in lines] == ["run", "step", "step", "step", "end"]
    head, first, *_, last, end = lines
    assert [(part["name"], part["experts"], part["top_k"]) for part in head["layers"]] == [
        ("0", 4, 2),
        ("1", 4, 2),
    ]
    assert head["meter"]["source"] == "mock" and head["meter"]["quality"] == "synthetic"
    assert first["layers"][0]["h"] == pytest.approx(
        sum(first["layers"][0][t] for t in ("bind", "entropy", "cost"))
    )
    assert last["layers"][0]["h"] is None, "the report is due every ten steps"
    for line in (first, last):
        for part in line["layers"]:
            assert sum(part["tokens"]) == 100, "50 tokens with two experts each"
            # Forward is a third of the products of training.
            assert sum(part["flops"]) == 3 * 2 * 100 * 16 * 3 * 32
            assert all((n > 0) == (b > 0) for n, b in zip(part["tokens"], part["bytes"], strict=True))
            assert len(part["joules"]) == 4
        parts = line["energy"]["components"]
        names = ("router_joules", "experts_joules", "other_joules", "idle_joules")
        assert sum(parts[name]["value"] for name in names) == pytest.approx(line["energy"]["joules"]["value"])
        assert line["routing"]["decisions"] == 100 and line["routing"]["duration_seconds"] > 0
    assert last["total_tokens"] == end["tokens"]["train"] == 150
    assert last["energy"]["total_joules"]["value"] == pytest.approx(
        sum(line["energy"]["joules"]["value"] for line in lines[1:4])
    )
    meter.close()


def test_without_a_meter_everything_is_null(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    train(
        path,
        meter=gm.EnergyMeter("none"),
        baselines=[
            {
                "name": "b",
                "phase": "train",
                "joules_per_token": {
                    "value": 1.0,
                    "uncertainty": 0.1,
                    "source": "rapl",
                    "quality": "measured",
                },
            }
        ],
    )
    step = list(read_record(path))[2]
    assert step["energy"]["joules"] == {"value": None, "uncertainty": None, "source": "none"}
    assert step["energy"]["saved"][0]["saved_kilojoules"]["value"] is None
    assert "components" not in step["energy"]
    with pytest.raises(gm.InvalidArgumentError, match="was not measured"):
        baseline_of([path], "b")


def test_baseline_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / f"{seed}.jsonl" for seed in range(3)]
    for run in runs:
        meter = gm.EnergyMeter("mock")
        train(run, meter=meter, shape={"batch": 50})
        meter.close()
    out = tmp_path / "baseline.json"
    assert main(["baseline", *map(str, runs), "--name", "mixtral", "--out", str(out)]) == 0
    assert "mixtral: " in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (
        found["seeds"] == 3 and found["tokens"] == 150 and found["joules_per_token"]["quality"] == "synthetic"
    )
    compared = tmp_path / "compared.jsonl"
    meter = gm.EnergyMeter("mock")
    train(
        compared,
        meter=meter,
        shape={"batch": 50},
        baselines=[
            out,
            {**found, "name": "costly", "joules_per_token": {**found["joules_per_token"], "value": 1e9}},
        ],
    )
    meter.close()
    lines = list(read_record(compared))
    assert "differences" not in lines[1], "the same device, shape and seeds"
    saved = {part["baseline"]: part for part in lines[-2]["energy"]["saved"]}
    assert (
        saved["costly"]["saved_kilojoules"]["value"] > 0
        and saved["costly"]["efficiency_percent"]["value"] > 99
    )
    assert saved["mixtral"]["saved_kilojoules"]["quality"] == "synthetic"
    assert main(["csv", str(compared), str(tmp_path / "run.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "run.csv").open()))
    assert len(rows) == 3 and float(rows[2]["loss_train"]) == 0.0
    assert float(rows[0]["joules"]) == pytest.approx(lines[3]["energy"]["joules"]["value"])
    # A run of another shape is no part of the same baseline.
    other = tmp_path / "other.jsonl"
    meter = gm.EnergyMeter("mock")
    train(other, meter=meter, shape={"batch": 4})
    meter.close()
    with pytest.raises(gm.InvalidArgumentError, match=r"other.jsonl: shape"):
        baseline_of([*runs, other], "mixtral")


def test_torn_and_damaged_records(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    train(path, meter=gm.EnergyMeter("none"))
    text = path.read_bytes()
    path.write_bytes(text[:-5])
    assert [line["kind"] for line in read_record(path)][-1] == "step"
    with pytest.raises(gm.InvalidArgumentError, match="did not finish"):
        baseline_of([path], "b")
    path.write_bytes(b"{}\n")
    with pytest.raises(gm.InvalidArgumentError, match="line 1"):
        list(read_record(path))
    with pytest.raises(gm.InvalidArgumentError, match="never overwritten"):
        gm.EnergyRecorder(path, meter=gm.EnergyMeter("none"))


def test_metrics_trace_and_events(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    model = layer()
    with gm.EnergyRecorder(path, meter=gm.EnergyMeter("mock"), model=model) as recorder:
        model(torch.randn(3, 16))
        recorder.trace(["a", "b", "c"])
        recorder.event("note of the host")
        with pytest.raises(gm.InvalidArgumentError, match="2 tokens, want 3"):
            recorder.trace(["a", "b"])
        with pytest.raises(gm.InvalidArgumentError, match="phase: 'sleep'"):
            recorder.step(1, phase="sleep")
        with pytest.raises(gm.InvalidArgumentError, match="tokens -1"):
            recorder.step(-1)
        recorder.step(3)
        recorder.flush()
        assert 'genesis_moe_tokens_total{phase="train"} 3' in recorder.metrics()
    with pytest.raises(gm.InvalidArgumentError, match="closed"):
        recorder.step(1)
    _, trace, event, *_ = read_record(path)
    assert [token["text"] for token in trace["tokens"]] == ["a", "b", "c"]
    routing = model.last_routing
    assert routing is not None
    assert trace["tokens"][2]["layers"][0]["experts"] == routing.index[2].tolist()
    assert event["message"] == "note of the host"


def test_expert_work_is_counted_where_it_is_done() -> None:
    model = layer()
    model.layer_number = 4000
    before = expert_work(4000)
    assert before.shape == (0, 3)
    with torch.no_grad():
        model(torch.randn(20, 16))
    routing = model.last_routing
    assert routing is not None
    work = expert_work(4000)
    np.testing.assert_array_equal(work[:, 0], routing.counts.numpy())
    np.testing.assert_array_equal(work[:, 1], 2 * 3 * 16 * 32 * routing.counts.numpy())


def test_calibration(on_gpu, tmp_path: Path) -> None:
    program = """
import json, torch, genesis_moe as gm
from genesis_moe.energy import calibrate
torch.set_num_threads(1)
meter = gm.EnergyMeter()
x = torch.randn(256, 256)
other = (lambda: x @ x, 256)
print(json.dumps(calibrate(gm.MoE(32, 64, 4), meter, idle_watts=50, tokens=(4, 512), seconds=0.5, other=other)))
"""
    found = json.loads(on_gpu(program))
    assert found["joules_per_decision"] > 0 and found["idle_watts"] == 50 and found["device"] == "Fake H200"
    assert found["joules_per_flop"] >= 0 and found["joules_per_byte"] >= 0
    assert found["joules_per_flop"] + found["joules_per_byte"] > 0 and found["other_joules_per_token"] > 0
    with pytest.raises(gm.UnsupportedError, match="nothing to calibrate"):
        calibrate(layer(), gm.EnergyMeter("none"), idle_watts=0)


def test_calibration_from_the_command_line(
    on_gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--hidden", "32", "--intermediate", "64", "--experts", "4", "--seconds", "0.5"]
    program = "import sys; from genesis_moe.cli import main; sys.exit(main(sys.argv[1:]))"
    path = tmp_path / "prices.json"
    said = on_gpu(program, "calibrate-energy", *size, "--idle-watts", "50", "--out", str(path))
    assert "J a decision" in said and "measured, nvml_counter" in said
    prices = json.loads(path.read_text())
    assert prices["device"] == "Fake H200" and prices["idle_watts"] == 50
    with gm.EnergyRecorder(meter=gm.EnergyMeter("mock"), model=layer(), calibration=prices):
        pass  # the recorder takes them as they are

    with pytest.raises(SystemExit):
        main(["calibrate-energy", *size, "--source", "none", "--out", str(tmp_path / "never.json")])
    assert "nothing to calibrate" in capsys.readouterr().err and not (tmp_path / "never.json").exists()


def test_names_come_from_the_tokens_that_experts_prefer(tmp_path: Path) -> None:
    model = layer()
    names = gm.ExpertNames(model, lambda token: f"t{token}", given={(0, 3): "mine"})
    assert names.names(0)[0] == ["", "", "", "mine"], "too few tokens"
    # Expert 0 gets the tokens 10 to 12 and expert 1 the tokens 20 to 22; token 0 goes everywhere.
    generator = np.random.default_rng(0)
    model(torch.randn(512, 16))
    for _ in range(4):
        expert = generator.integers(0, 2, 512)
        ids = np.where(generator.random(512) < 0.3, 0, 10 * (expert + 1) + generator.integers(0, 3, 512))
        index = torch.from_numpy(np.stack([expert, np.full(512, 4)], axis=1))
        routing = model.last_routing
        assert routing is not None
        model.router.last_routing = routing._replace(index=index)
        names.observe(torch.from_numpy(ids))
    found, tokens = names.names(0)
    assert sorted(found[0].split(" · ")) == ["t10", "t11", "t12"]
    assert sorted(found[1].split(" · ")) == ["t20", "t21", "t22"]
    assert found[2:] == ["", "mine"]
    assert "t0" not in tokens[0]
    # A restart goes on with the same names.
    names.save(tmp_path / "names.json")
    again = gm.ExpertNames(layer(), lambda token: f"t{token}", given={(0, 3): "mine"})
    again.load(tmp_path / "names.json")
    assert again.names(0) == (found, tokens)
    path = tmp_path / "run.jsonl"
    with gm.EnergyRecorder(path, meter=gm.EnergyMeter("none"), model=model) as recorder:
        names.write(recorder)
    line = list(read_record(path))[1]
    assert line["names"] == found and line["given"] == [False, False, False, True]
