"""Rival routers that are not a mode of the library: the controls of the study.

Each gives its routing to the same experts op; an absent slot carries index E and weight 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import genesis_moe as gm
from genesis_moe.routing import Routing

LOWERED_UNTIL = 0.5  # of the run; the same schedule as the budgeted arms


def scheduled(start: float, end: float, progress: float) -> float:
    """From start, in a straight line, to end at half of the run; end from there on."""
    return start + (end - start) * min(1.0, progress / LOWERED_UNTIL)


def _thinned(routing: Routing, keep: Tensor) -> Routing:
    """The routing with only the slots in `keep` [T, K]; weights are shared out anew."""
    experts = routing.logits.shape[1]
    weights = routing.weights * keep
    weights = weights / weights.sum(dim=-1, keepdim=True)
    index = torch.where(keep, routing.index, experts)
    counts = torch.bincount(index.flatten(), minlength=experts + 1)[:experts]
    return Routing(index, weights, routing.logits, counts)


class LoweredRouter(gm.Router):
    """Mixtral's router, lowered from top-2 to `end` experts a token on the budget's schedule.

    Which tokens keep their second expert is decided by their place in the batch alone: this
    is the control for *choosing* the tokens by energy.
    """

    mean_active: Tensor

    def __init__(self, *arguments: Any, end: float, **options: Any) -> None:
        super().__init__(*arguments, mode="mixtral", **options)
        self.end = end
        self.register_buffer("mean_active", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, hidden_states: Tensor) -> Routing:
        routing = super().forward(hidden_states)
        # The golden ratio's multiples spread evenly over [0, 1).
        numbers = torch.arange(hidden_states.shape[0], dtype=torch.float64, device=hidden_states.device)
        places = numbers * 0.6180339887498949
        keep = torch.ones_like(routing.index, dtype=torch.bool)
        keep[:, 1] = places.frac() < self.mean_active - 1.0
        self.last_routing = _thinned(routing, keep)
        return self.last_routing

    def update(self, counts: Tensor, num_tokens: int, progress: float | None = None) -> None:
        self.mean_active.fill_(scheduled(2.0, self.end, 1.0 if progress is None else progress))


class TopPRouter(gm.Router):
    """Mixtral's router choosing the fewest experts whose probabilities reach p (2403.07652).

    p follows the same budget on the same schedule as the excitation gap does, so that the
    mean of experts per token is equal to the budgeted arms'.
    """

    P_RATE = 0.01
    p: Tensor

    def __init__(self, *arguments: Any, end: float, **options: Any) -> None:
        super().__init__(*arguments, mode="mixtral", normalize_top_k=False, **options)
        self.end = end
        self.register_buffer("p", torch.tensor([0.5]))

    def forward(self, hidden_states: Tensor) -> Routing:
        routing = super().forward(hidden_states)
        before = routing.weights.detach().cumsum(dim=-1) - routing.weights.detach()
        keep = before < self.p
        keep[:, 0] = True
        self.last_routing = _thinned(routing, keep)
        if self.training:
            self.counts.add_(self.last_routing.counts - routing.counts)
        return self.last_routing

    def update(self, counts: Tensor, num_tokens: int, progress: float | None = None) -> None:
        wanted = scheduled(2.0, self.end, 1.0 if progress is None else progress)
        self.p += self.P_RATE * (wanted - counts.sum().item() / num_tokens)
        self.p.clamp_(0.0, 1.0)


class HashRouter(nn.Module):
    """Experts by byte, drawn once and fixed (Hash Layers, 2106.04426); weights are equal."""

    table: Tensor

    def __init__(self, num_experts: int, top_k: int, vocabulary: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(vocabulary, num_experts, generator=generator).argsort(dim=-1)
        self.register_buffer("table", order[:, :top_k].contiguous())
        self.num_experts = num_experts
        self.last_routing: Routing | None = None
        self.tokens: Tensor | None = None  # [T] of the coming forward, set by the model

    def forward(self, hidden_states: Tensor) -> Routing:
        if self.tokens is None or self.tokens.numel() != hidden_states.shape[0]:
            raise ValueError(
                f"tokens: {None if self.tokens is None else self.tokens.numel()}, "
                f"want {hidden_states.shape[0]}, one for each row of hidden_states"
            )
        index = self.table[self.tokens.flatten()]
        weights = torch.full(index.shape, 1.0 / index.shape[1], device=index.device)
        logits = torch.zeros(index.shape[0], self.num_experts, device=index.device)
        counts = torch.bincount(index.flatten(), minlength=self.num_experts)
        self.last_routing = Routing(index, weights, logits, counts)
        return self.last_routing
