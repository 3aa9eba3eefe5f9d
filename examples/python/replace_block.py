"""Replaces a hand-written Mixtral block, keeping its weights and its function."""

import torch
from torch import nn

import genesis_moe as gm

H, intermediate, E, K = 32, 48, 4, 2


class Block(nn.Module):
    """What many code bases have: a gate, a list of experts, a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(H, E, bias=False)
        self.w1, self.w3 = (
            nn.ModuleList(nn.Linear(H, intermediate, bias=False) for _ in range(E)) for _ in "13"
        )
        self.w2 = nn.ModuleList(nn.Linear(intermediate, H, bias=False) for _ in range(E))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, index = self.gate(x).softmax(-1).topk(K)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(E):
            token, slot = (index == e).nonzero(as_tuple=True)
            h = nn.functional.silu(self.w1[e](x[token])) * self.w3[e](x[token])
            y.index_add_(0, token, weights[token, slot, None] * self.w2[e](h))
        return y


torch.manual_seed(0)
block = Block()
layer = gm.MoE(H, intermediate, E, top_k=K, router="mixtral")
with torch.no_grad():
    layer.router.centroids.copy_(block.gate.weight)
    for e in range(E):
        layer.gate_up_proj[e].copy_(torch.cat([block.w1[e].weight, block.w3[e].weight]))  # gate rows first
        layer.down_proj[e].copy_(block.w2[e].weight)

x = torch.randn(20, H)
print("they differ by", f"{(layer(x) - block(x)).abs().max().item():.0e}")
