"""A process with one set of kernels and its own library: answers requests, one JSON object a line.

Which kernels the library launches is read from the environment once a process, so implementations that are
compared live in processes of their own, and one that faults takes nothing but itself along. workers.py
is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import genesis_moe as gm
from genesis_moe.studies.gpu.cases import DEVICE
from genesis_moe.studies.gpu.rivals import DENSE, OURS, call, forward, make_case
from genesis_moe.studies.gpu.timing import elapsed, forget, in_graph, milliseconds, peak_bytes, synchronize
from genesis_moe.studies.layer import TOLERANCE, Case, Shape, difference

REFERENCE = "grouped_mm"
ROUND_MILLISECONDS = 8.0  # one round of one implementation, in as many calls as that takes


class Worker:
    """The case at hand, and what is timed of it."""

    def __init__(self) -> None:
        self.case: Case | None = None
        self.calls: dict[tuple[str, str], tuple[Callable[[], Any], int]] = {}
        self.layers: dict[str, gm.MoE] = {}
        self.tokens: torch.Tensor | None = None

    def hello(self) -> dict[str, Any]:
        cuda = gm.doctor()["devices"]["cuda"]["details"]
        return {"device": str(DEVICE), "kernels": cuda.get("expert_kernels")}

    def begin(self, shape: list[int], tokens: int) -> dict[str, Any]:
        """Makes the case; its checksum is the same in every process."""
        self.drop()
        self.case = make_case(Shape(*shape), tokens)
        index = self.case.top_k_index
        return {
            "checksum": float(self.case.hidden_states.double().sum() + index.sum()),
            "experts_drawn": int(index.unique().numel()),
        }

    def drop(self) -> dict[str, Any]:
        self.case, self.calls, self.layers, self.tokens = None, {}, {}, None
        forget()
        return {}

    def recover(self) -> None:
        """After an error: memory goes back, unless the device itself is lost to this process."""
        with contextlib.suppress(RuntimeError):
            synchronize()
            forget()

    def check(self, name: str, passes: str) -> dict[str, Any]:
        """How far outputs and gradients are from the reference, whether two of our runs have the same bits, and the
        peak of memory. Raises where they are too far."""
        case = self._case()
        if name == DENSE:
            return {"peak_bytes": peak_bytes(call(name, case, passes))}
        first, reference = self._outputs(name, passes), self._outputs(REFERENCE, passes)
        far = max(difference(a, b) for a, b in zip(first, reference, strict=True))
        del reference
        found = {"difference": far}
        if name == OURS:
            second = self._outputs(name, passes)
            found["same_bits_twice"] = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
            del second
        del first
        if not far <= TOLERANCE["bfloat16"]:
            raise AssertionError(
                f"{name}: differs from {REFERENCE} by {far:.2e}, want at most {TOLERANCE['bfloat16']:.0e}"
            )
        forget()
        return {**found, "peak_bytes": peak_bytes(call(name, case, passes))}

    def prepare(self, name: str, passes: str, graph: bool = False) -> dict[str, Any]:
        """Gets ready to time: two calls that are not counted, a CUDA graph of them if that is wanted and can be."""
        function = call(name, self._case(), passes)
        function()
        captured = None
        # A loop over experts asks the device which have tokens, which no graph can hold.
        if graph and DEVICE.type == "cuda" and name != "eager":
            try:
                captured = in_graph(function)
            except Exception as error:
                synchronize()
                print(f"{name}: not captured: {error}", file=sys.stderr)
        function = captured or function
        taken = max(1e-3, elapsed(function, 1))
        calls = max(1, min(20, round(ROUND_MILLISECONDS / taken)))
        self.calls[name, passes] = function, calls
        return {"milliseconds": taken, "graph": captured is not None}

    def time(self, name: str, passes: str) -> dict[str, Any]:
        """One round: milliseconds of a call."""
        function, calls = self.calls[name, passes]
        return {"milliseconds": elapsed(function, calls)}

    def load(self, name: str, passes: str, seconds: float) -> dict[str, Any]:
        """Calls again and again, with the device idle before and after; how many calls."""
        return {"calls": _again(call(name, self._case(), passes), seconds)}

    def begin_layers(self, shape: list[int], tokens: int, budget: float) -> dict[str, Any]:
        """Makes whole layers, which route the same tokens: by Mixtral's router, by ours, by ours with a budget, whose
        gap is set so that it is met. The mean of experts that a token has in each."""
        self.drop()
        torch.manual_seed(1)
        hidden, intermediate, experts, top_k = shape
        x = torch.randn(tokens, hidden, device=DEVICE).bfloat16().requires_grad_()
        routers: dict[str, dict[str, Any]] = {
            "mixtral top-2": {"router": "mixtral"},
            "hamiltonian top-2": {},
            "hamiltonian budget": {"budget": budget},
        }
        for name, options in routers.items():
            layer = gm.MoE(
                hidden, intermediate, experts, top_k, dtype=torch.bfloat16, device=DEVICE, **options
            )
            if layer.router.gap is not None:
                _fit_gap(layer.router, x, budget)
            self.layers[name] = layer
        self.tokens = x
        with torch.no_grad():
            return {
                "mean_active": {
                    name: int(layer.router(x).counts.sum()) / tokens for name, layer in self.layers.items()
                }
            }

    def load_layer(self, name: str, seconds: float) -> dict[str, Any]:
        """As load, of a whole layer, forward and backward."""
        layer, x = self.layers[name], self.tokens
        assert x is not None
        leaves = [x, *layer.parameters()]
        direction = torch.ones_like(x)
        return {
            "calls": _again(
                lambda: torch.autograd.grad(layer(x), leaves, direction, allow_unused=True), seconds
            )
        }

    def kernels(self, name: str, passes: str) -> dict[str, Any]:
        """Microseconds of each kernel in one call, by torch's profiler."""
        function = call(name, self._case(), passes)
        function()
        return {"microseconds": kernel_times(function)}

    def routing(self) -> dict[str, Any]:
        """Milliseconds of routing by mode, of the plan and of the experts' forward pass, which has the plan."""
        case = self._case()
        shape = case.shape
        experts = call(OURS, case, "forward")
        found: dict[str, Any] = {"experts": statistics.median(milliseconds(experts)), "router": {}}
        for mode in ("hamiltonian", "mixtral", "deepseek"):
            router = gm.Router(
                shape.hidden_size,
                shape.num_experts,
                shape.top_k,
                mode=mode,
                dtype=torch.bfloat16,
                device=DEVICE,
            ).eval()

            def route(router: gm.Router = router) -> None:
                with torch.no_grad():
                    router(case.hidden_states)

            found["router"][mode] = statistics.median(milliseconds(route))
        times = kernel_times(experts)
        planned = sum(value for name, value in times.items() if name.startswith("gmoe_plan_")) / 1e3
        found["plan"] = planned if times else None
        found["share"] = {
            mode: (value + planned) / (value + found["experts"]) for mode, value in found["router"].items()
        }
        return found

    def _case(self) -> Case:
        if self.case is None:
            raise ValueError("case: none, want begin first")
        return self.case

    def _outputs(self, name: str, passes: str) -> list[torch.Tensor]:
        case = self._case()
        if passes == "forward":
            with torch.no_grad():
                return [forward(name, case)()]
        output = forward(name, case)()
        return [output.detach(), *torch.autograd.grad(output, case.leaves(), case.grad_output)]


def _again(function: Callable[[], Any], seconds: float) -> int:
    calls, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        for _ in range(4):  # so that launching stays ahead
            function()
        synchronize()
        calls += 4
    return calls


@torch.no_grad()
def _fit_gap(router: gm.Router, x: torch.Tensor, budget: float) -> None:
    """Halves an interval for the gap at which tokens have so many experts on average."""
    assert router.gap is not None
    low, high = 0.0, 2.0  # of a cosine distance
    for _ in range(20):
        router.gap.fill_((low + high) / 2)
        active = int(router(x).counts.sum()) / x.shape[0]
        low, high = (low, float(router.gap)) if active > budget else (float(router.gap), high)


def kernel_times(function: Callable[[], Any]) -> dict[str, float]:
    """Microseconds of each kernel that a call launches; empty on a CPU."""
    if DEVICE.type != "cuda":
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        synchronize()
    return {
        event.key: event.device_time_total for event in profile.key_averages() if event.device_time_total > 0
    }


def main() -> int:
    # Standard output is the other end's alone; what others print goes to the log.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            worker.recover()
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
