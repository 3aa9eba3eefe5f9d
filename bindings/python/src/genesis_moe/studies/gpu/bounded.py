"""Programs that look at other programs, within a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """status is None where the time was up."""

    status: int | None
    output: str
    errors: str

    @property
    def text(self) -> str:
        return self.output + self.errors


def run(command: list[str], environment: dict[str, str], seconds: float) -> Outcome:
    """Runs a program with these variables added. At the end of its time it goes with all that it has started, which
    would keep the GPU busy."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Outcome(None, *process.communicate())
    return Outcome(process.returncode, output, errors)
