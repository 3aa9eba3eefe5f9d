"""Lines of runs that never were, for the console to show: the shapes of core/energy/record.

Everything follows from the arguments and the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Line = dict[str, Any]

NAMES = [
    *("def class self", "import from", "{ } ;", "std:: template", "the of and", "0 1 2 3", "licence copy"),
    *(
        "if else return",
        "[ ] ,",
        "http www",
        "tab indent",
        "quotes",
        "error raise",
        "int float",
        "array shape",
        "#",
    ),
]


@dataclass
class Pretend:
    """A run that never was."""

    name: str = "hamiltonian, budget 1.25"
    router: str = "hamiltonian"
    layers: int = 2
    experts: int = 8
    steps: int = 200
    step_seconds: float = 0.25
    tokens: int = 4096
    watts: float = 452.0
    limit_watts: float | None = 700.0
    joules_per_token: float = 0.027
    baseline: float | None = 0.0331
    loss: float = 1.87
    source: str = "nvml_counter"
    quality: str = "measured"
    lost_from: int | None = None  # a step
    named: bool = True
    calibrated: bool = True
    seed: int = 0
    started: str = "2026-11-23T09:30:00Z"
    random: random.Random = field(init=False)
    total_joules: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def quantity(self, value: float | None, error: float = 0.01, quality: str | None = None) -> Line:
        if value is None:
            return {"value": None, "uncertainty": None, "source": self.source}
        return {
            "value": value,
            "uncertainty": abs(value) * error,
            "source": self.source,
            "quality": quality or self.quality,
        }

    def lines(self) -> Iterator[Line]:
        yield from self.head()
        for step in range(1, self.steps + 1):
            if step == self.lost_from:
                yield self.event("meter_lost", step, "nvmlDeviceGetTotalEnergyConsumption: GPU is lost")
            yield self.step(step)
        yield self.trace()
        yield self.end()

    def head(self) -> Iterator[Line]:
        yield {
            "kind": "run",
            "schema": 1,
            "id": f"{self.router}-{self.seed}",
            "name": self.name,
            "started": self.started,
            "library": "0.1.0",
            "router": self.router,
            "layers": [
                {"layer": i, "name": f"blocks.{i}.moe", "experts": self.experts, "top_k": 2}
                for i in range(self.layers)
            ],
            "labels": {"seed": str(self.seed)},
            "devices": [
                {
                    "device": "gpu0",
                    "domain": "gpu",
                    "name": "NVIDIA H200",
                    "limit_watts": self.limit_watts,
                    "idle_watts": self.quantity(77.0),
                }
            ],
            "meter": {
                "source": self.source,
                "quality": self.quality,
                "update_period_seconds": 0.1 if self.source != "none" else None,
            },
        }
        if self.named:
            for layer in range(self.layers):
                yield {
                    "kind": "names",
                    "t": 0,
                    "layer": layer,
                    "names": [
                        NAMES[(e + 3 * layer) % len(NAMES)]
                        + (f" {e // len(NAMES)}" if e >= len(NAMES) else "")
                        for e in range(self.experts)
                    ],
                    "tokens": [NAMES[(e + 3 * layer) % len(NAMES)].split() for e in range(self.experts)],
                }
        if self.baseline is not None:
            yield {
                "kind": "baseline",
                "t": 0,
                "name": "mixtral",
                "phase": "train",
                "joules_per_token": self.quantity(self.baseline),
                "seeds": 3,
                "tokens": 10_000_000,
            }

    def step(self, step: int) -> Line:
        lost = self.lost_from is not None and step >= self.lost_from
        noise = self.random.gauss
        progress = step / self.steps
        joules = (
            None
            if lost or self.source == "none"
            else self.tokens * self.joules_per_token * (1 + 0.02 * noise(0, 1))
        )
        self.total_joules += joules or 0.0
        tokens = step * self.tokens
        watts = None if joules is None else self.watts * (1 + 0.03 * noise(0, 1)) * (0.4 if step < 3 else 1)
        per_token = None if joules is None else joules / self.tokens
        run_per_token = self.total_joules / tokens if self.source != "none" else None
        saved: list[Line] = []
        if self.baseline is not None and run_per_token:
            saved = [
                {
                    "baseline": "mixtral",
                    "saved_kilojoules": self.quantity((self.baseline - run_per_token) * tokens / 1000),
                    "efficiency_percent": self.quantity(100 * (1 - run_per_token / self.baseline)),
                }
            ]
        loss = self.loss + 1.6 * math.exp(-6 * progress)
        losses = {"train": loss + 0.03 * noise(0, 1)}
        if step % max(self.steps // 20, 1) == 0:
            losses["heldout"] = loss + 0.02
        energy: Line = {
            "joules": self.quantity(joules),
            "total_joules": self.quantity(self.total_joules if self.source != "none" else None),
            "joules_per_token": {**self.quantity(per_token, 0.2), "low_resolution": True},
            "net_joules_per_token": self.quantity(None if per_token is None else per_token * 0.83, 0.2),
            "run_joules_per_token": self.quantity(run_per_token),
            "devices": [
                {
                    "device": "gpu0",
                    "watts": self.quantity(watts),
                    "limit_watts": self.limit_watts,
                    "joules": self.quantity(joules),
                    "total_joules": self.quantity(self.total_joules),
                }
            ],
            "saved": saved,
        }
        if self.calibrated and joules is not None:
            energy["components"] = {
                "router_joules": self.quantity(joules * 0.02, 0.1, "modelled"),
                "experts_joules": self.quantity(joules * 0.55, 0.1, "modelled"),
                "other_joules": self.quantity(joules * 0.26, 0.1, "modelled"),
                "idle_joules": self.quantity(joules * 0.17, 0.05, "modelled"),
                "residual_joules": self.quantity(joules * 0.03, 0.1, "modelled"),
            }
        return {
            "kind": "step",
            "t": step * self.step_seconds,
            "step": step,
            "phase": "train",
            "duration_seconds": self.step_seconds,
            "tokens": self.tokens,
            "total_tokens": tokens,
            "loss": losses,
            "progress": progress,
            "energy": energy,
            "routing": {
                "mode": self.router,
                "decisions": self.tokens * self.layers,
                "duration_seconds": 0.004 * (1 + 0.1 * abs(noise(0, 1))),
            },
            "layers": [self.layer(layer, progress, joules) for layer in range(self.layers)],
        }

    def layer(self, layer: int, progress: float, joules: float | None) -> Line:
        spread = 1.2 * math.exp(-4 * progress) + 0.25
        weights = [
            math.exp(spread * math.sin(1.7 * e + 2.3 * layer) + 0.1 * self.random.gauss(0, 1))
            for e in range(self.experts)
        ]
        if self.experts > 2:
            weights[(self.random.randrange(self.experts) + layer) % self.experts] = 0.0
        share = 1.27 * self.tokens / sum(weights)
        tokens = [int(share * weight) for weight in weights]
        mean = sum(tokens) / len(tokens)
        bind = 0.42 + 0.3 * math.exp(-5 * progress)
        entropy = -0.08 * (1 + math.exp(-3 * progress))
        cost = 0.5 * (spread - 0.2) ** 2
        found: Line = {
            "layer": layer,
            "bind": bind,
            "entropy": entropy,
            "cost": cost,
            "h": bind + entropy + cost,
            "max_violation": max(tokens) / mean - 1,
            "mean_active": 2 - 0.73 * min(2 * progress, 1),
            "token_entropy": 0.6,
            "tokens": tokens,
        }
        if self.calibrated and joules is not None:
            found["joules"] = [joules * 0.55 / self.layers * n / sum(tokens) for n in tokens]
            found["joules_quality"] = "modelled"
        return found

    def trace(self) -> Line:
        text = "def| route|(|x|):|\n|    |return| argmin|(|energy|(|x|))| #| the| ground| state".split("|")  # noqa: SIM905
        return {
            "kind": "trace",
            "t": self.steps * self.step_seconds,
            "id": "prompt 1",
            "tokens": [
                {
                    "text": token,
                    "layers": [
                        {
                            "layer": layer,
                            "experts": self.random.sample(range(self.experts), 1 + self.random.randrange(2)),
                            "weights": [0.7, 0.3],
                            "u": 0.2 + 0.5 * self.random.random(),
                        }
                        for layer in range(self.layers)
                    ],
                    "joules": self.quantity(
                        2.1e-5 * (1 + self.random.random()) if self.calibrated else None, 0.2, "modelled"
                    ),
                }
                for token in text
            ],
        }

    def event(self, kind: str, step: int, message: str) -> Line:
        return {
            "kind": "event",
            "t": step * self.step_seconds,
            "event": kind,
            "device": "gpu0",
            "message": message,
        }

    def end(self) -> Line:
        return {
            "kind": "end",
            "t": self.steps * self.step_seconds,
            "tokens": {"train": self.steps * self.tokens},
            "total_joules": self.quantity(self.total_joules if self.source != "none" else None),
        }


def mixtral(**changes: Any) -> Pretend:
    """The run that others are compared with."""
    usual = {"name": "mixtral top-2", "router": "mixtral", "watts": 487.0, "joules_per_token": 0.0331}
    return Pretend(**{**usual, "baseline": None, "loss": 1.875, "seed": 1, "step_seconds": 0.29, **changes})


def deepseek(**changes: Any) -> Pretend:
    usual = {
        "name": "deepseek, 1 shared + 2",
        "router": "deepseek",
        "watts": 471.0,
        "joules_per_token": 0.0312,
    }
    return Pretend(**{**usual, "baseline": None, "loss": 1.88, "seed": 2, "step_seconds": 0.275, **changes})
