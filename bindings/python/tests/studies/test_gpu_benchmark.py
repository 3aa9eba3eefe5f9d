"""The steps that measure on a GPU, run on the CPU: the same code but for streams, events and graphs."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")
pytest.importorskip("transformers")

from genesis_moe.studies.gpu import ncu, sanitizer
from genesis_moe.studies.gpu.__main__ import LIMITS, TOGETHER, batches
from genesis_moe.studies.gpu.benchmark import ARMS, Size, _figures
from genesis_moe.studies.gpu.joules import savings
from genesis_moe.studies.gpu.workers import KERNELS, WorkerError, Workers
from genesis_moe.studies.layer import Shape

ROOT = Path(__file__).resolve().parents[4]
ON_CPU = {"GMOE_GPU_STUDY_DEVICE": "cpu", "TRITON_INTERPRET": "1"}
STEPS = """
import sys
from pathlib import Path
import genesis_moe as gm
from genesis_moe.studies.gpu import benchmark, joules
from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.layer import Shape

out = Path(sys.argv[1])
shape = Shape(64, 32, 4, 2)
environments = {"portable": KERNELS["portable"]}
sizes = [benchmark.Size(shape, 96), benchmark.Size(shape, 8)]
benchmark.PUBLISHED, benchmark.CASE_SECONDS = (shape,), 1.0
status = benchmark.run(out / "parts" / "benchmark.json", sizes, environments, 300.0)
joules.WINDOW_SECONDS, joules.IDLE_SECONDS = 0.2, 0.2
joules.LAYER, joules.TOKENS, joules.ROUTED, joules.ROUTED_TOKENS = shape, 64, Shape(32, 48, 8, 2), 64
with gm.EnergyMeter("mock") as meter:
    status += joules.run(out / "parts" / "joules.json", meter, environments, 300.0)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the steps found."""
    out = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(out)],
        env={**os.environ, **ON_CPU},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((out / f"parts/{name}.json").read_text()) for name in ("benchmark", "joules")}


def test_every_arm_is_checked_and_timed_in_turn(steps: dict[str, Any]) -> None:
    records = steps["benchmark"]["records"]
    assert [(r["tokens"], r["passes"]) for r in records] == [
        (96, "forward"), (96, "forward+backward"), (8, "forward"),
    ]  # fmt: skip
    arms = {"portable", "grouped_mm", "torch_grouped_mm", "scatter", "eager", "dense"}
    for r in records:
        assert r["failed"] == {}
        assert set(r["milliseconds"]) == arms
        assert {len(one["rounds"]) for one in r["milliseconds"].values()} <= {3, 4, 5, 6, 7}
        assert set(r["difference"]) == arms - {"dense"}
        assert max(r["difference"].values()) < 1e-4
        assert r["difference"]["portable"] > 0, "the library's own arithmetic, not the reference's"
        assert r["same_bits_twice"]["portable"]
        assert set(r["speedup"]) == {"portable"}
    few = records[2]
    assert few["reading"]["bytes"] == few["reading"]["experts_drawn"] * 3 * 64 * 32 * 2
    assert few["over_reading"]["portable"] > 0
    assert steps["benchmark"]["profiles"][0]["routing"]["portable"]["share"].keys() == {
        "hamiltonian", "mixtral", "deepseek",
    }  # fmt: skip


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that gets three times slower half way changes no ratio."""
    rounds = {
        "portable": [2.0, 2.0, 6.0, 6.0],
        "grouped_mm": [4.0, 4.0, 12.0, 12.0],
        "dense": [1.0, 1.0, 3.0, 3.0],
    }
    found = _figures(Size(Shape(64, 32, 4, 2), 512), "forward+backward", rounds)
    assert found["speedup"]["portable"]["grouped_mm"] == 2.0
    assert found["of_dense"]["portable"] == 0.5
    flops = 3 * 6 * 512 * 2 * 64 * 32
    assert found["teraflops_per_second"]["portable"] == pytest.approx(flops / 4.0 / 1e9)


def test_joules_by_arm_and_what_a_budget_saves(steps: dict[str, Any]) -> None:
    found = steps["joules"]
    assert found["meter"]["source"] == "mock"
    assert set(found["experts"]["joules_per_token"]) == {
        "portable", "grouped_mm", "torch_grouped_mm", "scatter", "dense",
    }  # fmt: skip
    for part in ("experts", "routers"):
        assert found[part]["failed"] == {}
        for windows in found[part]["windows"].values():
            assert len(windows) == 2
            assert all(
                w["joules_per_token"] * w["tokens"] == pytest.approx(w["reading"]["joules"]) for w in windows
            )
    active = found["routers"]["mean_active"]
    assert active["mixtral top-2"] == active["hamiltonian top-2"] == 2
    assert active["hamiltonian budget"] == pytest.approx(1.25, abs=0.05)
    assert len(found["routers"]["savings"]) == 3


