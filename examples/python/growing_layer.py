"""Trains a layer whose experts split: four to begin with, room for eight."""

import torch

import genesis_moe as gm

torch.manual_seed(0)
kinds = 6
centers = 2 * torch.randn(kinds, 16)
maps = torch.randn(kinds, 16, 16) / 4  # each kind of token has its own map to be learnt

# A short program decides often; the defaults are for long runs.
mitosis = gm.MitosisOptions(interval=20, window=5, cooldown=20, ramp=5, min_tokens=100)
layer = gm.MoE(hidden_size=16, intermediate_size=24, num_experts=4, max_experts=8, mitosis=mitosis)
optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)

steps = 200
for i in range(steps):
    kind = torch.randint(0, kinds, (256,))
    x = centers[kind] + 0.5 * torch.randn(256, 16)
    target = torch.einsum("th,tho->to", x, maps[kind])
    loss = (layer(x) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    gm.step(layer, optimizer)  # prices move, and now and then an expert splits
    if i % 50 == 0 or i == steps - 1:
        print(f"step {i:3}  loss {loss.item():.3f}")

grown = gm.report(layer)["router"].mitosis
print(f"{grown.experts} experts in {grown.clans} clans")
print(grown.tree)
for event in grown.events:
    print(event)
