"""The step ``graphs``: a layer's forward, backward and update in a CUDA graph, replayed."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DEVICE, poison
from genesis_moe.studies.gpu.timing import milliseconds
from genesis_moe.studies.record import finite, write_json

LAYERS: dict[str, dict[str, Any]] = {
    "hamiltonian budgeted": {"budget": 1.25},
    "mixtral": {"router": "mixtral"},
    "deepseek": {"router": "deepseek", "shared_experts": 1},
}


def check(name: str, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    """Whether replays on new inputs give the bits that eager calls give."""
    torch.manual_seed(0)
    layer = gm.MoE(512, 256, 16, top_k=2, dtype=dtype, device=DEVICE, **LAYERS[name])
    parameters = list(layer.parameters())
    x = torch.randn(tokens, 512, device=DEVICE, dtype=dtype, requires_grad=True)
    direction = torch.randn(tokens, 512, device=DEVICE, dtype=dtype)

    def step() -> tuple[Tensor, ...]:
        output = layer(x)
        gradients = torch.autograd.grad(output, [x, *parameters], direction, allow_unused=True)
        return (output, *(g for g in gradients if g is not None))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    layer.router.counts.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static = step()
        _update(layer, tokens)
    equal, prices = True, []
    for seed in range(3):
        before = {n: b.clone() for n, b in layer.router.named_buffers()}
        with torch.no_grad():
            x.copy_(torch.randn(x.shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE))
        poison(64)
        graph.replay()
        replayed = [t.clone() for t in static]
        after = {n: b.clone() for n, b in layer.router.named_buffers()}
        for n, b in layer.router.named_buffers():
            b.copy_(before[n])
        eager = step()
        _update(layer, tokens)
        equal = equal and all(torch.equal(a, b) for a, b in zip(replayed, eager, strict=True))
        equal = equal and all(torch.equal(after[n], b) for n, b in layer.router.named_buffers())
        prices.append(None if layer.router.price is None else float(layer.router.price.abs().max()))
    return {"equal_bits": equal, "largest_price_after_each": prices, "passed": equal}


def _update(layer: gm.MoE, tokens: int) -> None:
    """What gm.step does for one router, without reading the number of tokens back."""
    router = layer.router
    if router.price is not None:
        budget = router.budget or 0.0
        functional.update(
            router.options,
            router.counts,
            tokens,
            router.price,
            router.gap,
            rate=router.price_rate,
            budget=budget,
        )
    router.counts.zero_()


def decode(tokens: int) -> dict[str, float]:
    """Milliseconds of a forward pass in inference, eager and replayed: what launching costs."""
    layer = gm.MoE(2048, 768, 128, top_k=8, dtype=torch.bfloat16, device=DEVICE).eval()
    x = torch.randn(tokens, 2048, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():

        def call() -> Tensor:
            output: Tensor = layer(x)
            return output

        for _ in range(3):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        timed: dict[str, Callable[[], Any]] = {"eager": call, "replayed": graph.replay}
        return {name: statistics.median(milliseconds(f, 30)) for name, f in timed.items()}


def main(path: Path) -> int:
    results: dict[str, Any] = {}
    for name in LAYERS:
        for tokens, dtype in ((64, torch.float32), (64, torch.bfloat16), (1024, torch.bfloat16)):
            label = f"{name} T{tokens} {str(dtype).removeprefix('torch.')}"
            try:
                results[label] = check(name, tokens, dtype)
            except Exception as error:
                results[label] = {"passed": False, "error": f"{type(error).__name__}: {error}"}
            print(label, "passed" if results[label]["passed"] else results[label])
            write_json(path, finite({"cases": results}))
    times = {str(tokens): decode(tokens) for tokens in (1, 16, 64)}
    print("forward, ms:", times)
    write_json(path, finite({"cases": results, "forward_milliseconds": times}))
    return 0 if all(result["passed"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
