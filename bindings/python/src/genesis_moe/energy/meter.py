"""The meter: windows of time and what was consumed in them."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genesis_moe import _abi
from genesis_moe._library import check, library
from genesis_moe._text import text_of
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.options import QUALITIES, SOURCES, number_of

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Reading:
    """The energy of a window, with what is known of it."""

    joules: float | None
    """All devices; None where there is no meter."""
    uncertainty: float | None
    """The worst error in joules that the sensors' timing allows; None: no bound is known."""
    seconds: float
    source: str
    """What it comes from: "nvml_counter", "rapl", ..., "none"."""
    quality: str | None
    """"measured", "modelled" or "synthetic"; None with no value."""
    settled: bool = True
    """Whether the sensors have updated since; before, the end is extrapolated."""
    low_resolution: bool = False
    """Whether the sensors updated less than ten times in it."""
    incomplete: bool = False
    """Whether a device was lost: at least this much was consumed."""

    @property
    def watts(self) -> float | None:
        """The mean power."""
        return self.joules / self.seconds if self.joules is not None and self.seconds > 0 else None

    def per_token(self, tokens: int) -> float | None:
        """J/token, gross; None where it is not known or only in part."""
        if self.joules is None or self.incomplete or tokens < 1:
            return None
        return self.joules / tokens

    def __str__(self) -> str:
        if self.joules is None:
            return f"not measured over {self.seconds:.3g} s (no meter)"
        least = "at least " if self.incomplete else ""
        bound = "" if self.uncertainty is None else f" ± {self.uncertainty:.3g} J"
        return f"{least}{self.joules:.4g} J{bound} over {self.seconds:.3g} s ({self.quality}, {self.source})"


class Window:
    """A window that is open or was ended; ``reading`` is None until then."""

    def __init__(self) -> None:
        self.reading: Reading | None = None


class EnergyMeter:
    """Meters the devices of this process: all GPUs that it may see, else the processor.

    source: "best" takes the best that is there: "nvml_counter", "nvml_integrated", "rapl",
    "estimate_tdp_load" (only with rated_watts), else "none", whose values are None. "replay"
    plays the trace at replay_path and "mock" invents a load; both are synthetic. A source that
    was asked for by name and is not there is NoDeviceError.

    devices: GPUs as UUIDs or NVML indices; None: the GPUs that torch uses, when it has
    started CUDA, else those of CUDA_VISIBLE_DEVICES. idle_watts: the power of all devices without
    work, see :meth:`measure_idle`. rated_watts: the processor's rated power. poll_seconds:
    the time between readings, 0.02, while it is learned when a counter updates; then it is read once an
    update. trace_path: every reading is written there, each poll_seconds.

    It can be used as a context manager (a window of the whole block, then closed), by
    ``with meter.window(name)``, by :meth:`begin` and :meth:`end`, and as a decorator, which adds
    the calls of a function up in ``totals``. Windows may nest and overlap. Work queued on GPUs
    is waited for at both ends of a window.
    """

    def __init__(
        self,
        source: str = "best",
        *,
        devices: Sequence[str | int] | None = None,
        idle_watts: float = 0.0,
        rated_watts: float = 0.0,
        poll_seconds: float = 0.0,
        replay_path: str | Path | None = None,
        trace_path: str | Path | None = None,
        sysfs_root: str | Path | None = None,
    ) -> None:
        number_of("source", source, SOURCES)
        self._options = (source, devices, idle_watts, rated_watts, poll_seconds)
        self._paths = (sysfs_root, replay_path, trace_path)
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._closed = False
        self._finalizer: Any = None
        self._numbers = itertools.count()
        self._block: str | None = None
        self.reading: Reading | None = None
        """Of the block that the meter was the context manager of."""
        self.totals: dict[str, Reading] = {}
        """Of the decorated functions, by qualified name: the sum of their calls."""

    @property
    def handle(self) -> int:
        """The library's handle; made, and the meter started, when it is first asked for."""
        with self._lock:
            if self._closed:
                raise InvalidArgumentError("meter: is closed")
            if self._handle is None:
                self._handle = self._create()
                self._finalizer = weakref.finalize(self, _destroy, self._handle)
            return self._handle

    def _create(self) -> int:
        source, devices, idle_watts, rated_watts, poll_seconds = self._options
        if devices is None:
            devices = _torch_devices()
        listed = None if devices is None else ",".join(map(str, devices)).encode()
        paths = [None if path is None else str(path).encode() for path in self._paths]
        options = _abi.MeterOptions(
            ctypes.sizeof(_abi.MeterOptions),
            SOURCES.index(source),
            listed,
            *paths,
            poll_seconds,
            idle_watts,
            rated_watts,
        )
        out = ctypes.c_void_p()
        check(library().gmoe_meter_create(ctypes.byref(options), ctypes.byref(out)))
        assert out.value is not None
        return out.value

    def begin(self, name: str) -> None:
        """Opens a window by a name, which no open window of this meter has."""
        _synchronize()
        check(library().gmoe_meter_begin(self.handle, name.encode()))

    def end(self, name: str, wait: float = 1.0) -> Reading:
        """Closes a window and reads it.

        wait: seconds to wait at most for the sensors' next update, a tenth of a second for a GPU;
        it makes the reading sharper. 0 does not wait.
        """
        _synchronize()
        out = _abi.MeterReading(struct_size=ctypes.sizeof(_abi.MeterReading))
        check(library().gmoe_meter_end(self.handle, name.encode(), wait, ctypes.byref(out)))
        return Reading(
            joules=_known(out.joules),
            uncertainty=_known(out.uncertainty_joules),
            seconds=out.seconds,
            source=SOURCES[out.source],
            quality=QUALITIES[out.quality] if out.quality else None,
            settled=bool(out.settled),
            low_resolution=bool(out.low_resolution),
            incomplete=bool(out.incomplete),
        )

    @contextmanager
    def window(self, name: str | None = None, wait: float = 1.0) -> Iterator[Window]:
        """A window around a block; its ``reading`` is there after the block."""
        name = f"window {next(self._numbers)}" if name is None else name
        found = Window()
        self.begin(name)
        try:
            yield found
        finally:
            found.reading = self.end(name, wait)

    def __enter__(self) -> EnergyMeter:
        self._block = f"block {next(self._numbers)}"
        self.begin(self._block)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._block is not None
        try:
            self.reading = self.end(self._block)
        finally:
            self.close()

    def __call__(self, function: _Function) -> _Function:
        """Decorates a function: its calls are added up in ``totals``."""

        @functools.wraps(function)
        def metered(*arguments: Any, **named: Any) -> Any:
            name = f"{function.__qualname__} {next(self._numbers)}"
            self.begin(name)
            try:
                return function(*arguments, **named)
            finally:
                reading = self.end(name)
                with self._lock:
                    self.totals[function.__qualname__] = _sum(self.totals.get(function.__qualname__), reading)

        return metered  # type: ignore[return-value]

    def measure_idle(self, seconds: float = 10.0) -> float | None:
        """Watts of all devices over some seconds in which the caller runs nothing; None: not known.

        Pass it as idle_watts to the meter of the run.
        """
        with self.window() as window:
            time.sleep(seconds)
        assert window.reading is not None
        return None if window.reading.incomplete else window.reading.watts

    def describe(self) -> dict[str, Any]:
        """``meter`` (source, quality, update_period_seconds, note), ``devices``, and the present ``power``."""
        return json.loads(text_of(library().gmoe_meter_describe, self.handle))  # type: ignore[no-any-return]

    @property
    def source(self) -> str:
        """What it meters with."""
        return str(self.describe()["meter"]["source"])

    @property
    def quality(self) -> str | None:
        """What its values are: "measured", "modelled", "synthetic", or None without a meter."""
        quality: str | None = self.describe()["meter"].get("quality")
        return quality

    def close(self) -> None:
        """Stops the meter. It cannot be used again."""
        with self._lock:
            self._closed = True
            handle, self._handle = self._handle, None
        if handle is not None:
            self._finalizer.detach()
            check(library().gmoe_meter_destroy(handle))


