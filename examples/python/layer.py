"""Trains one layer: the router learns with the experts, and prices keep their loads even."""

import torch

import genesis_moe as gm

torch.manual_seed(0)
layer = gm.MoE(hidden_size=64, intermediate_size=128, num_experts=8, top_k=2, budget=1.25)
optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)
mixing = torch.randn(64, 64) / 8

steps = 200
for i in range(steps):
    x = torch.randn(16, 32, 64)  # [batch, sequence, hidden]
    loss = (layer(x) - torch.tanh(x @ mixing)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    gm.step(layer, progress=i / steps)  # prices and budget move, by the loads of this step
    if i % 50 == 0 or i == steps - 1:
        routing = layer.last_routing
        loads = ", ".join(str(n) for n in routing.counts.tolist())
        print(
            f"step {i:3}  loss {loss.item():.3f}  experts per token {routing.counts.sum() / 512:.2f}  loads {loads}"
        )
