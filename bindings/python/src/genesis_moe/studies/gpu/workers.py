"""Processes that are compared with each other: started, asked in turn, given up when they fail. See worker.py."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

# Variables that choose the library's kernels, for each set of them.
KERNELS: dict[str, dict[str, str]] = {
    "portable": {"GENESIS_MOE_EXPERT_KERNELS": "portable"},
    "tiles": {"GENESIS_MOE_EXPERT_KERNELS": "tiles"},
    "hopper": {"GENESIS_MOE_EXPERT_KERNELS": "hopper", "GENESIS_MOE_EXPERT_ORDER": "reuse"},
    "hopper_plain": {"GENESIS_MOE_EXPERT_KERNELS": "hopper", "GENESIS_MOE_EXPERT_ORDER": "plain"},
}
# Of an error after which nothing works in that process any more.
LOST_DEVICE = ("CUDA error", "AcceleratorError", "DriverError")


class WorkerError(Exception):
    """A worker refused, failed, died or did not answer; the message says which."""


class Worker:
    """One process, and the requests to it."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        self.name, self._environment, self._log = name, environment, log
        self.restarts = 0
        self._start()

    def _start(self) -> None:
        self.lost: str | None = None  # why it is asked no more
        self._unread = b""
        log, environment = self._log, self._environment
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "genesis_moe.studies.gpu.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
            )

    def send(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Puts a request; what it was."""
        if self.lost is not None:
            raise WorkerError(f"{self.name}: {self.lost}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.end(f"ended with status {self._process.wait()}")
            raise WorkerError(f"{self.name}: {self.lost}") from None
        return {"do": do, **arguments}

    def receive(self, patience: float) -> dict[str, Any]:
        """The next answer; a worker that has none within so many seconds is ended."""
        if self.lost is not None:
            raise WorkerError(f"{self.name}: {self.lost}")
        deadline = time.monotonic() + patience
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.end(f"no answer in {patience:.0f} s")
                    raise WorkerError(f"{self.name}: {self.lost}")
                read = os.read(self._process.stdout.fileno(), 1 << 16)
                if not read:
                    self.end(f"ended with status {self._process.wait()}")
                    raise WorkerError(f"{self.name}: {self.lost}")
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            if any(sign in answer["error"] for sign in LOST_DEVICE):
                self.end(answer["error"])
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, do: str, patience: float = 30.0, **arguments: Any) -> dict[str, Any]:
        """A request and its answer, for which so many seconds are waited."""
        self.send(do, **arguments)
        return self.receive(patience)

    def restart(self) -> None:
        """Starts a process anew in the place of one that is lost."""
        self.restarts += 1
        self._start()

    def end(self, why: str) -> None:
        self.lost = self.lost or why
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Workers:
    """A context with some processes: at its end all are gone."""

    def __init__(self, environments: dict[str, dict[str, str]], logs: Path) -> None:
        self.all = {name: Worker(name, e, logs / f"worker_{name}.log") for name, e in environments.items()}
        self.failures: list[str] = []
        self._last: dict[str, str] = {}

    def together(self, do: str, patience: float, **arguments: Any) -> dict[str, dict[str, Any]]:
        """Asks all that are left at the same time; the answers of those that gave one."""
        asked = [
            name
            for name in self.left()
            if self._tried(name, do, lambda w: w.send(do, **arguments)) is not None
        ]
        found = {name: self._tried(name, do, lambda w: w.receive(patience)) for name in asked}
        return {name: answer for name, answer in found.items() if answer is not None}

    def _tried(self, name: str, do: str, what: Callable[[Worker], dict[str, Any]]) -> dict[str, Any] | None:
        """What a worker answers; None for one that fails, which is kept with the failures."""
        try:
            return what(self.all[name])
        except WorkerError as error:
            self._last[name] = f"{do}: {error}"
            self.failures.append(self._last[name])
            return None

    def last_failure(self, name: str) -> str:
        """Why a process had no answer in the last ``together``: also one that is asked no more."""
        return self.all[name].lost or self._last[name]

    def revive(self) -> None:
        """Starts the lost anew: once each, as what was lost twice will be lost again."""
        for worker in self.all.values():
            if worker.lost is not None and worker.restarts == 0:
                worker.restart()

    def left(self) -> dict[str, Worker]:
        return {name: worker for name, worker in self.all.items() if worker.lost is None}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all.values():
            worker.end("over")
