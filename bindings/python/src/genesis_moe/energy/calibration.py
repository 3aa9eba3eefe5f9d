"""Finds the prices of work on a device, by repeating each kind of work alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_moe.energy.layers import expert_work
from genesis_moe.energy.meter import EnergyMeter, _synchronize
from genesis_moe.errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from genesis_moe.moe import MoE

SECONDS = 10.0


def calibrate(
    layer: MoE,
    meter: EnergyMeter,
    *,
    idle_watts: float,
    tokens: tuple[int, int] = (8, 2048),
    seconds: float = SECONDS,
    other: tuple[Callable[[], Any], int] | None = None,
) -> dict[str, Any]:
    """The prices of routing, of bytes and of FLOPs, as EnergyRecorder takes them for ``calibration``.

    The layer's router, and its experts with few and with many tokens, run alone for some seconds
    each while nothing else does. Few tokens mostly move weights, many mostly multiply: the two prices
    are the least-squares solution that is not negative. idle_watts: of :meth:`EnergyMeter.measure_idle`;
    what is beyond it is the work's. other: what the model does without its Mixture-of-Experts layers
    (attention, embeddings, their backward), as a function and the tokens of one call of it: it gives
    ``other_joules_per_token``, with which the residual of the model can be stated. UnsupportedError
    without a meter.
    """
    import torch

    if seconds <= 0 or min(tokens) < 1:
        raise InvalidArgumentError(f"seconds: {seconds}, tokens: {tokens}, want both above 0")
    if other is not None and other[1] < 1:
        raise InvalidArgumentError(f"other: {other[1]} tokens a call, want at least 1")
    if meter.source == "none":
        raise UnsupportedError(
            f"meter: none here, so there is nothing to calibrate ({meter.describe()['meter']})"
        )
    number = _number(layer)
    weight = layer.down_proj
    assert isinstance(weight, torch.Tensor)

    def active_joules(work: Callable[[], Any]) -> tuple[float, int]:
        """Joules beyond idling, and how often the work was done."""
        work()
        _synchronize()
        count, end = 0, time.perf_counter() + seconds
        with meter.window() as window:
            while time.perf_counter() < end:
                work()
                count += 1
        assert window.reading is not None
        if window.reading.joules is None or window.reading.incomplete:
            raise UnsupportedError(f"meter: {window.reading}, want a value")
        return max(0.0, window.reading.joules - idle_watts * window.reading.seconds), count

    with torch.no_grad():
        rows, joules = [], []
        for size in tokens:
            x = torch.randn(size, layer.hidden_size, dtype=weight.dtype, device=weight.device)
            routing = layer.router(x)
            before = expert_work(number)
            work = partial(layer._experts, "", x, routing.index, routing.weights)
            spent, _ = active_joules(work)
            done = expert_work(number)
            done[: len(before)] -= before
            rows.append(done[:, 1:].sum(axis=0))
            joules.append(spent)
        if not np.any(rows):
            raise UnsupportedError("layer: its experts' work is not counted on this device")
        x = torch.randn(tokens[1], layer.hidden_size, dtype=weight.dtype, device=weight.device)
        spent, count = active_joules(lambda: layer.router(x))
    flops, moved = _prices(np.array(rows, np.float64), np.array(joules))
    if flops == moved == 0:
        raise UnsupportedError(
            f"meter: the experts drew no more than idling ({idle_watts:.4g} W), want more seconds or a larger layer"
        )
    found: dict[str, Any] = {
        "joules_per_decision": spent / (count * tokens[1]),
        "joules_per_byte": moved,
        "joules_per_flop": flops,
        "idle_watts": idle_watts,
        "device": ", ".join(d.get("name", d["device"]) for d in meter.describe()["devices"]),
    }
    if other is not None:  # with gradients, where it takes them
        rest, count = active_joules(other[0])
        found["other_joules_per_token"] = rest / (count * other[1])
    return found


def _number(layer: MoE) -> int:
    from genesis_moe.energy.layers import Layers

    Layers(layer)
    return layer.layer_number


def _prices(work: np.ndarray[Any, Any], joules: np.ndarray[Any, Any]) -> tuple[float, float]:
    """J per FLOP and J per byte, least squares of relative errors, neither negative."""
    scaled = work / np.maximum(joules, 1e-12)[:, None]
    ones = np.ones(len(joules))
    best, least = (0.0, 0.0), np.inf
    for columns in ([0, 1], [0], [1]):
        solution, *_ = np.linalg.lstsq(scaled[:, columns], ones, rcond=None)
        prices = np.zeros(2)
        prices[columns] = solution
        error = float(((scaled @ prices - ones) ** 2).sum())
        if (prices >= 0).all() and error < least:
            best, least = (float(prices[0]), float(prices[1])), error
    return best
