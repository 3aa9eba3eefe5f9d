"""A run that was cut off goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import genesis_moe as gm
from genesis_moe.studies.compare import command
from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.compare.measures import in_turn
from genesis_moe.studies.compare.training import (
    Place,
    Run,
    Settings,
    TrainingInterruptedError,
    batch_of,
    learning_rate_factor,
)
from genesis_moe.studies.record import read_json

# One arm for each kind of state: prices and gap, sign rule, the controls' own buffers.
STATEFUL = ("hamiltonian-1.25", "deepseek", "mixtral-lowered", "mixtral-top-p")


def what_counts(result):
    """The result without clock readings."""
    curves = {key: value for key, value in result["curves"].items() if key != "step_seconds"}
    return {**result, "curves": curves, "seconds_at_end": None}


@pytest.mark.parametrize("name", STATEFUL)
def test_interrupted_and_resumed_equals_uninterrupted(name, corpus, settings, tmp_path):
    whole = Run(ARMS[name], 1, settings, corpus, tmp_path / "whole").train()
    asked = iter([False, False, False, True])
    with pytest.raises(TrainingInterruptedError):
        Run(ARMS[name], 1, settings, corpus, tmp_path / "parts").train(stop=lambda: next(asked))
    partial = read_json(tmp_path / "parts/partial.json")
    assert (partial["done"], partial["steps"]) == (False, 3)
    resumed = Run(ARMS[name], 1, settings, corpus, tmp_path / "parts").train()
    assert what_counts(resumed) == what_counts(whole)
    weights = [torch.load(tmp_path / part / "model.pt")["model"] for part in ("whole", "parts")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["model.pt", "result.json"]


def test_interrupted_before_the_first_step(corpus, settings, tmp_path):
    with pytest.raises(TrainingInterruptedError):
        Run(ARMS["mixtral-top-2"], 0, settings, corpus, tmp_path).train(lambda: True)
    assert not list(tmp_path.glob("*.json"))


def test_killed_and_resumed_equals_uninterrupted(corpus, settings, tmp_path, environment_of_children):
    """kill -9 at any moment, here after the third step: between two checkpoints."""
    script = f"""
import os, signal, torch
torch.set_num_threads(1)
from pathlib import Path
from conftest import tiny_corpus, tiny_settings
from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.compare.training import Run
def kill(step, loss):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path({str(tmp_path / "killed")!r})
Run(ARMS["hamiltonian-1.25"], 1, tiny_settings(), tiny_corpus(), folder).train(progress=kill)
"""
    killed = subprocess.run([sys.executable, "-c", script], env=environment_of_children, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint.pt"]
    resumed = Run(ARMS["hamiltonian-1.25"], 1, settings, corpus, tmp_path / "killed").train()
    whole = Run(ARMS["hamiltonian-1.25"], 1, settings, corpus, tmp_path / "whole").train()
    assert what_counts(resumed) == what_counts(whole)


def test_done_runs_are_not_trained_again(corpus, settings, tmp_path):
    first = Run(ARMS["hash"], 0, settings, corpus, tmp_path).train()
    again = Run(ARMS["hash"], 0, settings, corpus, tmp_path)
    assert again.train(stop=lambda: pytest.fail("it trained")) == json.loads(json.dumps(first))


def test_other_settings_are_refused(corpus, settings, tmp_path):
    Run(ARMS["hash"], 0, settings, corpus, tmp_path).train()
    other = Settings(**{**vars(settings), "clip": 0.5})
    with pytest.raises(ValueError, match="other settings or another corpus"):
        Run(ARMS["hash"], 0, other, corpus, tmp_path).train()


def test_a_damaged_checkpoint_is_named(corpus, settings, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint"):
        Run(ARMS["hash"], 0, settings, corpus, tmp_path).train()


def test_work_that_the_library_did_not_do_is_refused(corpus, settings, tmp_path, monkeypatch):
    """Another genesis_moe in the way: its rows are not in the engine's counters."""
    run = Run(ARMS["mixtral-top-2"], 0, settings, corpus, tmp_path)
    monkeypatch.setattr("genesis_moe.functional.experts", lambda hidden_states, *_, **__: hidden_states)
    with pytest.raises(RuntimeError, match="the library computed 0 expert rows, the routing has 256"):
        run.train()


