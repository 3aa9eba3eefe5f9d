"""Training one arm with one seed: resumable at any step, equal bit for bit.

The state is the model, the optimiser, the routers' buffers and the curves; the data of a
step depends on the seed and the step alone. Nothing else is random.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import genesis_moe as gm
from genesis_moe.energy.layers import Layers, expert_work
from genesis_moe.studies.compare.arms import Arm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.energy import TrainingEnergy
from genesis_moe.studies.compare.measures import (
    TRAINING_PER_FORWARD,
    forward_flops,
    held_out_loss,
    max_violation,
    parts_seconds,
    router_flops,
)
from genesis_moe.studies.compare.model import LanguageModel, Shape
from genesis_moe.studies.record import environment, read_json, write_atomically, write_json

RECENT = 50  # steps whose counts make the running MaxVio


@dataclass(frozen=True)
class Place:
    """Where a run is trained, and in what its products are: dtype bfloat16 is torch.autocast, with parameters,
    optimiser and routing in float32."""

    device: str = "cpu"
    dtype: str = "float32"

    def autocast(self) -> torch.autocast:
        """The context of every forward pass."""
        low = self.dtype == "bfloat16"
        return torch.autocast(self.device, torch.bfloat16 if low else None, enabled=low)

    def wait(self) -> None:
        """Until the device has done what it was given, before a clock is read."""
        if self.device == "cuda":
            torch.cuda.synchronize()


HERE = Place()
_warm: set[Place] = set()  # where this process has had its first pass


@dataclass(frozen=True)
class Settings:
    """Everything that an arm has in common with the others."""

    shape: Shape = field(default_factory=Shape)
    batch: int = 16
    steps: int = 600
    warmup: float = 0.05  # of the steps, linear; then half a cosine to zero
    weight_decay: float = 0.1  # of matrices; not of embeddings, norms and routers
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    evaluate_every: int = 60
    evaluation_windows: int = 24  # a domain, for the curve
    final_windows: int = 320  # a domain, for the result
    checkpoint_every: int = 50
    curve_every: int = 10  # steps averaged into one point of a curve

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.shape.sequence

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step


class TrainingInterruptedError(Exception):
    """Training was asked to stop; a checkpoint of the last whole step is on disk."""


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Of the peak learning rate: a linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def batch_of(corpus: Corpus, settings: Settings, seed: int, step: int) -> Tensor:
    """The bytes [B, S + 1] of a step: windows at random places, domains equally likely."""
    generator = np.random.default_rng([seed, step])
    length = settings.shape.sequence + 1
    rows = []
    for domain in generator.integers(len(corpus.domains), size=settings.batch):
        text = corpus.training[corpus.domains[domain]]
        start = generator.integers(text.size - length + 1)
        rows.append(text[start : start + length])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def optimizer_of(model: nn.Module, arm: Arm, settings: Settings) -> torch.optim.AdamW:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embedding" not in name and ".router." not in name
        (decayed if is_matrix else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=arm.learning_rate, betas=settings.betas, fused=True)


def fingerprint(arm: Arm, seed: int, settings: Settings, corpus_sha256: str, place: Place = HERE) -> str:
    """What a stored run must share with this one to be its continuation."""
    content = [asdict(arm), seed, asdict(settings), corpus_sha256]
    if place != HERE:  # runs of before there was a choice are the CPU's
        content.append(asdict(place))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Run:
    """One arm, one seed, in one folder: checkpoint.pt while it trains, result.json after."""

    def __init__(
        self,
        arm: Arm,
        seed: int,
        settings: Settings,
        corpus: Corpus,
        folder: Path,
        meter: gm.EnergyMeter | None = None,
        place: Place = HERE,
    ) -> None:
        self.energy = TrainingEnergy(meter)
        self.place = place
        self.arm, self.seed, self.settings, self.corpus = arm, seed, settings, corpus
        self.folder = folder
        self.fingerprint = fingerprint(arm, seed, settings, corpus.sha256, place)
        self.model = LanguageModel(settings.shape, arm.build(settings.shape, seed), seed).to(place.device)
        self.network: nn.Module = self.model  # what is called
        self.ranks = 1
        self.optimizer = optimizer_of(self.model, arm, settings)
        self.step = 0
        self.checked = False
        self.curves: dict[str, list[Any]] = {
            "loss": [], "expert_rows": [], "max_violation": [], "seconds": [], "evaluations": [],
        }  # fmt: skip
        self.recent: list[np.ndarray] = []  # counts [layers, experts] of the last steps

    def train(
        self,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] = lambda step, loss: None,
        warm_up: bool | None = None,
    ) -> dict[str, Any]:
        """Trains from the last checkpoint to the end; returns the result.

        stop: asked before every step; True writes a checkpoint and raises TrainingInterruptedError. warm_up: whether
        a pass that nothing is recorded of goes before; None: for a process's first on a GPU.
        """
        if (result := stored_result(self.folder, self.fingerprint)) is not None:
            return result
        self._restore()
        if warm_up if warm_up is not None else self.place.device == "cuda" and self.place not in _warm:
            self._warm_up()
        while self.step < self.settings.steps:
            if stop():
                if self.step == 0:
                    raise TrainingInterruptedError  # There is nothing to keep yet.
                self.energy.pause()
                self.save()
                write_json(self.folder / "partial.json", self.result(measure_parts=False))
                raise TrainingInterruptedError
            self.energy.begin()
            loss = self._train_step()
            progress(self.step, loss)
            if self.step % self.settings.evaluate_every == 0 and self.step < self.settings.steps:
                self.energy.pause()
                self._evaluate(self.settings.evaluation_windows)
            if self.step % self.settings.checkpoint_every == 0 and self.step < self.settings.steps:
                self.energy.pause()
                self.save()
        self.energy.pause()
        self._evaluate(self.settings.final_windows)
        result = self.result()
        state = {"fingerprint": self.fingerprint, "model": self.model.state_dict()}
        self._write("model.pt", state)
        write_json(self.folder / "result.json", result)
        for name in ("checkpoint.pt", "partial.json"):
            (self.folder / name).unlink(missing_ok=True)
        return result

    def _warm_up(self) -> None:
        """A forward and backward pass of a copy, which is dropped: the first on a GPU makes the context and loads
        kernels, whose seconds and joules are no arm's."""
        on_gpu = self.place.device == "cuda"
        with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
            model = copy.deepcopy(self.model).train()
            text = batch_of(self.corpus, self.settings, self.seed, self.step).to(self.place.device)
            with self.place.autocast():
                logits = model(text[:, :-1])
            functional.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten()).backward()
        self.place.wait()
        _warm.add(self.place)

    def _train_step(self) -> float:
        begin = time.perf_counter()
        settings = self.settings
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.arm.learning_rate * learning_rate_factor(self.step, settings)
        text = self._mine(batch_of(self.corpus, settings, self.seed, self.step)).to(self.place.device)
        logits = self._logits(text[:, :-1]) if self.checked else self._checked_logits(text[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
        objective = loss
        if self.arm.auxiliary:
            for layer in self._mixtures:
                objective = objective + self.arm.auxiliary * layer.auxiliary_loss()
        self.optimizer.zero_grad()
        objective.backward()
        self._clip_gradients()
        self.optimizer.step()
        self.step += 1
        gm.step(self.model, self.optimizer, self.step / settings.steps)
        self.place.wait()
        seconds = time.perf_counter() - begin

        counts = self._counts()
        self.recent = [*self.recent, counts][-RECENT:]
        violations = self._violations(counts)
        value = self._total(loss.detach()).item() / self.ranks
        self.curves["loss"].append(value)
        self.curves["expert_rows"].append([int(layer.sum()) for layer in counts])
        self.curves["max_violation"].append(sum(violations) / max(1, len(violations)))
        self.curves["seconds"].append(seconds)
        return value

    def _logits(self, text: Tensor) -> Tensor:
        with self.place.autocast():
            logits: Tensor = self.network(text)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def _checked_logits(self, text: Tensor) -> Tensor:
        if self.place.device == "cpu":
            before = gm.engine_counters()["expert_rows"]
            logits = self._logits(text)
            self._check_rows(gm.engine_counters()["expert_rows"] - before)
            return logits
        # On a device the work is counted for layers that have a number; only here, as it costs a launch.
        layers = Layers(self.model)  # gives them numbers that nobody had
        logits = self._logits(text)
        self.place.wait()
        routed = sum(int(expert_work(number)[:, 0].sum()) for number in layers.numbers)
        for layer in self._mixtures:
            layer.layer_number = 0
        shared = sum(layer.shared_experts for layer in self._mixtures) * self.settings.tokens_per_step
        self._check_rows(routed + shared)
        return logits

    def _check_rows(self, computed: int) -> None:
        """The first step of a process: the rows that FLOPs are counted from are those that the
        library says it computed. They are not when something else does the work."""
        shared = sum(layer.shared_experts for layer in self._mixtures)
        routed = int(self._counts().sum()) + shared * self.settings.tokens_per_step
        computed = int(self._total(torch.tensor(computed)))
        if computed != routed:
            raise RuntimeError(
                f"the library computed {computed} expert rows, the routing has {routed}: "
                f"is {gm.__file__} the package that belongs to {gm.library_path()}?"
            )
        self.checked = True

    def _counts(self) -> np.ndarray:
        """Tokens by expert in the last forward: [layers, experts]; [0, 0] for the dense arm."""
        routings = [layer.last_routing for layer in self._mixtures]
        if not routings:
            return np.zeros((0, 0))
        counts = torch.stack([routing.counts for routing in routings if routing is not None])
        return self._total(counts).cpu().numpy()

    # What is otherwise where several processes train one model: studies.distributed.

    def _mine(self, text: Tensor) -> Tensor:
        """The part of a batch that this process trains on."""
        return text

    def _total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        return numbers

    def _clip_gradients(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)

    def _violations(self, counts: np.ndarray) -> list[float]:
        """MaxVio by layer."""
        return [max_violation(load) for load in self._open(counts)]

    def _open(self, counts: np.ndarray) -> list[np.ndarray]:
        """Loads by layer of what its router may choose: a clan that is closed has none to miss."""
        found = []
        for layer, load in zip(self._mixtures, counts, strict=True):
            price = layer.router.price if layer.clans is not None else None
            found.append(load if price is None else load[~torch.isposinf(price).cpu().numpy()])
        return found

    @property
    def _mixtures(self) -> list[gm.MoE]:
        return [layer for layer in self.model.feed_forwards if isinstance(layer, gm.MoE)]

    def _evaluate(self, windows: int) -> None:
        with self.place.autocast():
            found = held_out_loss(self.model, self.corpus, windows, self.settings.batch)
        self.curves["evaluations"].append({"step": self.step, **found})

    def result(self, *, measure_parts: bool = True) -> dict[str, Any]:
        """The raw numbers of the run, curves averaged over `curve_every` steps."""
        settings, curves = self.settings, self.curves
        tokens = settings.tokens_per_step
        layers = self.model.feed_forwards
        is_dense = self.arm.kind == "dense"
        rows = np.zeros((self.step, len(layers))) if is_dense else np.array(curves["expert_rows"])
        flops = [
            TRAINING_PER_FORWARD
            * sum(forward_flops(layer, int(row), tokens) for layer, row in zip(layers, step, strict=True))
            for step in rows
        ]
        final = curves["evaluations"][-1] if curves["evaluations"] else None
        result: dict[str, Any] = {
            "arm": self.arm.name,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "learning_rate": self.arm.learning_rate,
            "done": self.step == settings.steps,
            "steps": self.step,
            "tokens": self.step * tokens,
            "held_out": final,
            "expert_flops": sum(flops),
            "router_flops": TRAINING_PER_FORWARD
            * self.step
            * sum(router_flops(layer, tokens) for layer in layers),
            "library": _library(),
            "environment": environment(),
            "curve_every": settings.curve_every,
            "curves": {
                "loss": _means(curves["loss"], settings.curve_every, 4),
                "expert_flops_per_step": _means(flops, settings.curve_every, 0),
                "experts_per_token": None
                if is_dense
                else _means(rows.mean(axis=1) / tokens, settings.curve_every, 4),
                "max_violation": None
                if is_dense
                else _means(curves["max_violation"], settings.curve_every, 4),
                "step_seconds": _means(curves["seconds"], settings.curve_every, 4),
                "held_out": [
                    [evaluation["step"], round(evaluation["loss"], 5)] for evaluation in curves["evaluations"]
                ],
            },
            "energy": self.energy.state,
            "place": asdict(self.place),
        }
        if measure_parts:
            text = batch_of(self.corpus, settings, self.seed, self.step)[:, :-1].to(self.place.device)
            step_seconds = float(np.median(curves["seconds"][-RECENT:]))
            parts = parts_seconds(self.model, text, wait=self.place.wait, context=self.place.autocast)
            rest = step_seconds - sum(parts.values())
            result["seconds_at_end"] = {"step": step_seconds, **parts, "rest": rest}
        if not is_dense and self.recent:
            recent = np.sum(self.recent, axis=0)
            result["balance_at_end"] = {
                "steps": len(self.recent),
                "max_violation_running": self._violations(recent),
                "max_violation_batch": float(np.mean(curves["max_violation"][-RECENT:])),
                "dead_share": float((np.concatenate(self._open(recent)) == 0).mean()),
            }
            result["routers"] = _reports(self.model)
        if grown := [report.mitosis for report in gm.report(self.model).values() if report.mitosis]:
            result["growth"] = [
                {
                    "experts": layer.experts,
                    "tree": layer.tree,
                    "events": [str(event) for event in layer.events],
                }
                for layer in grown
            ]
        return result

    def save(self) -> None:
        """Writes the checkpoint, atomically."""
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curves": self.curves,
            "energy": self.energy.state,
            "recent": [counts.tolist() for counts in self.recent],
        }
        self._write("checkpoint.pt", state)

    def load_trained(self) -> None:
        """Loads the model of a run that is done."""
        state = self._read("model.pt")
        self.model.load_state_dict(state["model"])
        self.step = self.settings.steps

    def repeat_step(self) -> None:
        """The step that comes next, or the last one again, for the clock alone: at the end the
        learning rate is next to nothing and the model stays as it is."""
        step = self.step
        self.step = min(step, self.settings.steps - 1)
        self._train_step()
        self.step = step

    def _write(self, name: str, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / name, buffer.getvalue())

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}: not a checkpoint of this study ({error})") from error
        _require_same(path, state["fingerprint"], self.fingerprint)
        return state

    def _restore(self) -> None:
        if not (self.folder / "checkpoint.pt").exists():
            return
        state = self._read("checkpoint.pt")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.curves = state["curves"]
        self.energy.resume(state.get("energy"))  # a checkpoint of before there were meters has none
        self.recent = [np.array(counts) for counts in state["recent"]]


def stored_result(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The result of a run that is done, or None."""
    path = folder / "result.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    _require_same(path, result["fingerprint"], wanted)
    return result


def _require_same(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(
            f"{path}: a run with other settings or another corpus ({found[:12]}, this one is "
            f"{wanted[:12]}); choose another --out or delete it"
        )


def _means(values: Any, every: int, digits: int) -> list[float]:
    values = np.asarray(values, dtype=np.float64)
    return [
        round(float(values[start : start + every].mean()), digits) for start in range(0, len(values), every)
    ]


def _library() -> dict[str, Any]:
    """Which library did the work, and with which BLAS."""
    found = gm.doctor()
    return {"version": found["version"], "blas": found["blas"]["name"]}


def _reports(model: nn.Module) -> dict[str, Any]:
    """The terms of H and the look of the routing, by layer, on the last forward."""
    return {
        name: {key: _plain(value) for key, value in asdict(report).items() if key != "mitosis"}
        for name, report in gm.report(model).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
