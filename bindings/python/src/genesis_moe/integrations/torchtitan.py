"""Experts and routers of torchtitan (0.3) by overrides of its configuration.

``--override.imports`` takes the path of one of the two functions below::

    genesis_moe.integrations.torchtitan.experts
    genesis_moe.integrations.torchtitan.moe={"router": "hamiltonian", "budget": 1.25}

The shapes are torchtitan's: B sequences of L tokens of width D, F the width of an expert, E experts,
K = top_k, R rows that have travelled to this rank's experts, sorted by expert.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchtitan.config import derive, override
from torchtitan.models.common import moe as titan
from torchtitan.models.common.token_dispatcher import AllToAllTokenDispatcher, LocalTokenDispatcher
from torchtitan.overrides.fused_swiglu import FusedGroupedExperts, fused_grouped_experts
from torchtitan.protocols.module import Module

from genesis_moe import functional
from genesis_moe._hosted import HostedRouter, host_weights, router_settings
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.router import Router

__all__ = ["Gate", "GroupedExperts", "MoE", "TopKRouter", "experts", "moe"]

# ------------------------------------------------------------------------------- the experts


class GroupedExperts(FusedGroupedExperts):
    """The experts of one rank: ``forward(x [R, D], counts [E]) -> [R, D]``.

    The parameters are those of torchtitan's own fused experts, with their initialisation, sharding and
    checkpoints: ``w13`` [E, F, 2, D], gate and up of a row side by side, which the library reads where
    it lies, as an interleaved [E, 2F, D]; and ``w2_EDF`` [E, D, F]. ``state_dict`` has
    ``w1_EFD``, ``w3_EFD`` and ``w2_EDF``, and loads them: checkpoints pass both ways between these
    experts and torchtitan's.

    The dtype is that of the weights (under FSDP its ``param_dtype``) or of torch.autocast, where
    torchtitan's experts always compute in bfloat16. Rows beyond the sum of counts give zeros.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(FusedGroupedExperts.Config):
        pass

    def forward(self, x_RD: Tensor, num_tokens_per_expert_E: Tensor) -> Tensor:
        gate_up, down = (_local(weight).flatten(1, -2) for weight in (self.w13, self.w2_EDF))
        ends = num_tokens_per_expert_E.to(torch.int64).cumsum(0)
        rows = torch.arange(x_RD.shape[0], device=x_RD.device)
        index = torch.searchsorted(ends, rows, right=True)[:, None]
        weights = torch.ones(index.shape, dtype=torch.float32, device=x_RD.device)
        output: Tensor = functional.experts(
            x_RD.to(down.dtype), index, weights, gate_up, down, interleaved=True
        )
        return output.to(x_RD.dtype)


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


@override(
    target=titan.GroupedExperts.Config,
    description="Experts of genesis-moe; gate and up in one parameter.",
)
def experts(config: titan.GroupedExperts.Config) -> GroupedExperts.Config:
    """The experts' configuration with :class:`GroupedExperts` as what it builds.

    UnsupportedError: the model has experts of a class of its own (gpt-oss, quantised experts).
    """
    if type(config) is not titan.GroupedExperts.Config:
        raise UnsupportedError(
            f"inner_experts: {type(config).__qualname__}, want torchtitan's own GroupedExperts.Config, "
            f"whose experts are silu(w1 x) * (w3 x)"
        )
    return derive(fused_grouped_experts(config), GroupedExperts.Config)


# -------------------------------------------------------------------------------- the router


class Gate(Module, HostedRouter, Router):  # type: ignore[misc]
    """A :class:`genesis_moe.Router` whose centroids are ``gate.weight`` [E, D] in checkpoints, as before."""

    def __init__(self, hidden_size: int, num_experts: int, settings: dict[str, Any]) -> None:
        Router.__init__(self, hidden_size, num_experts, **settings)

    def _init_self_parameters(self) -> None:
        self.reset_parameters()
        initializers: Any = self._param_init
        initialize = None if initializers is None else initializers.get("weight")
        # The host's own start, where the centroids have its shape.
        if initialize is not None and self.projection is None:
            initialize(self.weight)


class TopKRouter(Module):
    """``forward(x [B, L, D]) -> (scores [B, L, K], expert ids [B, L, K], logits [B, L, E])``.

    With a budget, absent slots hold the id E and the score 0.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(titan.TokenChoiceTopKRouter.Config):
        settings: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.settings["top_k"]
        self.gate = Gate(config.gate.in_features, config.num_experts, config.settings)
        self.gate._param_init = config.gate.param_init

    def forward(self, x_BLD: Tensor, expert_bias_E: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(x_BLD, DTensor):
            raise UnsupportedError(
                "tensor_parallel_degree: the tokens are a DTensor, want 1 (or torchtitan's own router)"
            )
        if expert_bias_E is not None:
            raise InvalidArgumentError(
                "load_balance_coeff: is set, want None; genesis_moe.step keeps the balance"
            )
        batch, length, width = x_BLD.shape
        routing = self.gate(x_BLD.reshape(-1, width))
        weights = host_weights(self.gate, routing)
        shape = batch, length, -1
        return weights.reshape(shape), routing.index.reshape(shape), routing.logits.reshape(shape)


class MoE(titan.MoE):
    """torchtitan's layer, counting by what the router says: a token may have fewer than K experts."""

    @dataclass(kw_only=True, slots=True)
    class Config(titan.MoE.Config):
        pass

    def forward(self, x_BLD: Tensor) -> Tensor:
        scores_BLK, ids_BLK, _ = self.router(x_BLD)
        counts_E = self.router.gate.last_routing.counts
        if self.training:
            with torch.no_grad():
                self.tokens_per_expert_E.add_(counts_E)
        output: Tensor = self.routed_experts(x_BLD, scores_BLK, ids_BLK, counts_E)
        return output if self.shared_experts is None else output + self.shared_experts(x_BLD)


