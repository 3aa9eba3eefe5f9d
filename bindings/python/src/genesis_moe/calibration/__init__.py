"""Calibration: a dense model of the Llama family becomes a sparse one in minutes, without training.

report = gm.calibrate(model, texts, tokenizer=tokenizer, active=0.5)
model.save_pretrained("sparse")     # from_pretrained loads it after `import genesis_moe`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genesis_moe.calibration.conversion import calibrate
    from genesis_moe.calibration.layer import LayerShape, SparseMLP
    from genesis_moe.calibration.options import CalibrationOptions
    from genesis_moe.calibration.report import CalibrationReport, LayerReport

__all__ = [
    "CalibrationOptions",
    "CalibrationReport",
    "LayerReport",
    "LayerShape",
    "SparseMLP",
    "calibrate",
]

# Most need torch, which the command line's help has no time for.
_HOMES = {
    "CalibrationOptions": "options",
    "CalibrationReport": "report",
    "LayerReport": "report",
    "LayerShape": "layer",
    "SparseMLP": "layer",
    "calibrate": "conversion",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
