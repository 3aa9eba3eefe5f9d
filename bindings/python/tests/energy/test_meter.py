"""The meter from Python, through the real driver path where a driver is (a fake one)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import genesis_moe as gm

METER = """
import json, sys, time
import genesis_moe as gm
meter = gm.EnergyMeter(**json.loads(sys.argv[1]))
with meter.window("outer") as outer:
    time.sleep(0.25)
    with meter.window() as inner:
        time.sleep(float(sys.argv[2]))
@meter
def work(): time.sleep(0.12)
work(); work()
total = meter.totals["work"]
print(json.dumps([outer.reading.__dict__, inner.reading.__dict__, total.__dict__, meter.describe()]))
meter.close()
"""


def test_windows_on_gpus(on_gpu: Callable[..., str]) -> None:
    outer, inner, total, found = json.loads(on_gpu(METER, "{}", "1.2", FAKE_NVML_GPUS="2"))
    for reading in (outer, inner, total):
        assert reading["source"] == "nvml_counter" and reading["quality"] == "measured"
        assert reading["settled"] and not reading["incomplete"]
        assert abs(reading["joules"] - 400 * reading["seconds"]) <= reading["uncertainty"] + 1e-9
    assert not inner["low_resolution"] and total["low_resolution"]
    assert inner["uncertainty"] < 400 * 0.3  # two updates of two GPUs
    assert inner["joules"] < outer["joules"]
    assert [device["limit_watts"] for device in found["devices"]] == [700, 700]
    assert found["meter"]["update_period_seconds"] == pytest.approx(0.1, rel=0.3)
    assert found["power"][1]["watts"]["value"] == pytest.approx(200)


def test_chosen_devices(on_gpu: Callable[..., str]) -> None:
    options = json.dumps({"devices": ["GPU-fake-1"], "source": "nvml_integrated"})
    outer, _, _, found = json.loads(on_gpu(METER, options, "0.1", FAKE_NVML_GPUS="3"))
    assert outer["source"] == "nvml_integrated"
    assert outer["joules"] == pytest.approx(200 * outer["seconds"], rel=0.01)
    assert outer["uncertainty"] > 200  # power is the mean of the last second
    assert [device["uuid"] for device in found["devices"]] == ["GPU-fake-1"]
    _, _, _, found = json.loads(on_gpu(METER, "{}", "0.1", FAKE_NVML_GPUS="3", CUDA_VISIBLE_DEVICES="2,0"))
    assert [device["uuid"] for device in found["devices"]] == ["GPU-fake-2", "GPU-fake"]


def test_lost_gpu(on_gpu: Callable[..., str]) -> None:
    outer, inner, _, _ = json.loads(on_gpu(METER, "{}", "2.5", FAKE_NVML_LOST_AFTER="0.8"))
    assert outer["incomplete"] and outer["uncertainty"] is None
    assert 0 < inner["joules"] < 200 * inner["seconds"], "at least what was seen"


def test_reset_counter(on_gpu: Callable[..., str]) -> None:
    outer, _, _, _ = json.loads(on_gpu(METER, "{}", "1.2", FAKE_NVML_RESET_AFTER="0.75"))
    assert outer["joules"] > 0 and not outer["incomplete"]
    assert abs(outer["joules"] - 200 * outer["seconds"]) <= outer["uncertainty"] + 1e-9


def test_without_a_meter() -> None:
    with gm.EnergyMeter("none") as meter:
        pass
    assert meter.reading is not None
    assert meter.reading.joules is meter.reading.uncertainty is meter.reading.quality is None
    assert meter.reading.watts is meter.reading.per_token(10) is None
    assert "not measured" in str(meter.reading)
    with pytest.raises(gm.InvalidArgumentError, match="closed"):
        meter.begin("again")


def test_best_source_is_never_an_invention() -> None:
    meter = gm.EnergyMeter()
    found = meter.describe()["meter"]
    assert found["source"] in ("nvml_counter", "nvml_integrated", "rapl", "none")
    if found["source"] == "none":
        assert "nvml_counter: " in found["note"] and "rapl: " in found["note"], "it says why"
    meter.close()


def test_estimate_is_labelled_modelled() -> None:
    with gm.EnergyMeter("estimate_tdp_load", rated_watts=100) as meter:
        time.sleep(0.3)
    reading = meter.reading
    assert reading is not None and reading.quality == "modelled"
    assert reading.joules is not None and reading.uncertainty is not None
    assert (
        reading.joules - reading.uncertainty <= 0
        or reading.joules + reading.uncertainty >= 100 * reading.seconds * 0.9
    )


def test_rapl(tmp_path: Path) -> None:
    zones = tmp_path / "class" / "powercap"
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        (zones / zone).mkdir(parents=True)
        for file, value in (("name", name), ("max_energy_range_uj", "1000000"), ("energy_uj", "900000")):
            (zones / zone / file).write_text(f"{value}\n")
    counter = zones / "intel-rapl:0" / "energy_uj"
    meter = gm.EnergyMeter("rapl", sysfs_root=tmp_path)
    meter.begin("w")
    time.sleep(0.1)
    counter.write_text("50000\n")  # passed its range: 0.15 J
    time.sleep(0.1)
    counter.write_text("250000\n")
    reading = meter.end("w")
    assert reading.quality == "measured" and reading.joules is not None
    # 0.15 J are certain and 0.2 J more were counted; the last moments are extrapolated at their
    # rate. A wrap taken wrongly would be off by the range, 1 J.
    assert 0.15 <= reading.joules <= 0.9
    assert [device["device"] for device in meter.describe()["devices"]] == ["package0"], "parts are not added"
    meter.close()


def test_trace_is_replayed(on_gpu: Callable[..., str], tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.jsonl")
    json.loads(on_gpu(METER, json.dumps({"trace_path": trace}), "1.0"))
    meter = gm.EnergyMeter("replay", replay_path=trace)
    with meter.window() as window:
        time.sleep(0.6)
    assert window.reading is not None and window.reading.quality == "synthetic"
    assert window.reading.joules == pytest.approx(200 * window.reading.seconds, rel=0.3)
    meter.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "sun"}, "source: 'sun', want one of 'best'"),
        ({"source": "mock", "poll_seconds": 5}, "poll_seconds: 5"),
        ({"source": "mock", "idle_watts": -1}, "idle_watts: -1"),
        ({"source": "replay"}, "replay_path"),
        ({"source": "replay", "replay_path": "/no/such"}, "replay_path"),
    ],
)
def test_refusals(options: dict, words: str) -> None:
    with pytest.raises(gm.InvalidArgumentError, match=words):
        gm.EnergyMeter(**options).begin("w")


def test_windows_of_many_threads() -> None:
    meter = gm.EnergyMeter("mock")
    readings = []

    def work(n: int) -> None:
        for i in range(5):
            meter.begin(f"{n} {i}")
            readings.append(meter.end(f"{n} {i}", wait=0))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readings) == 40 and all(reading.quality == "synthetic" for reading in readings)
    with pytest.raises(gm.InvalidArgumentError, match=r'"0 0" is not open'):
        meter.end("0 0")
    meter.close()


def test_import_starts_nothing(on_gpu: Callable[..., str]) -> None:
    text = on_gpu(
        "import os, sys, genesis_moe as gm; meter = gm.EnergyMeter(); from genesis_moe import energy; "
        "print(len(os.listdir('/proc/self/task')), 'libgenesis' in open('/proc/self/maps').read())"
    )
    threads, loaded = text.split()
    assert loaded == "False"
    assert int(threads) <= 64, "NumPy's BLAS may have threads, the library none"


def test_forked_child_is_told(on_gpu: Callable[..., str]) -> None:
    program = """
import os, genesis_moe as gm
meter = gm.EnergyMeter("mock"); meter.begin("w")
child = os.fork()
if child == 0:
    try: meter.end("w")
    except gm.ForkedError: os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), meter.end("w").joules >= 0)
"""
    assert on_gpu(program).split() == ["7", "True"]