class _SkipAbsent:
    """Dispatches the slots that have an expert, and no others."""

    num_experts: int

    def _local_reorder(
        self, x_TD: Tensor, topk_scores_TK: Tensor, topk_expert_ids_TK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ids = topk_expert_ids_TK.flatten()
        order = ids.argsort(stable=True)[: int((ids < self.num_experts).sum())]
        token = order // topk_expert_ids_TK.shape[1]
        return x_TD[token], token, topk_scores_TK.flatten()[order]


class _LocalDispatcher(_SkipAbsent, LocalTokenDispatcher):
    @dataclass(kw_only=True, slots=True)
    class Config(LocalTokenDispatcher.Config):
        pass


class _AllToAllDispatcher(_SkipAbsent, AllToAllTokenDispatcher):
    @dataclass(kw_only=True, slots=True)
    class Config(AllToAllTokenDispatcher.Config):
        pass


_DISPATCHERS = {
    LocalTokenDispatcher.Config: _LocalDispatcher.Config,
    AllToAllTokenDispatcher.Config: _AllToAllDispatcher.Config,
}


@override(target=titan.MoE.Config, description="Router and experts of genesis-moe.")
def moe(config: titan.MoE.Config, router: str = "hamiltonian", **options: Any) -> MoE.Config:
    """The layer's configuration with the library's router and experts.

    router: "hamiltonian", "mixtral" (torchtitan's score_func "softmax") or "deepseek" ("sigmoid"). options:
    keyword arguments of :class:`genesis_moe.Router`. As with :func:`genesis_moe.inject`, hamiltonian starts
    from binding "dot" without router_dim, which computes what a softmax router computed with the same
    ``gate.weight``; ``{"binding": "cosine", "router_dim": 64}`` starts anew.

    load_balance_coeff becomes None: :func:`genesis_moe.step` moves prices instead, after each
    ``optimizers.step()``, e.g. by ``optimizers.register_step_post_hook``.
    """
    own = _own_settings(config.router, router)
    settings = router_settings(own, config.router.gate.bias, router, options)
    Router(config.router.gate.in_features, config.num_experts, **settings, device="meta")  # refuses now
    routed = config.routed_experts
    dispatcher: Any = routed.token_dispatcher
    if settings.get("budget") is not None:
        if type(dispatcher) not in _DISPATCHERS:
            raise UnsupportedError(
                f"token_dispatcher: {type(dispatcher).__qualname__} sends top_k rows a token, and a budget leaves "
                f"slots empty; want LocalTokenDispatcher or AllToAllTokenDispatcher, or no budget"
            )
        dispatcher = derive(dispatcher, _DISPATCHERS[type(dispatcher)])
    if dispatcher.top_k != settings["top_k"]:
        raise InvalidArgumentError(
            f"top_k: {settings['top_k']}, want {dispatcher.top_k} as the token_dispatcher has"
        )
    return derive(
        config,
        MoE.Config,
        router=derive(config.router, TopKRouter.Config, settings=settings),
        routed_experts=derive(
            routed,
            titan.RoutedExperts.Config,
            inner_experts=experts(routed.inner_experts),
            token_dispatcher=dispatcher,
        ),
        load_balance_coeff=None,
    )


def _own_settings(config: Any, mode: str) -> dict[str, Any]:
    """The settings of ``genesis_moe.Router`` with which it computes what this configuration says."""
    if type(config) is not titan.TokenChoiceTopKRouter.Config:
        raise UnsupportedError(
            f"router: {type(config).__qualname__}, want torchtitan's own TokenChoiceTopKRouter.Config"
        )
    if config._debug_force_load_balance:
        raise UnsupportedError(
            "_debug_force_load_balance: True, want False; the router of genesis-moe routes"
        )
    sigmoid = config.score_func == "sigmoid"
    groups = config.num_expert_groups
    if groups is not None and not (sigmoid and mode == "deepseek"):
        raise UnsupportedError(
            f"num_expert_groups: {groups} with score_func {config.score_func!r} and router {mode!r}, want None; "
            f"only router 'deepseek' with score_func 'sigmoid' has groups"
        )
    settings: dict[str, Any] = {
        "mode": "deepseek" if sigmoid else "mixtral",
        "top_k": config.top_k,
        "normalize_top_k": config.route_norm,
        "scaling_factor": float(config.route_scale),
    }
    if groups is not None:
        settings |= {"num_groups": groups, "top_k_groups": config.num_limited_groups}
    return settings
