"""Records a run: each step with its energy."""

from __future__ import annotations

import ctypes
import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_moe import _abi
from genesis_moe._library import check, library
from genesis_moe._text import text_of
from genesis_moe.energy.layers import Layers
from genesis_moe.energy.meter import EnergyMeter, _synchronize
from genesis_moe.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch import nn

PHASES = ("train", "prefill", "decode", "eval")


class EnergyRecorder:
    """Keeps what each step of a run consumed: in a file of JSON lines, in metrics, in monitors.

    path: of the file, which must not exist; None: no file. meter: None: one of the best source,
    closed with the recorder. model: its Mixture-of-Experts layers, ours and Hugging Face's with
    our experts, are counted and reported. name, router, shape, labels: describe the run; shape is
    what a comparison must hold equal, such as batch and hidden_size. calibration: prices of work, of
    :func:`calibrate`; without them the energy is not divided among routers, experts and the rest.
    baselines: dicts of :func:`baseline_of` or paths of such JSON, to state savings against; without
    them none are stated. report_every: steps between two reports on the routing energy H (0: none).

    The lines are completed and written by a thread of the library: a step costs its caller the
    making of one line. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        meter: EnergyMeter | None = None,
        model: nn.Module | None = None,
        name: str = "",
        router: str = "",
        shape: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        calibration: Mapping[str, Any] | None = None,
        baselines: Iterable[Mapping[str, Any] | str | Path] = (),
        report_every: int = 10,
    ) -> None:
        if report_every < 0:
            raise InvalidArgumentError(f"report_every: {report_every}, want at least 0")
        self._owned = EnergyMeter() if meter is None else None
        self.meter = self._owned if meter is None else meter
        assert self.meter is not None
        self._layers = None if model is None else Layers(model)
        self._report_every = report_every
        self._steps = 0
        header: dict[str, Any] = {
            "name": name,
            "router": router or self._router(),
            "shape": dict(shape or {}),
            "labels": dict(labels or {}),
            "layers": [] if self._layers is None else self._layers.description(),
        }
        options = _abi.RecorderOptions(
            ctypes.sizeof(_abi.RecorderOptions),
            0,
            self.meter.handle,
            None if path is None else str(path).encode(),
            json.dumps(header).encode(),
            None if calibration is None else json.dumps(dict(calibration)).encode(),
        )
        out = ctypes.c_void_p()
        check(library().gmoe_recorder_create(ctypes.byref(options), ctypes.byref(out)))
        assert out.value is not None
        self.handle: int | None = out.value
        self._finalizer = weakref.finalize(self, _destroy, out.value)
        if self._layers is not None:
            self._layers.time_routers()
        for baseline in baselines:
            self.baseline(baseline)

    def _router(self) -> str:
        """The mode of the model's routers, when all have one."""
        found = (
            [] if self._layers is None else [pair[1].options.mode for pair in self._layers.routers if pair]
        )
        return found[0] if len(set(found)) == 1 else ""

    def step(
        self,
        tokens: int,
        *,
        loss: float | Mapping[str, float] | None = None,
        phase: str = "train",
        step: int | None = None,
        progress: float | None = None,
        routing_seconds: float | None = None,
    ) -> None:
        """Ends a step: what ran since the one before. tokens: that it processed.

        loss: by split, or that of "train". phase: "train", "prefill", "decode" or "eval", whose
        energies per token are kept apart. step: its number, counted from 1 when None.
        routing_seconds: in routers, when the host has timed them; None: as the recorder timed on the CPU.
        """
        if phase not in PHASES:
            raise InvalidArgumentError(f"phase: {phase!r}, want one of {', '.join(map(repr, PHASES))}")
        self._steps += 1
        line: dict[str, Any] = {"kind": "step", "step": step or self._steps, "phase": phase, "tokens": tokens}
        if loss is not None:
            line["loss"] = dict(loss) if isinstance(loss, Mapping) else {"train": float(loss)}
        if progress is not None:
            line["progress"] = progress
        _synchronize()
        if self._layers is not None:
            due = self._report_every > 0 and (self._steps - 1) % self._report_every == 0
            line["layers"] = self._layers.step(with_report=due)
            for event in self._layers.grown():
                self.log(event)
            if routing_seconds is None:
                routing_seconds = self._layers.routing_seconds()
            line["routing"] = {
                "decisions": tokens * sum(pair is not None for pair in self._layers.routers),
                "duration_seconds": routing_seconds,
            }
        self.log(line)

    def log(self, line: Mapping[str, Any]) -> None:
        """Logs a line of kind step, names, baseline, trace or event as it stands."""
        check(library().gmoe_recorder_log(self._open(), json.dumps(line, allow_nan=False).encode()))

    def event(self, message: str) -> None:
        """Notes something that a reader should know of."""
        self.log({"kind": "event", "event": "note", "message": message})

    def names(
        self,
        layer: int,
        names: Sequence[str],
        tokens: Sequence[Sequence[str]] = (),
        given: Sequence[bool] = (),
    ) -> None:
        """Names the experts of a layer; see :class:`ExpertNames` for names from the tokens that each prefers."""
        line: dict[str, Any] = {"kind": "names", "layer": layer, "names": list(names)}
        if tokens:
            line["tokens"] = [list(part) for part in tokens]
        if given:
            line["given"] = list(given)
        self.log(line)

    def baseline(self, baseline: Mapping[str, Any] | str | Path) -> None:
        """Compares the run with a baseline from now on."""
        found: Mapping[str, Any] = (
            baseline
            if isinstance(baseline, Mapping)
            else json.loads(Path(baseline).read_text(encoding="utf-8"))
        )
        self.log({**found, "kind": "baseline"})

    def trace(self, text: Sequence[str], name: str = "prompt") -> None:
        """Keeps the routes of the tokens of the last forward, whose texts are given in order."""
        if self._layers is None:
            raise InvalidArgumentError("trace: the recorder has no model")
        tokens: list[dict[str, Any]] = [{"text": part, "layers": []} for part in text]
        for layer, pair in enumerate(self._layers.routers):
            found = self._layers.last_index(layer)
            if pair is None or found is None:
                continue
            index, weights = found.tolist(), pair[1].last_routing.weights.tolist()
            if len(index) != len(tokens):
                raise InvalidArgumentError(
                    f"text: {len(tokens)} tokens, want {len(index)} as the last forward"
                )
            absent = self._layers.experts[layer]
            for token, experts, gates in zip(tokens, index, weights, strict=True):
                present = [(e, w) for e, w in zip(experts, gates, strict=True) if e < absent]
                token["layers"].append(
                    {"layer": layer, "experts": [e for e, _ in present], "weights": [w for _, w in present]}
                )
        self.log({"kind": "trace", "id": name, "tokens": tokens})

    def mark(self) -> None:
        """Begins the next step now: what ran since the last one belongs to none."""
        _synchronize()
        if self._layers is not None:
            self._layers.step(with_report=False)
            self._layers.routing_seconds()
        check(library().gmoe_recorder_mark(self._open()))

    def flush(self) -> None:
        """Waits until everything logged is written."""
        check(library().gmoe_recorder_flush(self._open()))

    def metrics(self) -> str:
        """The run's metrics in the text format of Prometheus."""
        return text_of(library().gmoe_recorder_metrics, self._open())

    def _open(self) -> int:
        if self.handle is None:
            raise InvalidArgumentError("recorder: is closed")
        return self.handle

    def close(self) -> None:
        """Writes what waits, and the run's last line."""
        handle, self.handle = self.handle, None
        if handle is None:
            return
        self._finalizer.detach()
        if self._layers is not None:
            self._layers.close()
        try:
            check(library().gmoe_recorder_destroy(handle))
        finally:
            if self._owned is not None:
                self._owned.close()

    def __enter__(self) -> EnergyRecorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _destroy(handle: int) -> None:
    """When a recorder is forgotten, or Python ends; in a forked child the library does nothing."""
    library().gmoe_recorder_destroy(handle)
