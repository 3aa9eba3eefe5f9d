"""The router as a torch module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe import functional
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.options import RouterOptions
from genesis_moe.routing import Routing

# The share of training over which a budget comes down from top_k, and the share at
# its end over which prices come to rest.
BUDGET_RAMP = 0.5
PRICE_REST = 0.1


class Router(nn.Module):
    """Chooses up to top_k experts for each token, and their weights.

    Three modes share one kernel: "hamiltonian" binds tokens to centroids by an energy u
    and balances loads by prices; "mixtral" takes the top k of a softmax over linear
    logits, and leaves balance to an auxiliary loss of the host; "deepseek" takes sigmoid
    scores with groups and a correction bias for the choice only. All are causal: a
    token's routing depends on that token and on earlier optimiser steps alone (solver
    "batch" is the exception, for analysis).

    hidden_size: H. num_experts: E. top_k: experts per token; with a budget, the most that
    a token may have. budget: experts per token wanted on average, 1 <= budget <= top_k;
    hamiltonian; None: exactly top_k. router_dim: D, the width of the space where tokens
    and centroids meet; hamiltonian; None: H, without a projection. binding: "cosine" or
    "dot". bias: a learnable bias on the logits (dot, mixtral). temperature: the initial
    T_g; hamiltonian. price_rate: how fast prices move in :meth:`update`; None: 0.02, or
    1e-3 in mode deepseek. step_limit, gap_rate: see ``genesis_moe.functional.update``.
    initial_gap: the excitation gap before the first update, in units of u; the default
    lets nearly every token have a second expert, so that training starts from top_k.
    max_experts: E is this, and all but num_experts begin closed, with a price of +inf, until
    experts split and become independent; hamiltonian, solver "price". :class:`MoE` passes it on.

    Parameters: ``centroids`` [E, D] (mixtral, deepseek: the gate's weight [E, H]),
    ``projection`` [D, H], ``temperature`` [1], ``bias`` [E], or None where the mode has none.
    Buffers: ``price`` [E] and ``gap`` [1], float32 even in a bfloat16 model, as their steps
    are small. ``counts`` [E] and ``tokens`` [], gathered while training until
    :func:`genesis_moe.step`, are no buffers: DDP would overwrite them with those of rank 0.

    Initial values: centroids of unit length in random directions; projection normal with
    standard deviation 1/sqrt(H); the gate's weight as ``nn.Linear``; prices zero.
    """

    centroids: nn.Parameter
    projection: nn.Parameter | None
    temperature: nn.Parameter | None
    bias: nn.Parameter | None
    price: Tensor | None
    gap: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int = 2,
        *,
        mode: str = "hamiltonian",
        budget: float | None = None,
        router_dim: int | None = 64,
        binding: str = "cosine",
        solver: str = "price",
        bias: bool = False,
        temperature: float = 0.3,
        normalize_top_k: bool = True,
        num_groups: int = 1,
        top_k_groups: int = 1,
        scaling_factor: float = 1.0,
        epsilon: float = 1e-2,
        temperature_floor: float = 1e-2,
        entropy_temperature: float = 0.1,
        load_penalty: float = 10.0,
        price_rate: float | None = None,
        step_limit: float = 0.02,
        gap_rate: float = 0.01,
        initial_gap: float = 0.25,
        max_experts: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        hamiltonian = mode == "hamiltonian"
        for name, value in (
            ("hidden_size", hidden_size),
            ("num_experts", num_experts),
            ("router_dim", router_dim),
        ):
            if value is not None and value < 1:
                raise InvalidArgumentError(f"{name}: {value}, want at least 1")
        if not 1 <= top_k <= num_experts:
            raise InvalidArgumentError(f"top_k: {top_k}, want between 1 and num_experts = {num_experts}")
        if budget is not None and not hamiltonian:
            raise InvalidArgumentError(
                f"budget: {budget}, but mode {mode!r} has none; want mode 'hamiltonian'"
            )
        if budget is not None and not 1 <= budget <= top_k:
            raise InvalidArgumentError(f"budget: {budget}, want between 1 and top_k = {top_k}")
        if max_experts is not None:
            if not hamiltonian or solver != "price":
                raise InvalidArgumentError(
                    f"max_experts: {max_experts}, but only mode 'hamiltonian' with solver 'price' can grow; "
                    f"this is mode {mode!r} with solver {solver!r}"
                )
            if max_experts < num_experts:
                raise InvalidArgumentError(
                    f"max_experts: {max_experts}, want at least num_experts = {num_experts}"
                )
        self.open_experts = num_experts  # at first
        num_experts = num_experts if max_experts is None else max_experts
        self.options = RouterOptions(
            mode=mode,
            binding=binding,
            solver=solver,
            top_k=top_k,
            budgeted=budget is not None,
            normalize_top_k=normalize_top_k,
            num_groups=num_groups,
            top_k_groups=top_k_groups,
            scaling_factor=scaling_factor,
            epsilon=epsilon,
            temperature_floor=temperature_floor,
            entropy_temperature=entropy_temperature,
            load_penalty=load_penalty,
        )
        self.options.scalars()  # refuses unknown names now and not at the first forward
        self.hidden_size, self.num_experts, self.budget = hidden_size, num_experts, budget
        self.price_rate = (0.02 if hamiltonian else 1e-3) if price_rate is None else price_rate
        self.step_limit, self.gap_rate = step_limit, gap_rate
        self.initial_temperature, self.initial_gap = temperature, initial_gap

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

        projected = hamiltonian and router_dim is not None
        width = router_dim if projected and router_dim is not None else hidden_size
        self.centroids = parameter(num_experts, width)
        self.projection = parameter(width, hidden_size) if projected else None
        self.temperature = parameter(1) if hamiltonian else None
        self.bias = parameter(num_experts) if bias else None
        precise = torch.float64 if self.centroids.dtype == torch.float64 else torch.float32
        price = None if mode == "mixtral" else torch.empty(num_experts, dtype=precise, device=device)
        gap = None if budget is None else torch.empty(1, dtype=precise, device=device)
        self.register_buffer("price", price)
        self.register_buffer("gap", gap)
        self.last_routing: Routing | None = None
        self._routed_price: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new parameters and forgets prices, gap and counts."""
        with torch.no_grad():
            if self.options.mode == "hamiltonian":
                nn.init.normal_(self.centroids)
                self.centroids.div_(self.centroids.norm(dim=1, keepdim=True).clamp_min(1e-12))
            else:
                nn.init.kaiming_uniform_(self.centroids, a=math.sqrt(5))
            if self.projection is not None:
                nn.init.normal_(self.projection, std=self.hidden_size**-0.5)
            if self.temperature is not None:
                self.temperature.fill_(self.initial_temperature)
            if self.bias is not None:
                self.bias.zero_()
            if self.price is not None:
                self.price.zero_()
                self.price[self.open_experts :] = math.inf
            if self.gap is not None:
                self.gap.fill_(self.initial_gap)
            self._start_counting(self.centroids.device)

    @property
    def top_k(self) -> int:
        """The slots per token: experts per token, or with a budget the most of them."""
        return self.options.top_k

    @property
    def last_price(self) -> Tensor | None:
        """The price [E] that the last forward used, also after an update since."""
        return self.price if self._routed_price is None else self._routed_price

    def forward(self, hidden_states: Tensor) -> Routing:
        """Routes hidden_states [T, H]; the result is also kept as ``last_routing``."""
        routing = functional.route(
            hidden_states,
            self.centroids,
            options=self.options,
            projection=self.projection,
            bias=self.bias,
            price=self.price,
            temperature=self.temperature,
            gap=self.gap,
        )
        if self.training and not _is_recomputed():
            if self._counts.device != routing.counts.device:  # loaded from meta, or dispatched
                self._start_counting(routing.counts.device)
            self._counts += routing.counts
            self._tokens += hidden_states.shape[0]
        self.last_routing = routing
        self._routed_price = None
        return routing

    def budget_at(self, progress: float | None) -> float:
        """The budget at a point of training: from top_k down to ``budget`` over the first half."""
        if self.budget is None:
            return float(self.top_k)
        if progress is None:
            return self.budget
        return self.top_k + (self.budget - self.top_k) * min(1.0, progress / BUDGET_RAMP)

    def price_rate_at(self, progress: float | None) -> float:
        """The price rate at a point of training: constant, then to 0 over the last tenth."""
        if progress is None:
            return self.price_rate
        return self.price_rate * min(1.0, (1.0 - progress) / PRICE_REST)

    @torch.no_grad()
    def update(self, counts: Tensor, num_tokens: int, progress: float | None = None) -> None:
        """Moves price and gap by the counts [E] of num_tokens tokens. :func:`genesis_moe.step` calls it."""
        if self.price is None or num_tokens == 0:
            return
        self._routed_price = self.price.clone()
        functional.update(
            self.options,
            counts,
            num_tokens,
            self.price,
            self.gap,
            rate=self.price_rate_at(progress),
            step_limit=self.step_limit,
            budget=self.budget_at(progress) if self.budget is not None else 0.0,
            gap_rate=self.gap_rate,
        )

    def auxiliary_loss(self) -> Tensor:
        """The load-balancing loss of Switch and Mixtral on the last forward, before its coefficient.

        E sum_e f_e P_e, f_e the share of tokens that chose expert e and P_e its mean
        probability under softmax(logits): top_k when balanced. Mode mixtral needs it,
        times 0.01 or so, added to the host's loss; the other modes do not.
        """
        if self.last_routing is None:
            raise RuntimeError("auxiliary_loss: no forward has run yet")
        logits = self.last_routing.logits
        shares = self.last_routing.counts.to(logits.dtype) / max(logits.shape[0], 1)
        probabilities = logits.softmax(dim=-1).mean(dim=0)
        loss: Tensor = self.num_experts * (shares * probabilities).sum()
        return loss

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Moves with the module, but price and gap never become less precise than float32."""
        before = {name: getattr(self, name) for name in ("price", "gap")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if new is not None and new.dtype not in (torch.float32, torch.float64):
                setattr(
                    self,
                    name,
                    old.to(new.device) if not old.is_meta else torch.empty_like(new, dtype=old.dtype),
                )
        device = self.centroids.device  # the counts may still be on meta, which fn cannot move
        if device != self._tokens.device:
            counts, tokens = self._counts, self._tokens
            self._start_counting(device)
            if not counts.is_meta:
                self._counts.copy_(counts)
                self._tokens.copy_(tokens)
        self.last_routing = self._routed_price = None
        return self

    @property
    def counts(self) -> Tensor:
        """[E] int64: the tokens that chose each expert, on this rank, since the last step."""
        self._leave_meta()
        return self._counts

    @property
    def tokens(self) -> Tensor:
        """[] int64: the tokens that were counted."""
        self._leave_meta()
        return self._tokens

    def _leave_meta(self) -> None:
        """Loaders that build on meta give real memory to parameters and buffers; to these we do."""
        if self._counts.is_meta and not self.centroids.is_meta:
            self._start_counting(self.centroids.device)

    def _start_counting(self, device: torch.device) -> None:
        self._counts = torch.zeros(self.num_experts, dtype=torch.int64, device=device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=device)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the last routing belongs to a graph, which does neither."""
        return {**self.__dict__, "last_routing": None, "_routed_price": None}

    def extra_repr(self) -> str:
        o = self.options
        shown: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "num_experts": self.num_experts,
            "top_k": o.top_k,
            "mode": o.mode,
        }
        if o.mode == "hamiltonian":
            shown["binding"] = o.binding
            shown["router_dim"] = None if self.projection is None else self.centroids.shape[1]
        if o.solver != "price":
            shown["solver"] = o.solver
        if self.budget is not None:
            shown["budget"] = self.budget
        if o.mode == "deepseek":
            shown["num_groups"], shown["top_k_groups"] = o.num_groups, o.top_k_groups
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _is_recomputed() -> bool:
    """Whether this forward repeats one for activation checkpointing: it then runs inside a backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
