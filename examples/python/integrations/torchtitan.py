"""A layer of torchtitan's configuration with the library's router and experts."""

from functools import partial

import torch
from torch import nn
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import GroupedExperts, MoE, RoutedExperts, TokenChoiceTopKRouter
from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher

import genesis_moe as gm
from genesis_moe.integrations.torchtitan import moe

draw = partial(nn.init.normal_, std=0.02)
theirs = MoE.Config(
    num_experts=8,
    router=TokenChoiceTopKRouter.Config(
        num_experts=8, top_k=2, score_func="softmax", route_norm=True,
        gate=Linear.Config(in_features=64, out_features=8, param_init={"weight": draw}),
    ),
    routed_experts=RoutedExperts.Config(
        inner_experts=GroupedExperts.Config(
            dim=64, hidden_dim=128, num_experts=8,
            param_init={"w1_EFD": draw, "w2_EDF": draw, "w3_EFD": draw},
        ),
        token_dispatcher=LocalTokenDispatcher.Config(num_experts=8, top_k=2),
    ),
)  # fmt: skip
layer = moe(theirs, router="hamiltonian", budget=1.25).build()  # what the override does to each layer
layer.init_states()

optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
optimizer.register_step_post_hook(lambda *_: gm.step(layer))  # in a trainer: optimizers, and the model
x = torch.randn(4, 32, 64)
layer(x).square().mean().backward()
optimizer.step()
print("prices", layer.router.gate.price.tolist())
