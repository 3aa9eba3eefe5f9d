"""The options of a calibration, and what they have to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.options import number_of

ROUTERS = ("ridge", "representative", "random", "oracle")
COMPENSATORS = ("least_squares", "bias", "none")
SCORES = ("energy", "fluctuation")
ALLOCATIONS = ("importance", "uniform")
TARGETS = ("stream", "layer")


@dataclass(frozen=True)
class CalibrationOptions:
    """How the MLPs of a dense model become shared and routed experts.

    Every control of the study is a value of one of these fields: experts=0 keeps the same neurons for
    every token, with score="fluctuation" and compensator="bias" as FLAP does.
    """

    active: float = 0.5
    """The share of the dense MLPs' multiplications that a token may cost on average, in (0, 1]:
    shared and routed experts and router together."""
    experts: int | Literal["auto"] = "auto"
    """Routed experts in each layer; divides the neurons that are not shared. 0: all is shared. "auto":
    experts of about 1/128 of the neurons."""
    shared: float | Literal["auto"] = "auto"
    """The share of the neurons that every token goes through, in [0, 1). "auto": in each layer what loses
    least on tokens held back, of half of what stays active and all of it."""
    allocation: str = "importance"
    """How much of each layer stays active: "importance", by one threshold on the energy of neurons for the
    whole model, or "uniform", the same in all layers."""
    target: str = "stream"
    """What the down projections are fitted to: the dense model's residual "stream", so that layers make up for
    what those before them lost, or the dense "layer" on its own."""
    router: str = "ridge"
    """"ridge": energies of the experts' outputs by ridge regression; for comparison only, as they need the
    dense layer or are of no use: "representative", the activation of each expert's strongest neuron,
    "random", a random projection, and "oracle"."""
    compensator: str = "least_squares"
    """For what is dropped: "least_squares" fits the down projections and a bias, which costs nothing when
    run; "bias": the mean alone; "none"."""
    score: str = "energy"
    """What makes a neuron shared: the mean of |h_i|^2 |w_i|^2 ("energy") or its variance ("fluctuation")."""
    router_dim: int = 64
    """Width of the space where tokens and centroids meet, at most H."""
    tokens: int = 32768
    """Calibration tokens, taken from the texts in random windows."""
    length: int = 512
    """Tokens in a window of text."""
    distill_minutes: float = 0.0
    """Of training after the conversion, on more of the texts: the KL divergence to the dense model. Minutes of
    processor time over threads, as on a machine that does nothing else."""
    distill_rate: float = 2e-4
    """The highest learning rate of the distillation."""
    seed: int = 0
    """For the choice of windows and the start of the clustering."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("router", ROUTERS),
            ("compensator", COMPENSATORS),
            ("score", SCORES),
            ("allocation", ALLOCATIONS),
            ("target", TARGETS),
        ):
            number_of(name, getattr(self, name), allowed)
        if not (_is_number(self.active) and 0 < self.active <= 1):
            raise InvalidArgumentError(f"active: {self.active!r}, want a share above 0 and at most 1")
        if self.experts != "auto" and (not _is_whole(self.experts) or self.experts < 0):
            raise InvalidArgumentError(f"experts: {self.experts!r}, want 'auto' or a number, 0 for none")
        if self.shared != "auto" and not (_is_number(self.shared) and 0 <= self.shared < 1):
            raise InvalidArgumentError(
                f"shared: {self.shared!r}, want 'auto', or a share of at least 0 and below 1"
            )
        if not (_is_number(self.distill_minutes) and 0 <= self.distill_minutes < float("inf")):
            raise InvalidArgumentError(f"distill_minutes: {self.distill_minutes!r}, want 0 or more minutes")
        if not (_is_number(self.distill_rate) and 0 < self.distill_rate < 1):
            raise InvalidArgumentError(
                f"distill_rate: {self.distill_rate!r}, want a learning rate above 0 and below 1"
            )
        if self.distill_minutes and self.experts != 0 and self.router != "ridge":
            raise InvalidArgumentError(
                f"distill_minutes: {self.distill_minutes}, but with router {self.router!r} nothing is trained; "
                "want 'ridge'"
            )
        for name, least in (("router_dim", 1), ("tokens", 1), ("length", 2), ("seed", 0)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise InvalidArgumentError(f"{name}: {value!r}, want a whole number of at least {least}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
