"""Times of work on the device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_of_step(otherwise: float) -> float:
    """How long a step may begin new work: what it is given, less some to end in."""
    return float(os.environ.get("GMOE_GPU_STEP_SECONDS", otherwise + 15)) - 15


def milliseconds(function: Callable[[], Any], most: int = 20, seconds: float = 0.25) -> list[float]:
    """The device's time for each of several calls, by events, after two that are not counted.

    At most ``most`` calls, and no more are begun after ``seconds``; three at least.
    """
    for _ in range(2):
        function()
    torch.cuda.synchronize()
    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    start = time.monotonic()
    while len(pairs) < 3 or (len(pairs) < most and time.monotonic() - start < seconds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        pairs.append((begin, end))
    return [begin.elapsed_time(end) for begin, end in pairs]
