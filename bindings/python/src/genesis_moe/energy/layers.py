"""The layers of a model whose experts' work is counted, and that work."""

from __future__ import annotations

import ctypes
import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_moe import _engine
from genesis_moe._library import check, library
from genesis_moe.energy.families import events_between, family_of

if TYPE_CHECKING:
    from torch import nn

# Numbers are given out once in a process, so that two models never count into one ledger.
_numbers = itertools.count(1)
MAX_LAYER = 4096


def expert_work(layer: int) -> np.ndarray[Any, Any]:
    """[E, 3] int64: rows computed forward, FLOPs and bytes of each expert, in this process so far.

    layer: the number given to ``genesis_moe.functional.experts`` or to ``MoE.layer_number``. [0, 3]
    when nothing was counted.
    """
    total = np.zeros((0, 3), np.int64)
    for handle in _engine.handles():
        work = _work_of(handle, layer)
        if len(work) > len(total):
            total, work = work, total
        total[: len(work)] += work
    return total


def _work_of(handle: int, layer: int) -> np.ndarray[Any, Any]:
    found = ctypes.c_size_t()
    capacity = 128
    while True:
        out = (ctypes.c_uint64 * (3 * capacity))()
        status = library().gmoe_engine_expert_work(handle, layer, out, capacity, ctypes.byref(found))
        if found.value <= capacity:
            check(status)
            return np.array(out[: 3 * found.value], np.int64).reshape(-1, 3)
        capacity = found.value


class Layers:
    """The Mixture-of-Experts layers of a model, in its order: ours, and Hugging Face's with our experts."""

    def __init__(self, model: nn.Module) -> None:
        from genesis_moe.router import Router

        self.model = model
        self.names: list[str] = []
        self.numbers: list[int] = []
        self.routers: list[tuple[str, Any] | None] = []
        self.modules: list[nn.Module] = []
        self.experts: list[int] = []
        self.top_k: list[int] = []
        routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
        for name, module in model.named_modules():
            if not _has_experts(module):
                continue
            if not getattr(module, "layer_number", 0):
                module.layer_number = min(next(_numbers), MAX_LAYER)
            near = [key for key in routers if key.startswith((name.rpartition(".")[0], name))]
            router = max(near, key=lambda key: len(_common(key, name)), default=None)
            self.names.append(name)
            self.modules.append(module)
            self.numbers.append(module.layer_number)
            self.routers.append(None if router is None else (router, routers[router]))
            self.experts.append(int(module.num_experts))
            self.top_k.append(0 if router is None else int(routers[router].top_k))
        self._families = [family_of(module) for module in self.modules]
        self._before = [self._work(layer) for layer in range(len(self.numbers))]
        self._routing_seconds = 0.0
        self._timed = 0
        self._hooks: list[Any] = []

    def time_routers(self) -> None:
        """Times the routers' forward passes on the CPU; on a GPU they run after the call returns."""
        for found in self.routers:
            if found is not None:
                begin: list[float] = []
                self._hooks += [
                    found[1].register_forward_pre_hook(lambda *_, b=begin: b.append(time.perf_counter())),
                    found[1].register_forward_hook(lambda *_, b=begin: self._time(b)),
                ]

    def _time(self, begin: list[float]) -> None:
        self._routing_seconds += time.perf_counter() - begin.pop()
        self._timed += 1

    def close(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def description(self) -> list[dict[str, Any]]:
        """For the header of a run."""
        return [
            {"layer": layer, "name": name, "experts": experts, "top_k": top_k}
            | ({} if family is None else {"clans": family.clans, "free": family.free})
            for layer, (name, experts, top_k, family) in enumerate(
                zip(self.names, self.experts, self.top_k, self._families, strict=True)
            )
        ]

    def grown(self) -> list[dict[str, Any]]:
        """The events of the layers that have split, promoted or lost an expert since the last call."""
        lines: list[dict[str, Any]] = []
        for layer, module in enumerate(self.modules):
            before, after = self._families[layer], family_of(module)
            if before is not None and after is not None and before != after:
                lines += events_between(layer, before, after)
                self._families[layer] = after
        return lines

    def routing_seconds(self) -> float | None:
        """In routers since the last call; None when none was timed."""
        seconds, timed = self._routing_seconds, self._timed
        self._routing_seconds, self._timed = 0.0, 0
        uses_gpu = any(found is not None and found[1].centroids.is_cuda for found in self.routers)
        return seconds if timed and not uses_gpu else None

    def last_index(self, layer: int) -> Any:
        """The experts [T, K] of the last forward's tokens; of a layer that grows, slots. None before there was one."""
        pair, clans = self.routers[layer], getattr(self.modules[layer], "clans", None)
        routing = None if pair is None else pair[1].last_routing
        if routing is None:
            return None
        return routing.index if clans is None else clans.last_index

    def _work(self, layer: int) -> np.ndarray[Any, Any]:
        """expert_work of a layer, whose experts are counted from this rank's first where they are spread over ranks."""
        work = expert_work(self.numbers[layer])
        spread = getattr(self.modules[layer], "expert_parallel", None)
        if spread is None or not len(work):
            return work
        whole = np.zeros((self.experts[layer], work.shape[1]), work.dtype)
        whole[spread.first : spread.first + len(work)] = work
        return whole

    def step(self, *, with_report: bool) -> list[dict[str, Any]]:
        """What each layer did since the last call, and with a report the terms of its H."""
        reports = _reports(self.model) if with_report else {}
        lines = []
        for layer in range(len(self.numbers)):
            work = self._work(layer)
            line: dict[str, Any] = {"layer": layer}
            if len(work):
                done = work.copy()
                done[: len(self._before[layer])] -= self._before[layer]
                self._before[layer] = work
                line.update(zip(("tokens", "flops", "bytes"), done.T.tolist(), strict=True))
            found = self.routers[layer]
            if found is not None and found[0] in reports:
                line.update(reports[found[0]])
            lines.append(line)
        return lines


def _has_experts(module: Any) -> bool:
    from genesis_moe.moe import MoE

    if isinstance(module, MoE):
        return True
    # Hugging Face's experts modules, when our implementation computes them.
    config = getattr(module, "config", None)
    return (
        hasattr(module, "num_experts")
        and hasattr(module, "down_proj")
        and getattr(config, "_experts_implementation", None) == "genesis_moe"
    )


def _common(a: str, b: str) -> str:
    parts = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(a.split("."), b.split("."), strict=False)
    )
    return ".".join(pair[0] for pair in parts)


def _reports(model: nn.Module) -> dict[str, dict[str, float | None]]:
    from genesis_moe._report import report

    fields = {
        "bind": "energy_bind",
        "entropy": "energy_entropy",
        "cost": "energy_cost",
        "h": "energy",
        "max_violation": "max_violation",
        "mean_active": "mean_active",
        "token_entropy": "token_entropy",
    }
    return {
        name: {key: _finite(getattr(found, field)) for key, field in fields.items()}
        for name, found in report(model).items()
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
