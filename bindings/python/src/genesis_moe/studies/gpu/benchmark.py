"""The step ``benchmark``: the layer beside transformers' grouped_mm and dense products, in bfloat16.

The same weights, tokens and routing for all; outputs are compared first. Rates count the forward's
6 T k I H operations, three times as many with the backward pass. The ceilings are measured too: a
large dense product and a large copy.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe.studies.gpu.cases import DEVICE
from genesis_moe.studies.gpu.facts import smi
from genesis_moe.studies.gpu.timing import milliseconds, seconds_of_step
from genesis_moe.studies.layer import Case, Shape, compare_outputs, runner
from genesis_moe.studies.record import write_json

SECONDS = seconds_of_step(95)  # after which no further size is begun; those left are listed as not run
SHAPES = (
    Shape(4096, 1024, 128, 8),
    Shape(1024, 512, 64, 8),
    Shape(2048, 768, 128, 8),
    Shape(1024, 2048, 8, 2),
    Shape(4096, 14336, 8, 2),
    Shape(576, 1536, 8, 2),
)
TOKENS = (32768, 2048, 1, 64, 8192, 512, 16)  # the ones that say most first
NAMES = ["genesis_moe", "grouped_mm"]


def make_case(shape: Shape, tokens: int) -> Case:
    """As in the CPU's study: random weights, a routing drawn unevenly."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )
    config._experts_implementation = "eager"
    with torch.device("meta"):
        experts = MixtralExperts(config)
    experts = experts.to(torch.bfloat16).to_empty(device=DEVICE)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    scores = torch.randn(tokens, shape.num_experts, device=DEVICE) + 0.5 * torch.randn(
        shape.num_experts, device=DEVICE
    )
    weights, index = scores.softmax(-1).topk(shape.top_k)
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_()
    x = torch.randn(tokens, shape.hidden_size, device=DEVICE).bfloat16().requires_grad_()
    return Case(shape, x, index, weights, experts, torch.randn_like(x))


def dense(case: Case) -> Callable[[], Tensor]:
    """The forward's multiplications as two plain products: what cuBLAS makes of them."""
    rows, width = case.hidden_states.shape[0] * case.shape.top_k, case.shape.intermediate_size
    x = torch.randn(rows, case.shape.hidden_size, device=DEVICE).bfloat16()
    gate_up, down = case.experts.gate_up_proj[0].detach(), case.experts.down_proj[0].detach()

    def run() -> Tensor:
        z: Tensor = x @ gate_up.T
        y: Tensor = z[:, :width] @ down.T
        return y

    return run


def measure(shape: Shape, tokens: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    case = make_case(shape, tokens)
    apart = compare_outputs(case, NAMES)
    records = []
    for passes, factor in (("forward", 1), ("forward+backward", 3)):
        functions: dict[str, Callable[[], Any]] = {}
        for name in NAMES:
            forward = runner(name, case)
            functions[name] = _inference(forward) if factor == 1 else _training(forward, case)
        if factor == 1:
            functions["dense"] = dense(case)
        times = {name: milliseconds(function) for name, function in functions.items()}
        medians = {name: statistics.median(values) for name, values in times.items()}
        flops = factor * shape.flops(tokens)
        records.append(
            {
                "shape": asdict(shape),
                "tokens": tokens,
                "dtype": "bfloat16",
                "passes": passes,
                "milliseconds": {n: {"median": medians[n], "all": times[n]} for n in times},
                "teraflops_per_second": {n: flops / medians[n] / 1e9 for n in medians},
                "speedup": medians["grouped_mm"] / medians["genesis_moe"],
                "difference": apart,
            }
        )
    return records


def _inference(forward: Callable[[], Tensor]) -> Callable[[], Any]:
    def call() -> None:
        with torch.no_grad():
            forward()

    return call


def _training(forward: Callable[[], Tensor], case: Case) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(forward(), case.leaves(), case.grad_output)


def measure_router(shape: Shape, tokens: int) -> dict[str, float]:
    """Milliseconds of a router's forward, by mode, at the sizes of a shape."""
    x = torch.randn(tokens, shape.hidden_size, device=DEVICE).bfloat16()
    found = {}
    for mode in ("hamiltonian", "mixtral", "deepseek"):
        router = gm.Router(
            shape.hidden_size, shape.num_experts, shape.top_k, mode=mode, dtype=torch.bfloat16, device=DEVICE
        ).eval()
        found[mode] = statistics.median(milliseconds(_inference(lambda r=router: r(x).weights)))  # type: ignore[misc]
    return found


def ceilings() -> dict[str, float]:
    a, b = (torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2))
    source = torch.empty(1 << 31, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    product = statistics.median(milliseconds(lambda: a @ b, 50))
    copy = statistics.median(milliseconds(lambda: target.copy_(source)))
    return {
        "dense_teraflops_per_second": 2 * 8192**3 / product / 1e9,
        "copy_terabytes_per_second": 2 * source.numel() / copy / 1e9,
    }


def main(path: Path) -> int:
    start = time.monotonic()
    result: dict[str, Any] = {
        "ceilings": ceilings(),
        "records": [],
        "router": [],
        "errors": [],
        "not_run": [],
    }
    print(result["ceilings"])
    for tokens, shape in itertools.product(TOKENS, SHAPES):
        size = f"{shape} T={tokens}"
        if time.monotonic() - start > SECONDS:
            result["not_run"].append(size)
            continue
        try:
            records = measure(shape, tokens)
            result["records"] += records
            router = measure_router(shape, tokens)
            result["router"].append(
                {"shape": asdict(shape), "tokens": tokens, "forward_milliseconds": router}
            )
            for r in records:
                rates = ", ".join(f"{n} {v:.0f}" for n, v in r["teraflops_per_second"].items())
                print(f"{size:40} {r['passes']:17} {rates} TFLOP/s, {r['speedup']:.2f}x", flush=True)
        except Exception as error:
            result["errors"].append(f"{size}: {type(error).__name__}: {error}")
            print(result["errors"][-1], flush=True)
        torch.cuda.empty_cache()
        write_json(path, result)
    result["nvidia_smi_after"] = smi()
    write_json(path, result)
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
