"""Finds and opens the shared library, once, when it is first needed.

The Go runtime starts with the library, so nothing here runs at import.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from pathlib import Path

from genesis_moe import _abi
from genesis_moe.errors import (
    BY_STATUS,
    AbiMismatchError,
    GenesisMoeError,
    InternalError,
    LibraryNotFoundError,
)

FILE_NAME = "libgenesis_moe.so"
SONAME = "libgenesis_moe.so.0"
ENVIRONMENT_VARIABLE = "GENESIS_MOE_LIBRARY"

_lock = threading.Lock()


def library() -> ctypes.CDLL:
    """The opened library with its prototypes set. LibraryNotFoundError lists what was tried."""
    with _lock:
        return _open()


def library_path() -> str:
    """Where the opened library lies."""
    return str(library()._name)


def check(status: int) -> None:
    """Raises the exception of a status with this thread's message, unless it is GMOE_OK."""
    if status != 0:
        raise error_of(status)


def error_of(status: int) -> GenesisMoeError:
    """The exception for the failing call that this thread has just made."""
    message = library().gmoe_last_error().decode(errors="replace")
    return BY_STATUS.get(status, InternalError)(message)


@functools.cache
def _open() -> ctypes.CDLL:
    tried: list[str] = []
    for candidate in _candidates():
        # A bare file name is left to the loader: ld.so.conf, LD_LIBRARY_PATH, rpath.
        if os.sep in candidate and not os.path.exists(candidate):
            tried.append(f"{candidate}: not there")
            continue
        try:
            opened = ctypes.CDLL(candidate)
        except OSError as error:
            tried.append(f"{candidate}: {error}")
            continue
        return _with_prototypes(opened)
    raise LibraryNotFoundError(
        f"{FILE_NAME} was not found. Build it with `make build`, or set {ENVIRONMENT_VARIABLE} to its path. Tried:\n  "
        + "\n  ".join(tried)
    )


def _candidates() -> list[str]:
    """Places to look, in order; a path that the user has set is the only one."""
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        path = Path(wanted)
        return [str((path / FILE_NAME if path.is_dir() else path).absolute())]
    package = Path(__file__).resolve().parent
    places = [package / "lib" / FILE_NAME]
    # In a checkout this file is bindings/python/src/genesis_moe/_library.py.
    if len(package.parents) > 3:
        places.append(package.parents[3] / "build" / FILE_NAME)
    return [*map(str, places), SONAME]


def _with_prototypes(opened: ctypes.CDLL) -> ctypes.CDLL:
    found = None
    try:
        opened.gmoe_abi_version.restype = ctypes.c_uint32
        found = opened.gmoe_abi_version()
        if found == _abi.ABI_VERSION:
            for name, (arguments, result) in _abi.PROTOTYPES.items():
                function = getattr(opened, name)
                function.argtypes, function.restype = arguments, result
            return opened
    except AttributeError as error:
        raise AbiMismatchError(
            f"{opened._name}: {error}; it is no genesis_moe library of this version"
        ) from error
    raise AbiMismatchError(
        f"{opened._name} has ABI version {found}, this Python package wants {_abi.ABI_VERSION}: "
        "build both from one release"
    )
