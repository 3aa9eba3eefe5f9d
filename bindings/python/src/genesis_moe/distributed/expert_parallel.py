"""Experts spread over ranks: tokens travel to their experts and the results come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genesis_moe._torch_ops import autocast_dtype
from genesis_moe.distributed.exchange import Traffic, Travelling, exchange, exchange_counts


class ExpertParallel:
    """The way of a layer's tokens through experts that are sharded over a process group.

    Rank r of R holds the experts [r*n, (r+1)*n) with n = ceil(E/R); the last ranks may hold
    fewer, or none. A token is sent once to each rank that holds one of its experts, with its
    weights; that rank adds up its experts' results, and one row comes back. The ranks' tokens
    may differ in number, down to none. Every rank must call the layer as often as the others.
    """

    def __init__(self, group: Any, num_experts: int) -> None:
        self.group, self.num_experts = group, num_experts
        self.per_rank = -(-num_experts // group.size())
        self.first = min(num_experts, group.rank() * self.per_rank)
        self.num_local = min(num_experts, self.first + self.per_rank) - self.first
        self.traffic = Traffic()

    def local(self, expert: Tensor) -> Tensor:
        """The number of an expert among this rank's; -1 where another rank has it, or for -1."""
        own = expert - self.first
        local: Tensor = own.where((own >= 0) & (own < self.num_local), -1)
        return local

    # The numbers of rows depend on the data, and collectives are side effects: not for a graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self,
        tokens: Tensor,
        index: Tensor,
        weights: Tensor,
        experts: Callable[[Tensor, Tensor, Tensor], Tensor],
        parameters: Callable[[], list[Tensor]],
        meanwhile: Callable[[], Tensor] | None,
    ) -> Tensor:
        """The experts' part of the layer's output, [T, H].

        tokens: [T, H]. index: [T, K], >= E where absent. weights: [T, K]. experts: computes
        [N, H] from rows [N, H], local indices [N, K] and weights [N, K]. parameters: this
        rank's, for a rank without experts. meanwhile: computes what is added, [T, H], while the
        tokens travel.
        """
        ranks, per_rank = self.group.size(), self.per_rank
        owner = (index // per_rank).where(index < self.num_experts, ranks)
        needed = torch.zeros(index.shape[0], ranks + 1, dtype=torch.bool, device=index.device)
        needed = needed.scatter_(1, owner, True)[:, :ranks]
        route = exchange_counts(needed.sum(0), self.group)
        rank_of, token_of = needed.t().nonzero(as_tuple=True)  # by rank, in the tokens' order
        travelling = Travelling(tokens.index_select(0, token_of), route, self.traffic)
        self.traffic.forward_rows += sum(route.sent) - route.sent[self.group.rank()]

        there = owner.index_select(0, token_of) == rank_of[:, None]
        index = index.index_select(0, token_of) - rank_of[:, None] * per_rank
        index = index.where(there, self.num_experts).to(torch.int32)
        weights = weights.index_select(0, token_of).where(there, 0.0)
        arrived_index = exchange(index, route, self.traffic)
        arrived_weights = exchange(weights, route, self.traffic)
        beside = None if meanwhile is None else meanwhile()
        rows = travelling.arrive()

        if self.num_local:
            results = experts(rows, arrived_index, arrived_weights)
        else:  # no rows; but backward's collectives are everybody's, and so is a gradient, if an empty one
            results = rows + arrived_weights.sum(1, keepdim=True).to(rows.dtype)
            results = results + sum(parameter.sum() for parameter in parameters())
            results = results.to(autocast_dtype(rows) or rows.dtype)  # what the others send here
        results = exchange(results, route.back(), self.traffic)
        # Added up in float32, as one process adds up a token's experts.
        precise = torch.promote_types(tokens.dtype, torch.float32)
        output = torch.zeros(tokens.shape, dtype=precise, device=tokens.device)
        output = output.index_add(0, token_of, results.to(precise)).to(tokens.dtype)
        return output if beside is None else output + beside
