"""Names for experts, from the tokens that each prefers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genesis_moe.energy.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genesis_moe.energy.recorder import EnergyRecorder

LEAST_TOKENS = 200  # of an expert before it gets a name
WORDS = 3  # in a name
PRIOR = 10.0  # tokens of the layer's own distribution added to each expert's, against chance
LEAST_SCORE = 2.0  # standard deviations: fewer may be chance
KEEP = 3  # a name stays while its words are among the first KEEP * WORDS


class ExpertNames:
    """Counts which tokens each expert gets, and names it by the most distinctive ones.

    model: its routers' last routings are read. text: turns a token id into its text, such as
    ``tokenizer.decode``. sample: tokens looked at in a step, drawn evenly. given: names of the
    host's own, by layer and expert; they are never replaced.

    The score of a token is its log-odds at the expert against the rest of the layer, over its standard
    deviation, with the layer's distribution as the prior (Monroe, Colaresi and Quinn 2008). Names are
    stable: one stays while its tokens stay among the nine best; :meth:`save` and :meth:`load` carry
    counts and names over a restart.
    """

    def __init__(
        self,
        model: nn.Module,
        text: Callable[[int], str],
        *,
        sample: int = 256,
        given: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        self._layers = Layers(model)
        self._text, self._sample, self._given = text, sample, dict(given or {})
        self._counts = [[Counter[int]() for _ in range(experts)] for experts in self._layers.experts]
        self._chosen: dict[tuple[int, int], list[int]] = {}

    def observe(self, input_ids: Tensor) -> None:
        """Counts the routing of the last forward, whose tokens are given in order."""
        ids = input_ids.detach().reshape(-1).cpu().numpy()
        picked = np.unique(np.linspace(0, len(ids) - 1, min(self._sample, len(ids))).astype(np.int64))
        for layer, counters in enumerate(self._counts):
            found = self._layers.last_index(layer)
            if found is None or len(found) != len(ids):
                continue
            index = found.detach().cpu().numpy()[picked]
            for expert, counter in enumerate(counters):
                counter.update(ids[picked][(index == expert).any(axis=1)].tolist())

    def names(self, layer: int) -> tuple[list[str], list[list[str]]]:
        """The names of a layer's experts, "" where there is none yet, and each one's best tokens."""
        counts = self._counts[layer]
        whole: Counter[int] = sum(counts, Counter())
        names, tokens = [], []
        for expert, own in enumerate(counts):
            best = _distinctive(own, whole) if own.total() >= LEAST_TOKENS else []
            kept = self._chosen.get((layer, expert), [])
            if not kept or not set(kept) <= set(best[: KEEP * WORDS]):
                kept = best[:WORDS]
            if kept:
                self._chosen[layer, expert] = kept
            words = [self._text(token).strip() or repr(self._text(token)) for token in best[: KEEP * WORDS]]
            shown = [self._text(token).strip() or repr(self._text(token)) for token in kept]
            names.append(self._given.get((layer, expert), " · ".join(shown)))
            tokens.append(words)
        return names, tokens

    def write(self, recorder: EnergyRecorder) -> None:
        """Puts the present names of every layer into the run's record."""
        for layer, counts in enumerate(self._counts):
            names, tokens = self.names(layer)
            given = [(layer, expert) in self._given for expert in range(len(counts))]
            recorder.names(layer, names, tokens, given if any(given) else ())

    def save(self, path: str | Path) -> None:
        """Writes counts and names, so that a restart goes on with them."""
        state = {
            "counts": [[dict(counter) for counter in layer] for layer in self._counts],
            "chosen": [[*key, tokens] for key, tokens in self._chosen.items()],
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Reads what :meth:`save` wrote of the same model."""
        state: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        self._counts = [
            [Counter({int(token): n for token, n in counter.items()}) for counter in layer]
            for layer in state["counts"]
        ]
        self._chosen = {(layer, expert): tokens for layer, expert, tokens in state["chosen"]}


def _distinctive(own: Counter[int], whole: Counter[int]) -> list[int]:
    """Tokens by score, the best first; ties by id. Only those clearly more frequent here than elsewhere."""
    total = whole.total()
    mine, rest = own.total(), total - own.total()
    scores = []
    for token, count in own.items():
        prior = PRIOR * whole[token] / total
        here, there = count + prior, whole[token] - count + prior
        odds = math.log(here / (mine + PRIOR - here)) - math.log(there / (rest + PRIOR - there))
        score = odds / math.sqrt(1 / here + 1 / there)
        if score > LEAST_SCORE:
            scores.append((-score, token))
    return [token for _, token in sorted(scores)]
