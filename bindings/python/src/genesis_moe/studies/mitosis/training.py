"""Training one arm: a run of the study `compare` whose experts split by the arm's rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import genesis_moe as gm
from genesis_moe.mitosis import split
from genesis_moe.studies.compare.arms import Arm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.model import Shape
from genesis_moe.studies.compare.training import Run, Settings
from genesis_moe.studies.mitosis.measures import Stability, specialisation
from genesis_moe.studies.record import read_json

TOP_K = 2
NEVER = 10**15  # tokens that no expert sees: the library's own triggers stay silent


@dataclass(frozen=True)
class GrowthArm(Arm):
    """An arm of this study. rule: "mitosis", "none", "random times" or "random experts".

    first: experts of each layer at the start; () is the shape's number. times: by layer the steps
    after which an expert splits; of the random rules.
    """

    rule: str = "none"
    first: tuple[int, ...] = ()
    max_experts: int = 8
    mitosis: gm.MitosisOptions = field(default_factory=gm.MitosisOptions)
    times: tuple[tuple[int, ...], ...] = ()

    def build(self, shape: Shape, seed: int) -> Callable[[], nn.Module]:
        numbers = iter(self.first or (shape.experts,) * shape.layers)
        options = asdict(self.mitosis)
        if self.rule != "mitosis":
            options["min_tokens"] = NEVER
        return lambda: gm.MoE(
            shape.hidden_size,
            shape.intermediate_size,
            next(numbers),
            TOP_K,
            max_experts=self.max_experts,
            mitosis=gm.MitosisOptions(**options),
        )


class GrowthRun(Run):
    """Also measures specialisation at each evaluation, and splits experts where the arm's rule says so."""

    def __init__(
        self,
        arm: GrowthArm,
        seed: int,
        settings: Settings,
        corpus: Corpus,
        folder: Path,
        how: Stability,
        windows: int,
    ) -> None:
        super().__init__(arm, seed, settings, corpus, folder)
        self.growing, self.how, self.windows = arm, how, windows

    def _train_step(self) -> float:
        loss = super()._train_step()
        for number, times in enumerate(self.growing.times):
            if self.step in times:
                layer = self._mixtures[number]
                split(layer, self._chosen(layer, number), self.optimizer)
        return loss

    def _chosen(self, layer: gm.MoE, number: int) -> int:
        """random times: the expert with most tokens in the clan of the highest price; random experts: any."""
        clans, price = layer.clans, layer.router.price
        assert clans is not None and price is not None
        leaves = [leaf for leaf in clans.leaves(price) if clans.fitted_gain[leaf.slot] > 0]
        if self.growing.rule == "random experts":
            generator = np.random.default_rng([self.seed, number, self.step])
            return leaves[generator.integers(len(leaves))].slot
        return max(leaves, key=lambda leaf: (float(price[leaf.clan]), float(clans.last_load[leaf.slot]))).slot

    def _evaluate(self, windows: int) -> None:
        super()._evaluate(windows)
        layers = specialisation(self.model, self.corpus, self.windows, self.how)
        self.curves["evaluations"][-1]["layers"] = layers

    def result(self, *, measure_parts: bool = True) -> dict[str, Any]:
        result = super().result(measure_parts=False)
        for name in ("balance_at_end", "seconds_at_end", "routers"):  # of clans, closed ones among them
            result.pop(name, None)
        tokens, hidden = self.settings.tokens_per_step, self.settings.shape.hidden_size
        # One pass over the chosen tokens: mean, projection on the axis, power; forward alone.
        watching = 6 * tokens * TOP_K * hidden * self.step * len(self._mixtures)
        reports = [gm.report(layer)["router"].mitosis for layer in self._mixtures]
        return {
            **result,
            "watching_flops": watching if self.growing.rule != "none" else 0,
            "evaluations": self.curves["evaluations"],
            "layers": [
                {
                    "experts": report.experts,
                    "tree": report.tree.splitlines(),
                    "events": [str(event) for event in report.events],
                    "splits": [event.step for event in report.events if event.kind == "split"],
                }
                for report in reports
                if report is not None
            ],
        }


def splits_of(folder: Path) -> list[list[int]]:
    """By layer, the steps at which the experts of a finished run split."""
    return [layer["splits"] for layer in read_json(folder / "result.json")["layers"]]
