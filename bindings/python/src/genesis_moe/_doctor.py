"""What was found on this machine, and what is missing."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import platform
from typing import Any

from genesis_moe._library import check, library, library_path

PACKAGES = ("genesis-moe", "numpy", "torch", "transformers", "ml_dtypes")


def doctor() -> dict[str, Any]:
    """Describes the library and what it found (version, processor, threads, BLAS, drivers), Python and packages.

    ``library`` is the path of the shared library; ``packages`` holds versions, or None for
    what is not installed. Imports none of them. LibraryNotFoundError lists where it looked.
    """
    lib = library()
    needed = ctypes.c_size_t()
    # The text may grow between the two calls (a counter more digits), so ask until it fits.
    capacity = 4096
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        status = lib.gmoe_doctor(buffer, capacity, ctypes.byref(needed))
        if needed.value <= capacity:
            check(status)
            break
        capacity = needed.value
    found: dict[str, Any] = json.loads(buffer.value)
    return {
        **found,
        "library": library_path(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
