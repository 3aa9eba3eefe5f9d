"""A small byte-level language model: causal Transformer blocks with a mixture of experts.

Only the feed-forward part differs between arms. Everything else, its initial values
included, is equal for equal seeds: each parameter is drawn from its own generator, keyed
by the seed and its name, so an arm with one more parameter shifts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

import genesis_moe as gm
from genesis_moe.studies.compare.routers import HashRouter

VOCABULARY = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. With these the experts at top-2 do 58 % of all forward FLOPs."""

    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    sequence: int = 128
    experts: int = 8
    intermediate_size: int = 192


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=False)
        self.out = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        width = shape.hidden_size // shape.heads
        rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.arange(shape.sequence, dtype=torch.float64)[:, None] * rates
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        batch, sequence, hidden = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, sequence, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            self._rotate(query), self._rotate(key), value, is_causal=True
        )
        output: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, sequence, hidden))
        return output

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cosine, sine = self.cosine[: x.shape[-2]], self.sine[: x.shape[-2]]
        turned = torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
        return turned.to(x.dtype)  # under autocast x is narrower than the angles


class DenseMLP(nn.Module):
    """The feed-forward part of the dense arm: SwiGLU, every token through all of it."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.intermediate_size = intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(hidden_size, intermediate_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = functional.linear(hidden_states, self.gate_up_proj).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, self.down_proj)


FeedForward = DenseMLP | gm.MoE


class Block(nn.Module):
    def __init__(self, shape: Shape, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.hidden_size)
        self.attention = Attention(shape)
        self.feed_forward_norm = nn.RMSNorm(shape.hidden_size)
        self.feed_forward = feed_forward

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states))
        output: Tensor = hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))
        return output


class LanguageModel(nn.Module):
    """Next-byte logits. tokens: [B, S] int64 -> [B, S, 256]."""

    def __init__(self, shape: Shape, feed_forward: Callable[[], nn.Module], seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(VOCABULARY, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape, feed_forward()) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden_size)
        self.head = nn.Linear(shape.hidden_size, VOCABULARY, bias=False)
        initialise(self, shape.layers, seed)

    def forward(self, tokens: Tensor) -> Tensor:
        for feed_forward in self.feed_forwards:
            if isinstance(router := getattr(feed_forward, "router", None), HashRouter):
                router.tokens = tokens.flatten()
        hidden_states = self.embedding(tokens)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        logits: Tensor = self.head(self.norm(hidden_states))
        return logits

    @property
    def feed_forwards(self) -> list[FeedForward]:
        return [cast(FeedForward, block.feed_forward) for block in self.blocks]


def initialise(model: nn.Module, layers: int, seed: int) -> None:
    """Draws every matrix from N(0, 1/fan_in), those that write to the residual stream
    smaller by sqrt(2 layers); vectors (norms, temperatures) keep their values."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        scale = parameter.shape[-1] ** -0.5
        if name.endswith(("attention.out.weight", "down_proj")):
            scale *= (2 * layers) ** -0.5
        if name.endswith("embedding.weight"):
            scale = 1.0
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