def _destroy(handle: int) -> None:
    """When a meter is forgotten, or Python ends; in a forked child the library does nothing."""
    library().gmoe_meter_destroy(handle)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sum(total: Reading | None, reading: Reading) -> Reading:
    if total is None:
        return reading

    def add(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + b

    return Reading(
        joules=add(total.joules, reading.joules),
        uncertainty=add(total.uncertainty, reading.uncertainty),
        seconds=total.seconds + reading.seconds,
        source=reading.source,
        quality=reading.quality,
        settled=total.settled and reading.settled,
        low_resolution=reading.low_resolution,
        incomplete=total.incomplete or reading.incomplete,
    )


def _cuda() -> Any:
    """torch.cuda when this process has started it; it is neither imported nor started here."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _synchronize() -> None:
    cuda = _cuda()
    if cuda is not None and not cuda.is_current_stream_capturing():
        used = sys.modules["torch"]._C._cuda_hasPrimaryContext
        for device in range(cuda.device_count()):
            if used(device):  # to wait for another rank's GPU would make a context there, of some 500 MB
                cuda.synchronize(device)


def share_of_ranks(ranks: int | None = None) -> float:
    """The share of a training's ranks whose devices this process sees.

    ranks: how many there are; None: as the variable WORLD_SIZE of torchrun and its like says. How many of them are on
    this machine is LOCAL_WORLD_SIZE; where that is not set, each has a GPU of those that are seen. The tokens of all
    ranks times the share are those that the meter's joules are of, where ranks have as many each.
    """
    if ranks is None:
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    cuda = _cuda()
    if cuda is not None:
        here = min(here, cuda.device_count())
    return min(1.0, here / ranks)


def _torch_devices() -> list[str] | None:
    cuda = _cuda()
    if cuda is None:
        return None
    uuids = [cuda.get_device_properties(device).uuid for device in range(cuda.device_count())]
    return [f"GPU-{str(uuid).removeprefix('GPU-')}" for uuid in uuids]
