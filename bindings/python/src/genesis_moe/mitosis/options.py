"""When experts split, die and become independent."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genesis_moe.errors import InvalidArgumentError


@dataclass(frozen=True)
class MitosisOptions:
    """The thresholds of growth. Steps are calls of :func:`genesis_moe.step`."""

    interval: int = 200
    """Steps between decisions; a multiple of window, at least 4 windows."""
    window: int = 20
    """Steps whose tokens are averaged: directions are refined after each, thresholds come from the
    last but one of an interval, and the gradients of the two sides are compared in the last."""
    min_tokens: int = 2000
    """Tokens that an expert must have had in the interval."""
    spread: float = 1.0
    """An expert may split when its price or mean binding energy is above median + spread * MAD."""
    null_percentile: float = 95.0
    """The gain of a 2-means split must be above this percentile of Gaussian samples of the same
    mean, variance and number."""
    null_samples: int = 400
    """How many such samples are drawn."""
    max_cosine: float = 0.0
    """The cosine of the two sides' weight gradients must be below it."""
    cooldown: int = 500
    """Steps between two changes of a layer, and before a child may be promoted."""
    ramp: int = 50
    """Steps over which the updates of new children rise from 1/ramp to their full size."""
    death_load: float = 0.1
    """An expert may die whose load is below this share of its target..."""
    death_intervals: int = 2
    """...for so many intervals in a row..."""
    loss_tolerance: float = 0.002
    """...if the held-out loss rises by no more than this (nats). The same holds for promotions."""
    promote: bool = True
    """Whether children are tried as independent experts; needs held_out in :func:`genesis_moe.step`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = {"max_cosine": -1, "spread": 0, "death_load": 0, "loss_tolerance": 0, "cooldown": 0}
            if field.name != "promote" and not value >= least.get(field.name, 1):
                raise InvalidArgumentError(
                    f"mitosis.{field.name}: {value}, want at least {least.get(field.name, 1)}"
                )
        if self.interval % self.window or self.interval < 4 * self.window:
            raise InvalidArgumentError(
                f"mitosis.interval: {self.interval}, want a multiple of window = {self.window}, at least 4 windows"
            )
        if self.null_percentile >= 100:
            raise InvalidArgumentError(f"mitosis.null_percentile: {self.null_percentile}, want below 100")
