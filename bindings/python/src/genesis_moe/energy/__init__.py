"""Energy: meter it, say how well it is known, record it.

    meter = gm.EnergyMeter()
    with meter.window("epoch") as epoch:
        ...
    print(epoch.reading)  # 812 J ± 51 J over 1.93 s (measured, nvml_counter)

    with gm.EnergyRecorder("run.jsonl", meter=meter, model=model) as recorder:
        for batch in batches:
            ...
            recorder.step(tokens=batch.numel(), loss=loss.item())

Nothing runs before a meter's first use. Where no sensor is, values are None: joules are never
inferred from time. :mod:`genesis_moe.huggingface.energy` and :mod:`genesis_moe.lightning` hold
the callbacks of the trainers.
"""

from __future__ import annotations

from genesis_moe.energy.baseline import baseline_of
from genesis_moe.energy.calibration import calibrate
from genesis_moe.energy.layers import expert_work
from genesis_moe.energy.meter import EnergyMeter, Reading, Window
from genesis_moe.energy.names import ExpertNames
from genesis_moe.energy.record import export_csv, read_record
from genesis_moe.energy.recorder import EnergyRecorder

__all__ = [
    "EnergyMeter",
    "EnergyRecorder",
    "ExpertNames",
    "Reading",
    "Window",
    "baseline_of",
    "calibrate",
    "expert_work",
    "export_csv",
    "read_record",
]
