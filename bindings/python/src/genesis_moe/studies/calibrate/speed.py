"""What the sparse model says and how fast it says it, beside the dense one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genesis_moe.calibration.perceptrons import decoder_layers

PROMPTS = ("The capital of France is", "def fibonacci(n):", "To make a cup of tea, first")
PREFILL, DECODED = 256, 8  # tokens


def generate(model: Any, tokenizer: Any) -> list[str]:
    """Greedy continuations of the prompts, prompt included."""
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        found.append(tokenizer.decode(model.generate(**ids, max_new_tokens=16, do_sample=False)[0]))
    return found


@torch.no_grad()
def measure(dense: Any, sparse: Any, ids: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second of prefill and decoding, and of the MLPs alone, dense and sparse in turn.

    ids: real text, [L] with L >= PREFILL + DECODED: what is routed decides what is computed. Tokens per
    second are of the best round, ratios (sparse over dense) the median within a round: the
    machine may be shared.
    """
    prompt, following = ids[None, :PREFILL], ids[PREFILL : PREFILL + DECODED]
    models = {"dense": dense, "sparse": sparse}
    caches = {name: model(prompt, use_cache=True).past_key_values for name, model in models.items()}
    inputs = {name: _mlp_inputs(model, prompt) for name, model in models.items()}

    def decode(name: str) -> None:
        for token in following:
            models[name](token[None, None], past_key_values=caches[name], use_cache=True)
        caches[name].crop(PREFILL)

    def alone(name: str, rows: int) -> None:
        # Layer after layer for each token, as a model goes: weights that a layer used a moment ago are in a cache.
        for first in range(0, DECODED * rows, rows) if rows == 1 else (0,):
            for mlp, x in inputs[name]:
                mlp(x[:, first : first + rows])

    work: dict[str, tuple[Callable[[str], Any], Callable[[str], Any], int]] = {
        "prefill": (
            lambda name: models[name](prompt, use_cache=True),
            lambda name: alone(name, PREFILL),
            PREFILL,
        ),
        "decode": (decode, lambda name: alone(name, 1), DECODED),
    }
    shares = {"prefill": share(inputs["sparse"], PREFILL), "decode": share(inputs["sparse"], DECODED)}
    found: dict[str, dict[str, float]] = {}
    for what, (whole, mlps, tokens) in work.items():
        seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
        parts: dict[str, list[float]] = {"dense": [], "sparse": []}
        for number in range(rounds + 1):  # the first one warms up
            for name in models if number % 2 else reversed(models):
                for run, into in ((whole, seconds), (mlps, parts)):
                    start = time.perf_counter()
                    run(name)
                    into[name].append(time.perf_counter() - start)
        found[what] = {
            "dense": tokens / min(seconds["dense"][1:]),
            "sparse": tokens / min(seconds["sparse"][1:]),
            "ratio": _ratio(seconds),
            "mlp_dense": tokens / min(parts["dense"][1:]),
            "mlp_sparse": tokens / min(parts["sparse"][1:]),
            "mlp_ratio": _ratio(parts),
            "active": shares[what],
        }
    return found


def _ratio(seconds: dict[str, list[float]]) -> float:
    return statistics.median(
        a / b for a, b in list(zip(seconds["dense"], seconds["sparse"], strict=True))[1:]
    )


def share(inputs: list[tuple[Any, Tensor]], rows: int) -> float:
    """The share of the dense MLPs' multiplications that run for the first rows of the sparse ones' inputs."""
    cost = dense = 0.0
    for mlp, x in inputs:
        shape, tokens = mlp.shape, x.reshape(-1, x.shape[-1])[:rows]
        experts = 0.0
        if mlp.router is not None:
            experts = float((mlp.router(tokens).index < shape.num_experts).sum()) / rows
        cost, dense = cost + shape.cost(experts), dense + shape.dense_cost
    return cost / dense


def _mlp_inputs(model: Any, ids: Tensor) -> list[tuple[Any, Tensor]]:
    found: list[tuple[Any, Tensor]] = []

    def keep(module: Any, arguments: tuple[Any, ...]) -> None:
        found.append((module, arguments[0].clone()))

    layers: Any = decoder_layers(model)
    hooks = [layer.mlp.register_forward_pre_hook(keep) for layer in layers]
    try:
        model(ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