def test_savings_are_signed_and_need_both() -> None:
    def one(joules: float | None) -> dict[str, Any]:
        return {"joules_per_token": joules, "tokens": 10}

    windows = {"a": [one(2.0), one(4.0)], "b": [one(3.0), one(6.0)], "c": [one(None), one(1.0)], "d": []}
    found = savings(windows, "a", "b")
    assert found is not None
    assert (found["saved_joules_per_token"], found["efficiency_percent"]) == (-1.5, -50.0)
    assert found["saved_joules"] == -30.0
    assert savings(windows, "a", "c") is None
    assert savings(windows, "a", "d") is None


FAILS = """
import sys
from pathlib import Path
from genesis_moe.studies.gpu import benchmark
from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.layer import Shape

benchmark.CASE_SECONDS = 0.1
benchmark.cache_bytes = lambda: 1 << 30  # which holds all the weights
# Its process ends before it answers, whatever is asked.
tiles = {**KERNELS["tiles"], "GMOE_GPU_STUDY_DEVICE": "nowhere"}
environments = {"portable": KERNELS["portable"], "tiles": tiles}
sys.exit(benchmark.run(Path(sys.argv[1]), [benchmark.Size(Shape(64, 32, 4, 2), 8)], environments, 300.0))
"""


def test_kernels_whose_process_fails_are_in_the_record_and_the_status(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    done = subprocess.run(
        [sys.executable, "-c", FAILS, str(path)],
        env={**os.environ, **ON_CPU},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(path.read_text())
    (record,) = found["records"]
    assert record["failed"] == {"tiles": "ended with status 1"}
    assert len(found["errors"]) == 1 and found["errors"][0].endswith("T=8 forward: ended with status 1")
    assert "portable" in record["milliseconds"]
    assert record["over_reading"] == {} and record["reading"]["bytes"] > 0


def test_a_worker_that_dies_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ON_CPU.items():
        monkeypatch.setenv(name, value)
    with Workers({"portable": KERNELS["portable"], "rivals": {}}, tmp_path) as workers:
        hello = workers.together("hello", 120.0)
        assert hello["portable"]["device"] == "cpu"
        with pytest.raises(WorkerError, match="portable: ValueError: case: none, want begin first"):
            workers.all["portable"].ask("load", name="genesis_moe", passes="forward", seconds=0.1)
        os.kill(workers.all["portable"]._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="portable: ended with status -9"):
            workers.all["portable"].ask("hello")
        assert list(workers.left()) == ["rivals"]
        workers.revive()
        assert workers.together("hello", 120.0).keys() == {"portable", "rivals"}
        os.kill(workers.all["rivals"]._process.pid, signal.SIGSTOP)  # hangs
        with pytest.raises(WorkerError, match="rivals: no answer in 1 s"):
            workers.all["rivals"].ask("hello", 1.0)


def of_bench(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of bench/, which is in no package."""
    if not (ROOT / "bench" / f"{name}.py").exists():
        pytest.skip("bench/ is not here")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module(name)


def test_tables_and_figures_come_from_the_record(
    steps: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {
        "environment": {"versions": {"torch": "2.0"}},
        "steps": {
            "facts": {"status": "passed", "found": {"nvidia_smi": []}},
            **{name: {"status": "passed", "found": found} for name, found in steps.items()},
            "ncu": {"status": "not run: no time left"},
        },
    }
    gpu_tables = of_bench("gpu_tables", monkeypatch)
    text = "\n".join(gpu_tables.tables(data, "gpu/gpu.json"))
    rate = steps["benchmark"]["records"][0]["teraflops_per_second"]["portable"]
    assert f"| 64, 32, 4, 2 | 96 | forward | {rate:.0f} |" in text
    reading = 1e3 * steps["benchmark"]["records"][2]["reading"]["milliseconds"]
    assert f"| 64, 32, 4, 2 | 8 | {reading:.1f} |" in text
    joules = steps["joules"]["experts"]["joules_per_token"]["portable"]
    assert f"| portable | {1e3 * joules:.3f} |" in text
    assert "(synthetic, mock; whole device" in text
    assert "ncu not run: no time left" in text
    nothing = {**data, "steps": {"facts": {"status": "failed", "found": None}}}
    assert gpu_tables.tables(nothing, "gpu/gpu.json")[-1].startswith("Steps: facts failed.")

    pytest.importorskip("matplotlib")
    figures = of_bench("gpu_figures", monkeypatch)
    drawn = figures.draw(data, tmp_path / "figures")
    assert [path.stem for path in drawn] == ["forward", "training", "few", "energy"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)
    assert figures.groups_of(data)["forward"][0][0][1]["portable"] == rate
    assert figures.draw(nothing, tmp_path / "none") == []


CSV = """==PROF== Connected to process 7
done
==PROF== Disconnected from process 7
"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum","launch__registers_per_thread"
"","","","nsecond","Mbyte","register/thread"
"0","7","gmoe_plan_count(PlanParams)","2,048","1.5","32"
"1","7","gmoe_experts_hopper_gate_up_nt_256(GateUp)","512000","n/a","168"
"2","7","gmoe_plan_rows(PlanParams)","nan","inf","32"
"""


def test_counters_are_read_from_csv() -> None:
    count, gate_up, rows = ncu.parse(CSV, ncu.METRICS)
    assert count == {
        "kernel": "gmoe_plan_count", "microseconds": pytest.approx(2.048), "dram_bytes": 1.5e6, "registers": 32.0,
    }  # fmt: skip
    assert gate_up["kernel"] == "gmoe_experts_hopper_gate_up_nt_256"
    assert gate_up["dram_bytes"] is None
    assert (rows["microseconds"], rows["dram_bytes"]) == (None, None), "JSON has neither nan nor inf"
    assert ncu.parse("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", ncu.METRICS) == []


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_counters_that_may_not_be_read_or_are_unknown(tmp_path: Path) -> None:
    refuses = program(tmp_path, "refuses", "echo '==ERROR== ERR_NVGPUCTRPERM - no permission' >&2; exit 1\n")
    found = ncu.run(refuses, "portable", 60.0)
    assert found["status"] == "not permitted: ERR_NVGPUCTRPERM"
    assert found["messages"] == ["==ERROR== ERR_NVGPUCTRPERM - no permission"]
    (tmp_path / "csv").write_text(CSV)
    unknown = program(
        tmp_path,
        "unknown",
        f"""case "$*" in *lts__t*) echo '==ERROR== Failed to find metric lts__t_sector_hit_rate.pct'; exit 1;; esac
cat {tmp_path / "csv"}
""",
    )
    found = ncu.run(unknown, "hopper", 60.0)
    assert (found["status"], found["unknown_metrics"]) == ("profiled", ["lts__t_sector_hit_rate.pct"])
    assert len(found["kernels"]) == 3
    hangs = program(tmp_path, "hangs", "sleep 60\n")
    assert ncu.run(hangs, "hopper", 1.0)["status"] == "not finished in 1 s"


def test_steps_that_time_nothing_run_side_by_side() -> None:
    assert list(batches(list(LIMITS)))[:3] == [["facts"], list(TOGETHER), ["benchmark"]]
    assert list(batches(["benchmark", "tests", "ncu", "hopper"])) == [
        ["benchmark"],
        ["tests", "hopper"],
        ["ncu"],
    ]
    measured = [name for names in batches(list(LIMITS)) if len(names) == 1 for name in names]
    assert {"benchmark", "joules", "ncu", "graphs", "compare"} <= set(measured)


def test_sanitizer_keeps_what_each_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program(
        tmp_path,
        "compute-sanitizer",
        """case "$*" in
  *--kernel-name*) echo 'unknown option kernel-name'; exit 1;;
  *racecheck*) echo '========= a race'; exit 86;;
  *initcheck*) sleep 60;;
esac
""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("GMOE_GPU_STEP_SECONDS", "22")
    assert sanitizer.main(tmp_path / "found.json") == 1
    tools = json.loads((tmp_path / "found.json").read_text())["tools"]
    statuses = {name.split()[0]: outcome["status"] for name, outcome in tools.items()}
    assert statuses["memcheck"] == statuses["synccheck"] == "no errors"
    assert statuses["racecheck"] == "found errors"
    assert "not finished in" in statuses["initcheck"] or "no time left" in statuses["initcheck"]
    assert "a race" in capfd.readouterr().out


def test_arms_have_a_process() -> None:
    assert {process for process, _ in ARMS.values()} == {*KERNELS, "rivals"}
