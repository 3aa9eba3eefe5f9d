"""What was found on this machine, and what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

from genesis_moe._extras import install_command
from genesis_moe._library import library, library_path
from genesis_moe._text import text_of

PACKAGES = ("genesis-moe", "numpy", "torch", "transformers", "ml_dtypes")


def doctor() -> dict[str, Any]:
    """Describes the library and what it found (version, processor, threads, BLAS, drivers), Python and packages.

    ``library`` is the path of the shared library; ``packages`` holds versions, or None for
    what is not installed. Imports none of them. LibraryNotFoundError lists where it looked.
    """
    found: dict[str, Any] = json.loads(text_of(library().gmoe_doctor))
    return {
        **found,
        "library": library_path(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def summary(found: dict[str, Any]) -> list[str]:
    """What :func:`doctor` found in plain words: a line for each thing that is there, or is not, and why it matters."""
    blas, cuda, packages = found["blas"], found["devices"]["cuda"], found["packages"]
    return [
        _line(True, f"the library, genesis-moe {found['version']}: {found['library']}", ""),
        _line(
            blas["name"] != "gonum",
            f"a fast BLAS, {blas['name']}: {blas['path']}",
            "a BLAS: matrix products run in pure Go, many times slower. Install OpenBLAS, or set GENESIS_MOE_BLAS "
            "to the path of one",
        ),
        _line(
            cuda["count"] > 0,
            f"CUDA devices: {cuda['count']}",
            "a CUDA device (there is no driver, or it sees none): everything runs on the CPU",
        ),
        _line(
            found["nvml"]["found"],
            "NVML, which measures the energy of GPUs",
            "NVML (libnvidia-ml.so.1): the energy of GPUs cannot be measured",
        ),
        *(
            _line(packages[name] is not None, f"{name} {packages[name]}", f"{name}: {without}")
            for name, without in _WITHOUT.items()
        ),
    ]


_WITHOUT = {
    "numpy": "nothing works without it; pip install numpy",
    "torch": f"the functions of NumPy arrays work; for layers: {install_command('torch')}",
    "transformers": f"for Hugging Face models: {install_command('transformers')}",
    "ml_dtypes": "NumPy has no bfloat16 without it; pip install ml_dtypes",
}


def _line(there: bool, found: str, missing: str) -> str:
    return f"found    {found}" if there else f"missing  {missing}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
