"""Times of work on the device, and the memory that it takes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from genesis_moe.studies.gpu.cases import DEVICE


def seconds_of_step(otherwise: float) -> float:
    """How long a step may begin new work: what it is given, less some to end in."""
    return float(os.environ.get("GMOE_GPU_STEP_SECONDS", otherwise + 15)) - 15


def synchronize() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def forget() -> None:
    """Gives memory that is free back to the device, for other processes."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def milliseconds(function: Callable[[], Any], most: int = 20, seconds: float = 0.25) -> list[float]:
    """The device's time for each of several calls, by events, after two that are not counted.

    At most ``most`` calls, and no more are begun after ``seconds``; three at least.
    """
    for _ in range(2):
        function()
    synchronize()
    found: list[float] = []
    start = time.monotonic()
    while len(found) < 3 or (len(found) < most and time.monotonic() - start < seconds):
        found.append(elapsed(function, 1))
    return found


def elapsed(function: Callable[[], Any], calls: int) -> float:
    """Milliseconds of one of so many calls behind each other, by the device's events; by the clock on a CPU."""
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return 1e3 * (time.perf_counter() - start) / calls
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / calls


def in_graph(function: Callable[[], Any]) -> Callable[[], None]:
    """Replays a CUDA graph of a call, which has been called before: few tokens take less time than launching does."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    graph.replay()
    synchronize()
    return partial(_replay, graph, function)


def _replay(graph: torch.cuda.CUDAGraph, kept: Callable[[], Any]) -> None:
    """kept: the call that was captured, which holds the tensors that the graph reads."""
    graph.replay()


def cache_bytes() -> int:
    """The size of the device's L2; 0 on a CPU."""
    return 0 if DEVICE.type != "cuda" else int(torch.cuda.get_device_properties(DEVICE).L2_cache_size)


def peak_bytes(function: Callable[[], Any]) -> int | None:
    """What a call has allocated at its most beyond what was there before; None on a CPU."""
    if DEVICE.type != "cuda":
        function()
        return None
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    synchronize()
    return torch.cuda.max_memory_allocated() - before


def ceilings() -> dict[str, float]:
    """The rates of a large dense product in bfloat16 and of a large copy, as this card has them."""
    side, size = (8192, 1 << 31) if DEVICE.type == "cuda" else (256, 1 << 20)
    a, b = (torch.randn(side, side, device=DEVICE).bfloat16() for _ in range(2))
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    product = statistics.median(milliseconds(lambda: a @ b, 50))
    copy = statistics.median(milliseconds(lambda: target.copy_(source)))
    return {
        "dense_teraflops_per_second": 2 * side**3 / product / 1e9,
        "copy_terabytes_per_second": 2 * source.numel() / copy / 1e9,
    }
