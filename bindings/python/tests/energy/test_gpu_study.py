"""The study of a GPU's sensors, with the driver library that the tests build; and the traces of real ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import genesis_moe as gm

STUDY = """
import json, sys, time
from pathlib import Path
from genesis_moe.studies.gpu.energy import measure
work = lambda: (time.sleep(0.01), 1000)[1]
print(json.dumps(measure(Path(sys.argv[1]), work, 1.5, 1.5)))
"""


def test_sensors_and_a_layer(on_gpu: Callable[..., str], tmp_path: Path) -> None:
    found = json.loads(on_gpu(STUDY, str(tmp_path)))
    assert found["meter"]["source"] == "nvml_counter"
    # The counter is looked at every 4 ms, by a machine that may be busy.
    assert found["updates"]["median_seconds"] == pytest.approx(0.1, rel=0.1)
    for name in ("idle", "loaded"):
        one = found[name]
        assert (
            abs(one["counter"]["joules"] - 200 * one["counter"]["seconds"]) <= one["counter"]["uncertainty"]
        )
        assert one["counter_over_integral"] == pytest.approx(1, abs=0.2)
    layer = found["layer"]
    assert layer["tokens"] == 1000 * layer["steps"]
    assert layer["joules_per_token"] * layer["tokens"] == pytest.approx(found["loaded"]["counter"]["joules"])

    trace = tmp_path / "energy_trace.jsonl"
    assert len(trace.read_text().splitlines()) < 60  # the changes alone
    joules, seconds, quality = replayed(trace)
    assert quality == "synthetic"
    assert joules == pytest.approx(200 * seconds, rel=0.3)


def replayed(trace: Path) -> tuple[float, float, str]:
    with gm.EnergyMeter("replay", replay_path=trace) as meter, meter.window() as window:
        time.sleep(1)
    assert window.reading is not None and window.reading.joules is not None
    assert window.reading.quality is not None
    return window.reading.joules, window.reading.seconds, window.reading.quality


TRACES = sorted((Path(__file__).resolve().parents[4] / "bench").rglob("energy_trace.jsonl"))


@pytest.mark.skipif(not TRACES, reason="no trace of a GPU is there yet: make gpu-energy makes one")
def test_traces_of_real_gpus_are_replayed() -> None:
    for trace in TRACES:
        joules, _, _ = replayed(trace)
        assert joules > 0
