"""Configurations of torchtitan's layer, small."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

WIDTH, HIDDEN, EXPERTS, TOP_K = 16, 24, 6, 2


def layer_config(dispatcher: str = "LocalTokenDispatcher", **router: Any) -> Any:
    """A MoE.Config with the parameters drawn by torchtitan's own means."""
    from torchtitan.models.common import moe as titan
    from torchtitan.models.common import token_dispatcher
    from torchtitan.models.common.linear import Linear

    draw = partial(nn.init.normal_, std=0.3)
    router = {"score_func": "softmax", "route_norm": True, **router}
    return titan.MoE.Config(
        num_experts=EXPERTS,
        load_balance_coeff=None,
        router=titan.TokenChoiceTopKRouter.Config(
            num_experts=EXPERTS,
            top_k=TOP_K,
            gate=Linear.Config(in_features=WIDTH, out_features=EXPERTS, param_init={"weight": draw}),
            **router,
        ),
        routed_experts=titan.RoutedExperts.Config(
            inner_experts=titan.GroupedExperts.Config(
                dim=WIDTH,
                hidden_dim=HIDDEN,
                num_experts=EXPERTS,
                param_init={"w1_EFD": draw, "w2_EDF": draw, "w3_EFD": draw},
            ),
            token_dispatcher=getattr(token_dispatcher, dispatcher).Config(num_experts=EXPERTS, top_k=TOP_K),
        ),
    )


def model_config(layer: Any) -> Any:
    """A tree with the layer below its root, as overrides need it."""
    from dataclasses import dataclass

    from torchtitan.protocols.module import Module

    class Model(Module):
        @dataclass(kw_only=True, slots=True)
        class Config(Module.Config):
            moe: Any

        def __init__(self, config: Config) -> None:
            super().__init__()
            self.moe = config.moe.build()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.moe(x)

    return Model.Config(moe=layer)


def overridden(layer: Any, function: str, **arguments: Any) -> Any:
    """The model with an override of ours, by torchtitan's own way; parameters drawn from seed 0."""
    from torchtitan.config import OverrideConfig, apply_overrides

    config = model_config(layer)
    target = f"genesis_moe.integrations.torchtitan.{function}"
    apply_overrides(OverrideConfig(imports=[(target, arguments)]), config)
    return built(config)


def built(config: Any) -> Any:
    model = config.build()
    torch.manual_seed(0)
    model.init_states()
    return model
