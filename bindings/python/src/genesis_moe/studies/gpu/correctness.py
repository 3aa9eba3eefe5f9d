"""The step ``correctness``: every operation on the GPU against float64 on the CPU."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_moe import RouterOptions, functional
from genesis_moe.options import ACTIVATIONS
from genesis_moe.studies.gpu.cases import (
    DEVICE,
    DTYPES,
    TOLERANCE,
    Experts,
    differences,
    equal_bits,
    poison,
    run_experts,
    wide,
    worst,
)
from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.record import finite, write_json

SECONDS = seconds_of_step(105)  # after which no further case is begun; those left are listed as not run

EXPERTS = [
    Experts(1, 64, 32, 4, 2),
    Experts(17, 72, 40, 5, 2),
    Experts(0, 64, 32, 4, 2),
    Experts(128, 128, 256, 8, 2),
    Experts(300, 129, 67, 7, 3),
    Experts(200, 96, 48, 8, 2, routing="one"),
    Experts(200, 96, 48, 8, 2, routing="few"),
    Experts(200, 96, 48, 8, 2, routing="absent", bias=True),
    Experts(65, 72, 40, 5, 2, bias=True),
    Experts(65, 72, 40, 5, 2, transposed=True, bias=True),
    Experts(65, 72, 40, 5, 2, options={"interleaved": True}),
    *(Experts(65, 72, 40, 5, 2, options={"activation": a}) for a in ACTIVATIONS),
    *(
        Experts(65, 72, 40, 5, 2, bias=True, options={"gated": False, "activation": a})
        for a in ("gelu", "relu_squared")
    ),
    Experts(64, 512, 128, 512, 16),
    Experts(512, 576, 1536, 8, 2),
    Experts(2048, 1024, 512, 64, 8),
    Experts(32768, 512, 256, 64, 8),
]

ROUTERS = {
    "cosine": RouterOptions(),
    "cosine budgeted": RouterOptions(budgeted=True, top_k=4),
    "dot": RouterOptions(binding="dot"),
    "batch": RouterOptions(solver="batch"),
    "mixtral": RouterOptions(mode="mixtral"),
    "deepseek groups": RouterOptions(
        mode="deepseek", top_k=4, num_groups=4, top_k_groups=2, scaling_factor=1.5
    ),
}
# tokens, hidden size, experts
ROUTER_SIZES = [(1, 64, 8), (17, 100, 16), (0, 64, 8), (4096, 1024, 64), (1000, 512, 512), (32768, 1024, 128)]


def check_experts(case: Experts, dtype: torch.dtype) -> dict[str, Any]:
    inputs = case.inputs(dtype)
    grad = torch.randn(inputs["hidden_states"].shape, device=DEVICE).to(dtype)
    poison()
    got = run_experts(inputs, grad, case.options)
    again = run_experts(inputs, grad, case.options)
    narrow = wide(grad)
    assert narrow is not None
    want = run_experts({name: wide(t) for name, t in inputs.items()}, narrow, case.options)
    found = differences(got, want)
    passed = worst(list(found.values())) <= TOLERANCE[dtype]
    return {
        "differences": found,
        "deterministic": equal_bits(got, again),
        "passed": passed and equal_bits(got, again),
    }


def check_router(options: RouterOptions, size: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Any]:
    tokens, hidden, experts = size
    hamiltonian = options.mode == "hamiltonian"
    width = min(64, hidden)
    g = torch.Generator(DEVICE).manual_seed(2)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=g, device=DEVICE) * scale

    given: dict[str, Any] = {
        "hidden_states": draw(tokens, hidden).to(dtype),
        "projection": draw(width, hidden, scale=hidden**-0.5).to(dtype) if hamiltonian else None,
        "centroids": draw(experts, width if hamiltonian else hidden, scale=hidden**-0.5).to(dtype),
        "bias": draw(experts) * 0.1 if options.binding == "dot" or options.mode == "mixtral" else None,
        "price": draw(experts) * 0.05 if options.mode != "mixtral" else None,
        "temperature": torch.full((1,), 0.3, device=DEVICE) if hamiltonian else None,
        "gap": torch.full((1,), 0.2, device=DEVICE) if options.budgeted else None,
    }
    poison()
    leaves = {
        n: t.detach().requires_grad_()
        for n, t in given.items()
        if t is not None and n not in ("price", "gap")
    }
    routing = functional.route(**{**given, **leaves}, options=options)
    again = functional.route(**given, options=options)
    grads = torch.randn_like(routing.weights), torch.randn_like(routing.logits)
    got_gradients = torch.autograd.grad((routing.weights, routing.logits), list(leaves.values()), grads)

    reference: dict[str, Any] = {name: wide(t) for name, t in given.items()}
    want = functional.route(**reference, options=options)
    # In float32 two experts may be closer than rounding: such tokens may choose otherwise.
    same = (routing.index.cpu() == want.index).all(dim=1)
    changed = 1 - float(same.double().mean()) if tokens else 0.0
    found = differences(
        {"logits": routing.logits, "weights": routing.weights.detach().cpu()[same]},
        {"logits": want.logits, "weights": want.weights[same]},
    )
    # The backward pass takes the choice as given, so its reference gets the GPU's.
    order = ("hidden_states", "projection", "centroids", "bias", "temperature")
    need = [reference[name] is not None for name in order]
    outputs = (wide(t) for t in (routing.logits, routing.index, *grads))
    gradients = torch.ops.genesis_moe.router_backward.default(
        *(reference[name] for name in order), *outputs, *options.scalars(), need
    )
    names = [name for name, wanted in zip(order, need, strict=True) if wanted]
    got = dict(zip(leaves, got_gradients, strict=True))
    found |= differences(
        {f"grad {n}": got[n] for n in names}, {f"grad {n}": v for n, v in zip(names, gradients, strict=True)}
    )
    counts = torch.bincount(routing.index.flatten(), minlength=experts + 1)[:experts]
    exact = bool(torch.equal(counts, routing.counts)) and torch.equal(routing.index, again.index)
    exact = exact and torch.equal(routing.weights.detach(), again.weights)
    limit = 100 * TOLERANCE[torch.float32] if dtype == torch.float32 else TOLERANCE[dtype]
    return {
        "differences": found,
        "tokens_with_another_choice": changed,
        "deterministic": exact,
        "passed": exact and changed <= 2e-3 and worst(list(found.values())) <= limit,
    }


def check_report_and_update(options: RouterOptions) -> dict[str, Any]:
    """On the outputs of one forward, which are the same on both sides."""
    g = torch.Generator(DEVICE).manual_seed(3)
    logits = torch.randn(3000, 32, generator=g, device=DEVICE)
    index = logits.topk(options.top_k, dim=1).indices
    price = None if options.mode == "mixtral" else torch.randn(32, generator=g, device=DEVICE) * 0.1
    got = functional.report(options, logits, index, price)
    want = functional.report(options, *(wide(t) for t in (logits, index, price)))
    apart = {
        name: abs(getattr(got, name) - value) / max(1.0, abs(value))
        for name, value in vars(want).items()
        if not (math.isnan(value) and math.isnan(getattr(got, name)))
    }
    if price is not None:
        gap = torch.full((1,), 0.2, device=DEVICE) if options.budgeted else None
        counts = torch.bincount(index.flatten(), minlength=32)
        numbers: dict[str, float] = {"rate": 0.02, "budget": 1.25 if options.budgeted else 0.0}
        here = [wide(price), wide(gap)]
        functional.update(options, counts.cpu(), 3000, here[0], here[1], **numbers)
        functional.update(options, counts, 3000, price, gap, **numbers)
        for name, a, b in (("price", price, here[0]), ("gap", gap, here[1])):
            if a is not None and b is not None:
                apart[name] = float((a.cpu().double() - b).abs().max())
    return {"differences": apart, "passed": worst(list(apart.values())) <= 1e-4}


def check_far_offsets() -> dict[str, Any]:
    """More than 2^31 elements in the rows of all slots; some tokens are looked at."""
    case = Experts(131072, 2560, 128, 16, 8)
    inputs: dict[str, Any] = case.inputs(torch.bfloat16)
    with torch.no_grad():
        output = functional.experts(**inputs)
    some = torch.arange(0, case.tokens, case.tokens // 61, device=DEVICE)
    of_tokens = ("hidden_states", "top_k_index", "top_k_weights")
    few: dict[str, Any] = {n: wide(t[some] if n in of_tokens else t) for n, t in inputs.items()}
    want = functional.experts(**few)
    found = differences({"output": output[some]}, {"output": want})
    return {"differences": found, "passed": worst(list(found.values())) <= TOLERANCE[torch.bfloat16]}


def checks() -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every case by its name: small ones first."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for name, options in ROUTERS.items():
        for size in ROUTER_SIZES:
            for label, dtype in DTYPES.items():
                text = f"router {name} T{size[0]} H{size[1]} E{size[2]} {label}"
                found.append((text, partial(check_router, options, size, dtype)))
        found.append((f"report and update {name}", partial(check_report_and_update, options)))
    for case in EXPERTS:
        for label, dtype in DTYPES.items():
            found.append((f"experts {case} {label}", partial(check_experts, case, dtype)))
    found.append(("experts with more than 2^31 elements", check_far_offsets))
    return found


def main(path: Path) -> int:
    start = time.monotonic()
    results: dict[str, Any] = {}
    not_run: list[str] = []
    for name, check in checks():
        if time.monotonic() - start > SECONDS:
            not_run.append(name)
            continue
        try:
            result = check()
        except Exception as error:
            result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        results[name] = result
        if not result["passed"]:
            print(f"FAILED {name}: {result}")
        write_json(path, {"cases": finite(results), "not_run": not_run})
    write_json(path, {"cases": finite(results), "not_run": not_run})
    failed = [name for name, result in results.items() if not result["passed"]]
    print(
        f"{len(results) - len(failed)} of {len(results)} cases agree with float64; "
        f"{len(not_run)} not run for lack of time"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
