"""The console: a page that shows runs while they go on, or from their files."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from genesis_moe import _abi
from genesis_moe._library import check, library
from genesis_moe.errors import InvalidHandleError

if TYPE_CHECKING:
    from genesis_moe.energy.recorder import EnergyRecorder

DEFAULT_ADDRESS = "127.0.0.1:9460"


class Monitor:
    """A console that is being served. Use :func:`monitor` to start one.

    A context manager; it also stops when the process ends. Its methods may be called
    from any thread.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @property
    def url(self) -> str:
        """Where the page is, with the port that was taken; a token is not in it."""
        needed = ctypes.c_size_t()
        buffer = ctypes.create_string_buffer(512)
        check(library().gmoe_monitor_url(self._running(), buffer, len(buffer), ctypes.byref(needed)))
        return buffer.value.decode()

    def log(self, line: Mapping[str, Any] | str) -> None:
        """Shows one line of a run, as in a file of records: a mapping, or its JSON.

        A line of kind "run" begins a run. InvalidArgumentError says what is wrong with a line.
        """
        text = (line if isinstance(line, str) else json.dumps(line)).encode()
        check(library().gmoe_monitor_log(self._running(), text, len(text)))

    def attach(self, recorder: EnergyRecorder) -> None:
        """Shows the run of a recorder from now on, as it records. Either may end first."""
        check(library().gmoe_monitor_attach(self._running(), recorder._open()))

    def open(self, path: str | os.PathLike[str], *, follow: bool = False, speed: float = 0.0) -> None:
        """Shows the run in a file of records beside the others.

        follow: another process is writing it; what it appends is shown too. speed: plays the run
        in its own time, so many times as fast; 0 shows all of it at once.
        """
        options = _abi.MonitorFileOptions(ctypes.sizeof(_abi.MonitorFileOptions), int(follow), speed)
        check(library().gmoe_monitor_open(self._running(), os.fsencode(path), ctypes.byref(options)))

    def stop(self) -> None:
        """Stops serving. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            check(library().gmoe_monitor_stop(handle))

    def _running(self) -> int:
        if self._handle is None:
            raise InvalidHandleError("monitor: is stopped")
        return self._handle

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return "<Monitor, stopped>" if self._handle is None else f"<Monitor at {self.url}>"


def monitor(
    address: str = DEFAULT_ADDRESS,
    *,
    runs: Iterable[str | os.PathLike[str]] = (),
    allow_remote: bool = False,
    token: str | None = None,
    hosts: Iterable[str] = (),
    interval_seconds: float = 0.25,
) -> Monitor:
    """Serves the console at an address, from threads of the library, and returns at once.

    address: host:port; port 0 takes a free one (see :attr:`Monitor.url`). One that other machines
    can reach raises InvalidArgumentError unless allow_remote is set and a token of at least 16
    characters is given; open the page then as ``http://host:port/?token=...``.
    runs: files of records of other runs, to compare with. hosts: further names under which the
    page may be asked for. interval_seconds: between updates of the page.
    """
    options = _abi.MonitorOptions(
        struct_size=ctypes.sizeof(_abi.MonitorOptions),
        abi_version=_abi.ABI_VERSION,
        address=address.encode(),
        token=token.encode() if token else None,
        hosts=",".join(hosts).encode() or None,
        allow_remote=int(allow_remote),
        interval_milliseconds=round(1000 * interval_seconds),
    )
    out = ctypes.c_void_p()
    check(library().gmoe_monitor_start(ctypes.byref(options), ctypes.byref(out)))
    assert out.value is not None
    started = Monitor(out.value)
    try:
        for path in runs:
            started.open(path)
    except BaseException:
        started.stop()
        raise
    return started
