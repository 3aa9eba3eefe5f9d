"""What is measured of a model: expert FLOPs, held-out loss, balance, time by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import genesis_moe as gm
from genesis_moe.studies.compare.corpus import Corpus
from genesis_moe.studies.compare.model import DenseMLP, FeedForward, LanguageModel

TRAINING_PER_FORWARD = 3  # backward does the products of forward twice: by input and by weight


def row_flops(hidden_size: int, intermediate_size: int) -> int:
    """Forward FLOPs of one row through one SwiGLU expert: three matrices, 2 FLOPs a weight."""
    return 6 * hidden_size * intermediate_size


def forward_flops(layer: FeedForward, rows: int, tokens: int) -> int:
    """Expert FLOPs of one forward of a feed-forward part.

    rows: token-expert pairs routed, that is sum_t |S_t|; shared experts and a dense part
    take every token.
    """
    if isinstance(layer, DenseMLP):
        return tokens * row_flops(layer.gate_up_proj.shape[1], layer.intermediate_size)
    flops = row_flops(layer.hidden_size, layer.intermediate_size)
    return (rows + layer.shared_experts * tokens) * flops


def router_flops(layer: FeedForward, tokens: int) -> int:
    """Matrix-product FLOPs of a router's forward: the projection and the scores."""
    router = getattr(layer, "router", None)
    if not isinstance(router, gm.Router):
        return 0
    weights = router.centroids.numel()
    if router.projection is not None:
        weights += router.projection.numel()
    return 2 * tokens * weights


def max_violation(counts: np.ndarray) -> float:
    """MaxVio: the load of the fullest expert over the mean load, minus 1."""
    return float(counts.max() / counts.mean() - 1) if counts.sum() else 0.0


def windows(data: np.ndarray, sequence: int, wanted: int) -> np.ndarray:
    """At most `wanted` windows [n, sequence + 1], evenly spaced, none overlapping."""
    fitting = (data.size - 1) // sequence
    places = np.unique(np.linspace(0, fitting - 1, min(wanted, fitting)).astype(int))
    return np.stack([data[p * sequence : (p + 1) * sequence + 1] for p in places])


@torch.no_grad()
def held_out_loss(
    model: LanguageModel, corpus: Corpus, windows_per_domain: int, batch: int
) -> dict[str, Any]:
    """Mean nats per byte by domain, and their mean: domains weigh alike, as in training.

    Also the load of the experts on this text, by layer: rows [layers][experts].
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    losses: dict[str, float] = {}
    rows: list[Any] = [0] * len(model.feed_forwards)
    tokens = 0
    for domain in corpus.domains:
        held_out = windows(corpus.held_out[domain], model.shape.sequence, windows_per_domain)
        total = 0.0
        for start in range(0, len(held_out), batch):
            text = torch.from_numpy(held_out[start : start + batch].astype(np.int64)).to(device)
            logits = model(text[:, :-1])
            # float64: the differences between arms are a thousandth of the sum's rounding.
            token_losses = functional.cross_entropy(
                logits.flatten(0, 1), text[:, 1:].flatten(), reduction="none"
            )
            total += token_losses.double().sum().item()
            tokens += token_losses.numel()
            for i, layer in enumerate(model.feed_forwards):
                if isinstance(layer, gm.MoE) and layer.last_routing is not None:
                    rows[i] = rows[i] + layer.last_routing.counts.cpu().numpy()
        losses[domain] = total / (len(held_out) * model.shape.sequence)
    model.train(was_training)
    loads = [load.tolist() for load in rows if not isinstance(load, int)]
    return {
        "loss": sum(losses.values()) / len(losses),
        "loss_by_domain": losses,
        "experts_per_token": sum(map(sum, loads)) / (len(loads) * tokens) if loads else None,
        "loads": loads,
    }


def captured(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    """The inputs [T, H] of the feed-forward parts in one forward of `tokens`."""
    inputs: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0].detach().flatten(0, -2).clone())

    handles = [layer.register_forward_pre_hook(keep) for layer in model.feed_forwards]
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def expert_part(layer: FeedForward, hidden_states: Tensor) -> Callable[[], None]:
    """One forward and backward of a layer's experts alone, on the routing it has now."""
    inputs = hidden_states.clone().requires_grad_()
    grad = torch.randn(hidden_states.shape, generator=torch.Generator().manual_seed(0)).to(inputs.device)
    parameters = [p for n, p in layer.named_parameters() if not n.startswith("router.")]
    if isinstance(layer, DenseMLP):
        return lambda: _differentiate(layer(inputs), [inputs, *parameters], grad)
    with torch.no_grad():
        layer(hidden_states)
    routing = layer.last_routing
    assert routing is not None
    weights = routing.weights.detach().clone().requires_grad_()
    routing = routing._replace(weights=weights)

    class Fixed(nn.Module):
        def forward(self, _: Tensor) -> Any:
            return routing

    def run() -> None:
        router, layer.router = layer.router, Fixed()  # type: ignore[assignment]
        try:
            _differentiate(layer(inputs), [inputs, weights, *parameters], grad)
        finally:
            layer.router = router

    return run


def router_part(layer: FeedForward, hidden_states: Tensor) -> Callable[[], None] | None:
    """One forward and backward of a layer's router alone; None where there is none."""
    if isinstance(layer, DenseMLP):
        return None
    inputs = hidden_states.clone().requires_grad_()
    parameters = [p for p in layer.router.parameters() if p.requires_grad]

    def run() -> None:
        routing = layer.router(inputs)
        if routing.weights.requires_grad:
            grad = torch.ones_like(routing.weights)
            _differentiate(routing.weights, [inputs, *parameters], grad)

    return run


def _differentiate(output: Tensor, inputs: list[Tensor], grad: Tensor) -> None:
    torch.autograd.grad(output, inputs, grad.to(output.dtype), allow_unused=True)


def in_turn(
    pieces: dict[str, Callable[[], None]],
    rounds: int,
    wait: Callable[[], None] = lambda: None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, list[float]]:
    """Seconds of each piece in each round: A B A B, after one round that is not counted.

    wait: until a device has done what a piece gave it. context: entered anew for every piece, as an autocast around
    them all would keep the weights that one round has cast for the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for round_number in range(rounds + 1):
        for name, piece in pieces.items():
            begin = time.perf_counter()
            with context():
                piece()
            wait()
            if round_number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def together(pieces: list[Callable[[], None]]) -> Callable[[], None]:
    """The pieces one after the other, as one."""

    def run() -> None:
        for piece in pieces:
            piece()

    return run


def parts_seconds(
    model: LanguageModel,
    tokens: Tensor,
    rounds: int = 9,
    wait: Callable[[], None] = lambda: None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Median seconds, forward and backward, of all layers' expert parts and router parts."""
    with context():
        hidden_states = captured(model, tokens)
        layers = list(zip(model.feed_forwards, hidden_states, strict=True))
        pieces = {"experts": together([expert_part(*layer) for layer in layers])}
    if routers := list(_present(router_part(*layer) for layer in layers)):
        pieces["router"] = together(routers)
    return {name: statistics.median(times) for name, times in in_turn(pieces, rounds, wait, context).items()}


def _present(
    pieces: Iterator[Callable[[], None] | None],
) -> Iterator[Callable[[], None]]:
    return (piece for piece in pieces if piece is not None)
