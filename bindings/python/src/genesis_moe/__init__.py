"""Mixture-of-Experts layers on one shared library.

Hamiltonian routing, budgeted experts and expert dispatch for PyTorch and NumPy::

    import genesis_moe as gm

    layer = gm.MoE(hidden_size=256, intermediate_size=512, num_experts=8, top_k=2, budget=1.25)
    y = layer(x)                       # x [..., 256]
    ...
    optimizer.step()
    gm.step(model, progress=i / steps)  # moves prices and gaps from the tokens counted

Importing this package loads nothing: neither the shared library nor torch. Each
name below is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genesis_moe import huggingface
from genesis_moe._extras import install_command

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genesis_moe import functional
    from genesis_moe._doctor import doctor
    from genesis_moe._engine import engine_counters, set_num_threads
    from genesis_moe._library import library_path
    from genesis_moe._monitor import Monitor, monitor
    from genesis_moe._report import RouterReport, report
    from genesis_moe._step import step
    from genesis_moe.calibration import CalibrationOptions, CalibrationReport, SparseMLP, calibrate
    from genesis_moe.energy import EnergyMeter, EnergyRecorder, ExpertNames, Reading
    from genesis_moe.errors import (
        AbiMismatchError,
        DistributedError,
        DriverError,
        ForkedError,
        GenesisMoeError,
        InternalError,
        InvalidArgumentError,
        InvalidHandleError,
        LibraryNotFoundError,
        NoDeviceError,
        OutOfMemoryError,
        UnsupportedError,
    )
    from genesis_moe.huggingface.injection import inject, inject_router
    from genesis_moe.mitosis import MitosisOptions
    from genesis_moe.moe import MoE
    from genesis_moe.options import RouterOptions
    from genesis_moe.quantization import quantize
    from genesis_moe.router import Router
    from genesis_moe.routing import Routing

_ERRORS = (
    "AbiMismatchError",
    "DistributedError",
    "DriverError",
    "ForkedError",
    "GenesisMoeError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidHandleError",
    "LibraryNotFoundError",
    "NoDeviceError",
    "OutOfMemoryError",
    "UnsupportedError",
)

# Where each public name lives, and whether it needs torch (then the package of
# that name is what a user without it is told to install).
_HOMES: dict[str, tuple[str, str | None]] = {
    "MoE": ("moe", "torch"),
    "Router": ("router", "torch"),
    "MitosisOptions": ("mitosis.options", "torch"),
    "quantize": ("quantization", "torch"),
    "step": ("_step", "torch"),
    "report": ("_report", None),
    "RouterReport": ("_report", None),
    "Routing": ("routing", None),
    "RouterOptions": ("options", None),
    "EnergyMeter": ("energy.meter", None),
    "Reading": ("energy.meter", None),
    "EnergyRecorder": ("energy.recorder", None),
    "ExpertNames": ("energy.names", "torch"),
    "doctor": ("_doctor", None),
    "engine_counters": ("_engine", None),
    "set_num_threads": ("_engine", None),
    "library_path": ("_library", None),
    "monitor": ("_monitor", None),
    "Monitor": ("_monitor", None),
    "calibrate": ("calibration.conversion", "transformers"),
    "CalibrationOptions": ("calibration.options", None),
    "CalibrationReport": ("calibration.report", None),
    "SparseMLP": ("calibration.layer", "torch"),
    "inject": ("huggingface.injection", "transformers"),
    "inject_router": ("huggingface.injection", "transformers"),
    **dict.fromkeys(_ERRORS, ("errors", None)),
}

__all__ = [
    "AbiMismatchError",
    "CalibrationOptions",
    "CalibrationReport",
    "DistributedError",
    "DriverError",
    "EnergyMeter",
    "EnergyRecorder",
    "ExpertNames",
    "ForkedError",
    "GenesisMoeError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidHandleError",
    "LibraryNotFoundError",
    "MitosisOptions",
    "MoE",
    "Monitor",
    "NoDeviceError",
    "OutOfMemoryError",
    "Reading",
    "Router",
    "RouterOptions",
    "RouterReport",
    "Routing",
    "SparseMLP",
    "UnsupportedError",
    "__version__",
    "calibrate",
    "doctor",
    "engine_counters",
    "functional",
    "huggingface",
    "inject",
    "inject_router",
    "library_path",
    "monitor",
    "quantize",
    "report",
    "set_num_threads",
    "step",
]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return _import(name, "genesis_moe.functional", None)
    if name in _HOMES:
        home, needs = _HOMES[name]
        value = getattr(_import(name, f"genesis_moe.{home}", needs), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import(name: str, module: str, needs: str | None) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if needs is None or missing not in ("torch", "transformers"):
            raise
        raise ImportError(
            f"genesis_moe.{name} needs {missing}, which is not installed: {install_command(needs)}",
            name=missing,
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)


# Registers the Hugging Face integration once transformers is imported, and imports it not.
huggingface.install()