def test_data_depend_on_seed_and_step_alone(corpus, settings):
    assert torch.equal(batch_of(corpus, settings, 3, 7), batch_of(corpus, settings, 3, 7))
    assert not torch.equal(batch_of(corpus, settings, 3, 7), batch_of(corpus, settings, 3, 8))
    assert not torch.equal(batch_of(corpus, settings, 3, 7), batch_of(corpus, settings, 4, 7))


def test_learning_rate_rises_then_falls_to_zero():
    settings = Settings(steps=100, warmup=0.1)
    factors = [learning_rate_factor(step, settings) for step in range(100)]
    assert factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001


def assert_partial(out):
    record = read_json(out / "compare.json")
    assert record["partial"]
    assert {run["arm"] for run in record["missing"]} == {"hash", "mixtral-top-2"}
    assert record["runs"], "the runs that had begun are in the record"
    assert all(run["steps"] > 0 and not run["done"] for run in record["runs"])
    assert (out / "figures/loss.png").exists()
    assert (out / "figures/expert_flops.png").exists()


def test_ctrl_c_leaves_a_usable_record(corpus, settings, tmp_path, monkeypatch, capsys):
    corpus.save(tmp_path / "corpus.npz")
    monkeypatch.setitem(command.TIERS, "smoke", (settings, ("hash", "mixtral-top-2"), (0,)))
    step = Run._train_step

    def interrupted(run):
        if run.step == 3:
            signal.raise_signal(signal.SIGINT)
        return step(run)

    monkeypatch.setattr(Run, "_train_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    assert command.main(["--out", str(tmp_path), "--threads", "1"]) == 130
    assert signal.getsignal(signal.SIGINT) is handler
    assert "PARTIAL: not finished: hash seed 0, mixtral-top-2 seed 0" in capsys.readouterr().out
    assert_partial(tmp_path)
    monkeypatch.setattr(Run, "_train_step", step)
    assert command.main(["--out", str(tmp_path), "--threads", "1"]) == 0
    assert not read_json(tmp_path / "compare.json")["partial"]


def test_ctrl_c_reaches_runs_side_by_side(tmp_path, environment_of_children):
    """A process of its own, interrupted with its workers as a terminal does it."""
    script = f"""
import sys
from pathlib import Path
from conftest import tiny_corpus, tiny_settings
from genesis_moe.studies.compare import command
if __name__ == "__main__":
    command.TIERS["smoke"] = (tiny_settings(steps=100_000), ("hash", "mixtral-top-2"), (0,))
    tiny_corpus().save(Path({str(tmp_path)!r}) / "corpus.npz")
    sys.exit(command.main(["--out", {str(tmp_path)!r}, "--threads", "1", "--jobs", "2"]))
"""
    (tmp_path / "main.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        env=environment_of_children, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 600  # three processes import torch, perhaps on a busy machine
        while len(list(tmp_path.glob("runs/*/checkpoint.pt"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert "PARTIAL" in output
    assert_partial(tmp_path)


@pytest.mark.parametrize("name", [*STATEFUL, "dense"])
def test_a_pass_that_warms_up_leaves_no_trace(name, corpus, settings, tmp_path):
    cold, warm = (Run(ARMS[name], 1, settings, corpus, tmp_path / str(warm)) for warm in (False, True))
    before = torch.random.get_rng_state()
    results = [run.train(warm_up=run is warm) for run in (cold, warm)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert what_counts(results[0]) == what_counts(results[1])
    states = [run.model.state_dict() for run in (cold, warm)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_no_checkpoint_is_written_where_the_model_follows(corpus, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "save", lambda run: pytest.fail(f"a checkpoint at step {run.step}"))
    once = Settings(**{**vars(settings), "checkpoint_every": settings.steps})
    assert Run(ARMS["hash"], 0, once, corpus, tmp_path).train()["done"]


class Casts(TorchDispatchMode):
    """Counts the conversions of tensors to another dtype."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


def test_every_round_casts_its_weights_anew():
    """Under one autocast around all rounds only the first of them would."""
    weight, rows, counts = torch.randn(8, 8, requires_grad=True), torch.randn(4, 8), []

    def piece():
        with Casts() as casts:
            torch.nn.functional.linear(rows, weight).sum().backward()
        counts.append(casts.count)

    in_turn({"dense": piece}, 3, context=BF16.autocast)
    assert len(counts) == 4 and len(set(counts)) == 1 and counts[0] > 0


def test_energy_comes_from_the_meter(tmp_path, settings, corpus):
    meter = gm.EnergyMeter("mock")
    asked = iter([False] * 3 + [True])
    folder = tmp_path / "run"
    with pytest.raises(TrainingInterruptedError):
        Run(ARMS["mixtral-top-2"], 0, settings, corpus, folder, meter).train(stop=lambda: next(asked))
    partial = read_json(folder / "partial.json")["energy"]
    energy = Run(ARMS["mixtral-top-2"], 0, settings, corpus, folder, meter).train()["energy"]
    assert energy["source"] == "mock" and energy["quality"] == "synthetic"
    assert 0 < partial["joules"] < energy["joules"] and energy["uncertainty"] > 0
    meter.close()


BF16 = Place("cpu", "bfloat16")


@pytest.mark.parametrize(
    "name", ["mixtral-top-2", "hamiltonian-1.25", "deepseek", "mixtral-top-p", "hash", "dense"]
)
def test_autocast_trains_every_kind_of_arm(name, corpus, settings, tmp_path):
    """As the tier h200 does, but for the device; parameters stay float32 and a run goes on where it was cut off."""
    whole = Run(ARMS[name], 1, settings, corpus, tmp_path / "whole", place=BF16)
    assert whole._logits(batch_of(corpus, settings, 1, 0)[:, :-1]).dtype == torch.float32
    result = whole.train()
    assert result["place"] == {"device": "cpu", "dtype": "bfloat16"}
    assert {parameter.dtype for parameter in whole.model.parameters()} == {torch.float32}
    exact = Run(ARMS[name], 1, settings, corpus, tmp_path / "exact").train()
    losses = [run["held_out"]["loss"] for run in (result, exact)]
    assert losses[0] != losses[1], "nothing was computed in bfloat16"
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    asked = iter([False, False, False, True])
    with pytest.raises(TrainingInterruptedError):
        Run(ARMS[name], 1, settings, corpus, tmp_path / "parts", place=BF16).train(stop=lambda: next(asked))
    with pytest.raises(ValueError, match="other settings or another corpus"):
        Run(ARMS[name], 1, settings, corpus, tmp_path / "parts").train()
    resumed = Run(ARMS[name], 1, settings, corpus, tmp_path / "parts", place=BF16).train()
    assert what_counts(resumed) == what_counts(result)


def test_the_tier_for_a_gpu(corpus, settings, tmp_path, monkeypatch, capsys):
    """Its own code with a tiny model on the CPU: it stops when its time is over and the next call goes on."""
    tier = command.Tier(*command.TIERS["h200"])
    assert tier.place == Place("cuda", "bfloat16")
    assert tier.settings.checkpoint_every >= tier.settings.steps, "a checkpoint has 3 GB"
    assert set(tier.arms) <= set(ARMS) and tier.arms[0] == "mixtral-top-2"
    if not torch.cuda.is_available():
        assert command.main(["--tier", "h200", "--out", str(tmp_path)]) == 1
        assert "--device: cuda, but torch finds no GPU here" in capsys.readouterr().err
    arms = ("mixtral-top-2", "hamiltonian-1.25")
    monkeypatch.setitem(command.TIERS, "h200", tier._replace(settings=settings, arms=arms, seeds=(0,)))
    corpus.save(tmp_path / "corpus.npz")
    call = ["--tier", "h200", "--device", "cpu", "--threads", "1", "--out", str(tmp_path)]
    assert command.main([*call, "--seconds", "0"]) == 1
    assert "--seconds: 0.0, want more than 0" in capsys.readouterr().err
    assert command.main([*call, "--seconds", "1e-9"]) == 0, "its own time was up: nobody interrupted it"
    assert read_json(tmp_path / "compare.json")["partial"]
    assert command.main(call) == 0
    record = read_json(tmp_path / "compare.json")
    assert not record["partial"] and {run["arm"] for run in record["runs"]} == set(arms)
    assert record["place"] == {"device": "cpu", "dtype": "bfloat16"}
    assert {run["learning_rate"] for run in record["runs"]} == {1e-3}
    monkeypatch.setitem(command.TIERS, "smoke", (settings, arms, (0,)))
    assert command.main(["--threads", "1", "--out", str(tmp_path)]) == 1
    assert "a record with another place than this one" in capsys.readouterr().err
