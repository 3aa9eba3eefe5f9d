"""A small training that gives the same numbers however it is spread over ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import genesis_moe as gm

HIDDEN = 12
TOKENS = 24  # of a micro-batch, over all ranks
STEPS = 4
ACCUMULATE = 2


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(HIDDEN), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(self.norm(x))


def model_of() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        Block(gm.MoE(HIDDEN, 8, 5, top_k=3, budget=1.5)),
        Block(gm.MoE(HIDDEN, 8, 4, router="deepseek", shared_experts=1, price_rate=0.01)),
        nn.Linear(HIDDEN, HIDDEN),
    )


def batch_of(step: int, micro: int) -> torch.Tensor:
    """The whole micro-batch, skewed so that prices have something to do."""
    generator = torch.Generator().manual_seed(100 * step + micro)
    kinds = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(7))
    kind = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), TOKENS, replacement=True, generator=generator)
    return kinds[kind] + 0.7 * torch.randn(TOKENS, HIDDEN, generator=generator)


def mine_of(batch: torch.Tensor) -> torch.Tensor:
    """This rank's tokens."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def routers_of(model: nn.Module) -> list[gm.Router]:
    return [module for module in model.modules() if isinstance(module, gm.Router)]


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the whole of what may be sharded."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def train(
    model: nn.Module,
    *,
    no_sync: bool = False,
    process_group: Any = None,
    autocast: bool = False,
) -> dict[str, Any]:
    """SGD on whole batches cut between the ranks; what came out. autocast: to bfloat16."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    seen = []
    for step in range(STEPS):
        for micro in range(ACCUMULATE):
            if no_sync:
                last = micro == ACCUMULATE - 1
                if hasattr(model, "set_requires_gradient_sync"):
                    model.set_requires_gradient_sync(last)
                model.require_backward_grad_sync = last
            x = mine_of(batch_of(step, micro))
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = model(x)
            loss = (y.float() - x.flip(-1)).square().mean() / ACCUMULATE
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts = torch.stack([torch.cat([r.counts, r.tokens[None]]).sum() for r in routers_of(model)])
        tokens = torch.stack([r.tokens for r in routers_of(model)])
        gm.step(model, (step + 1) / STEPS, process_group=process_group)
        seen.append((counts, tokens))
    names = ("_checkpoint_wrapped_module.", "_orig_mod.", "module.")

    def own(name: str) -> str:
        for wrapper in names:
            name = name.replace(wrapper, "")
        return name

    return {
        "loss": loss.item(),
        "counts": [counts for counts, _ in seen],
        "tokens": [tokens for _, tokens in seen],
        "prices": torch.cat([t for r in routers_of(model) for t in (r.price, r.gap) if t is not None]),
        "parameters": {own(name): full(parameter) for name, parameter in model.named_parameters()},
    }
