"""The engines of this process: one for each device and number of threads in use.

Engines are made when first needed and live as long as the process: a few idle
buffers cost less than the question of who may still be using one.
"""

from __future__ import annotations

import ctypes
import threading

from genesis_moe import _abi
from genesis_moe._library import check, library
from genesis_moe.errors import InvalidArgumentError

_engines: dict[tuple[int, int, int], int] = {}
_lock = threading.Lock()
_wanted_threads: int | None = None


def set_num_threads(num_threads: int | None) -> None:
    """Sets how many threads the operations use from now on; results do not depend on it.

    None, the default, means torch.get_num_threads() for torch tensors and the
    processors that this process may use for NumPy arrays. With torch's own number experts and routers run on
    torch's threads, which wait for work by spinning, if that takes about a millisecond or more; else, with another
    number, and with the environment variable GENESIS_MOE_THREADS=own, the library has threads of its own.
    """
    global _wanted_threads
    if num_threads is not None and num_threads < 1:
        raise InvalidArgumentError(f"num_threads: {num_threads}, want at least 1, or None")
    _wanted_threads = num_threads


def engine(device_type: int, device_id: int, num_threads: int) -> int:
    """The handle of an engine; num_threads 0 means all processors of the process."""
    key = device_type, device_id, num_threads if _wanted_threads is None else _wanted_threads
    handle = _engines.get(key)
    return _create(key) if handle is None else handle


def _create(key: tuple[int, int, int]) -> int:
    with _lock:
        if key not in _engines:
            options = _abi.EngineOptions(ctypes.sizeof(_abi.EngineOptions), _abi.ABI_VERSION, *key)
            out = ctypes.c_void_p()
            check(library().gmoe_engine_create(ctypes.byref(options), ctypes.byref(out)))
            assert out.value is not None
            _engines[key] = out.value
        return _engines[key]


def handles() -> list[int]:
    """The engines made so far."""
    return list(_engines.values())


def engine_counters() -> dict[str, int]:
    """The work done so far by all engines of this process.

    router_calls and experts_calls; tokens: rows given to the experts; expert_rows:
    token-expert pairs computed forward; flops: multiplications and additions in matrix
    products; bytes: of weights, rows and gradients read and written; scratch_bytes:
    scratch memory held now.
    """
    names = [field[0] for field in _abi.Counters._fields_[2:]]
    total = dict.fromkeys(names, 0)
    for handle in handles():
        counters = _abi.Counters(struct_size=ctypes.sizeof(_abi.Counters))
        check(library().gmoe_engine_counters(handle, ctypes.byref(counters)))
        for name in names:
            total[name] += getattr(counters, name)
    return total
