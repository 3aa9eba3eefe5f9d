"""Study ``layer``: how fast the MoE layer is, beside the ways Hugging Face runs it.

Every implementation gets the same weights, tokens and routing. Outputs and gradients are compared
first; then the implementations run in turn, A B C A B C, and each ratio is taken within a round, so
that a machine whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe import functional

from .record import environment, write_json


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: hidden H, intermediate I, experts E, experts per token k."""

    hidden_size: int
    intermediate_size: int
    num_experts: int
    top_k: int

    def __str__(self) -> str:
        return f"H{self.hidden_size} I{self.intermediate_size} E{self.num_experts} k{self.top_k}"

    def flops(self, tokens: int) -> int:
        """Of the forward matrix products; the backward has twice as many."""
        return 6 * tokens * self.top_k * self.hidden_size * self.intermediate_size


SHAPES = (Shape(1024, 2048, 8, 2), Shape(1024, 512, 64, 8), Shape(576, 1536, 8, 2))
TOKENS = (1, 16, 64, 512, 2048)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RIVALS = ("grouped_mm", "eager", "batched_mm")
# Eager's backward fills [E, ...] with zeros for every expert, and batched_mm copies an expert's weights
# for every token: beyond these sizes one run takes many seconds and says nothing new.
MOST_TOKENS = {"batched_mm": 1}
MOST_EXPERTS = {"eager": 8}
TOLERANCE = {"float32": 1e-9, "bfloat16": 1e-4}
PIECE = 1 << 26  # elements that are compared at a time


@dataclass
class Case:
    """One layer with its input, routing and weights."""

    shape: Shape
    hidden_states: Tensor
    top_k_index: Tensor
    top_k_weights: Tensor
    experts: Any  # a Hugging Face experts module: gate_up_proj [E, 2I, H], down_proj [E, H, I]
    grad_output: Tensor

    def leaves(self) -> list[Tensor]:
        return [self.hidden_states, self.top_k_weights, self.experts.gate_up_proj, self.experts.down_proj]


def make_case(shape: Shape, tokens: int, dtype: torch.dtype) -> Case:
    """A layer of random weights whose routing is drawn unevenly, as real routing is."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    generator = torch.Generator().manual_seed(1)
    config = MixtralConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )
    config._experts_implementation = "eager"
    experts = MixtralExperts(config).to(dtype)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    hidden_states = torch.randn(tokens, shape.hidden_size, generator=generator).to(dtype).requires_grad_()
    scores = torch.randn(tokens, shape.num_experts, generator=generator)
    scores += 0.5 * torch.randn(shape.num_experts, generator=generator)
    weights, index = scores.softmax(-1).topk(shape.top_k)
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_()
    grad_output = torch.randn(tokens, shape.hidden_size, generator=generator).to(dtype)
    return Case(shape, hidden_states, index, weights, experts, grad_output)


def runner(name: str, case: Case) -> Callable[[], Tensor]:
    """The forward pass of an implementation as a function of no arguments."""
    if name == "genesis_moe":
        return lambda: functional.experts(
            case.hidden_states,
            case.top_k_index,
            case.top_k_weights,
            case.experts.gate_up_proj,
            case.experts.down_proj,
        )

    def run() -> Tensor:
        case.experts.config._experts_implementation = name
        output: Tensor = case.experts(case.hidden_states, case.top_k_index, case.top_k_weights)
        return output

    return run


def dense_runner(case: Case) -> Callable[[], Tensor]:
    """The same multiplications as plain dense products, one expert's weights for all rows: the ceiling."""
    rows = case.hidden_states.shape[0] * case.shape.top_k
    x = torch.randn(rows, case.shape.hidden_size).to(case.hidden_states.dtype)
    gate_up, down = case.experts.gate_up_proj[0].detach(), case.experts.down_proj[0].detach()

    def run() -> Tensor:
        z: Tensor = x @ gate_up.T
        y: Tensor = z[:, : case.shape.intermediate_size] @ down.T
        return y

    return run


def difference(a: Tensor, b: Tensor) -> float:
    """1 - 2<a,b> / (|a|^2 + |b|^2) in float64: 0 for equal tensors."""
    norm = both = 0.0
    # Piece by piece: the gradients of weights are gigabytes, and four times that in float64.
    for x, y in zip(a.detach().flatten().split(PIECE), b.detach().flatten().split(PIECE), strict=True):
        x64, y64 = x.double(), y.double()
        norm += float(x64 @ x64 + y64 @ y64)
        both += float(x64 @ y64)
    return 1 - 2 * both / norm if norm > 0 else 0.0


def compare_outputs(case: Case, names: list[str]) -> dict[str, float]:
    """The largest difference of outputs and gradients to the first implementation; raises beyond the
    tolerance of the dtype."""
    results = {}
    for name in names:
        output = runner(name, case)()
        results[name] = [output, *torch.autograd.grad(output, case.leaves(), case.grad_output)]
    worst = {
        name: max(difference(a, b) for a, b in zip(results[names[0]], results[name], strict=True))
        for name in names[1:]
    }
    limit = TOLERANCE[str(case.hidden_states.dtype).removeprefix("torch.")]
    for name, value in worst.items():
        if not value <= limit:
            raise AssertionError(
                f"{case.shape}: outputs of {names[0]} and {name} differ by {value:.2e} > {limit:.0e}"
            )
    return worst


# A round that took so many times as long as the fastest one met other work on the machine.
DISTURBED = 1.5


def seconds(function: Callable[[], Any], at_least: float = 0.02) -> float:
    """Seconds of one call, from as many calls as fill ``at_least`` seconds.

    One call before them is not counted: it meets the caches and the memory as another implementation
    left them, which on a virtual machine may have gone back to the host.
    """
    function()
    calls, start = 0, time.perf_counter()
    while True:
        function()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / calls


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every function, round by round; as many rounds again where the machine was disturbed."""
    times: dict[str, list[float]] = {name: [] for name in functions}

    def measure_rounds() -> None:
        for _ in range(rounds):
            for name, function in functions.items():
                times[name].append(seconds(function))

    measure_rounds()
    if any(max(values) > DISTURBED * min(values) for values in times.values()):
        measure_rounds()
    return times


def ratios(times: dict[str, list[float]], ours: str = "genesis_moe") -> dict[str, float]:
    """Median over rounds of (rival's seconds / ours): above 1 we are faster."""
    return {
        name: statistics.median(r / o for r, o in zip(values, times[ours], strict=True))
        for name, values in times.items()
        if name != ours
    }


def measure(shape: Shape, tokens: int, dtype_name: str, rounds: int) -> list[dict[str, Any]]:
    """Forward, and forward with backward, of every implementation at one size."""
    case = make_case(shape, tokens, DTYPES[dtype_name])
    rivals = (r for r in RIVALS if tokens <= MOST_TOKENS.get(r, tokens))
    names = [
        "genesis_moe",
        *(r for r in rivals if shape.num_experts <= MOST_EXPERTS.get(r, shape.num_experts)),
    ]
    differences = compare_outputs(case, names)

    def forward_only(name: str) -> Callable[[], None]:
        run = runner(name, case)

        def call() -> None:
            with torch.no_grad():
                run()

        return call

    def forward_backward(name: str) -> Callable[[], Any]:
        run = runner(name, case)
        return lambda: torch.autograd.grad(run(), case.leaves(), case.grad_output)

    records = []
    for passes, make in (("forward", forward_only), ("forward+backward", forward_backward)):
        functions: dict[str, Callable[[], Any]] = {name: make(name) for name in names}
        flops = shape.flops(tokens) * (1 if passes == "forward" else 3)
        if tokens >= 512:
            functions["dense"] = dense_runner(case)
        times = in_turn(functions, rounds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        record = {
            "shape": asdict(shape),
            "tokens": tokens,
            "dtype": dtype_name,
            "passes": passes,
            "flops": flops,
            "seconds": {name: {"median": medians[name], "all": values} for name, values in times.items()},
            "speedup": ratios({n: v for n, v in times.items() if n != "dense"}),
            "difference": differences,
        }
        if "dense" in times:
            # The dense pass does the forward's products only: compare rates, round by round.
            scale = flops / shape.flops(tokens)
            record["fraction_of_dense_rate"] = statistics.median(
                scale * d / o for d, o in zip(times["dense"], times["genesis_moe"], strict=True)
            )
        records.append(record)
    return records


def measure_memory(
    shape: Shape, tokens: int, names: tuple[str, ...] = ("genesis_moe", "grouped_mm")
) -> dict[str, Any]:
    """Peak resident memory that forward+backward adds, beside what must be there: the input, the saved
    pre-activation and the gradients."""
    case = make_case(shape, tokens, torch.float32)
    rows = tokens * shape.top_k
    necessary = 4 * (tokens * shape.hidden_size + rows * 2 * shape.intermediate_size)
    necessary += 4 * sum(leaf.numel() for leaf in case.leaves())
    result: dict[str, Any] = {
        "shape": asdict(shape),
        "tokens": tokens,
        "necessary_bytes": necessary,
        "extra_bytes": {},
    }
    for name in names:
        run = runner(name, case)
        warm = torch.autograd.grad(run(), case.leaves(), case.grad_output)
        del warm
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        gradients = torch.autograd.grad(run(), case.leaves(), case.grad_output)
        result["extra_bytes"][name] = _resident("VmHWM") - before
        del gradients
    scratch = gm.engine_counters()["scratch_bytes"]
    result["scratch_bytes"] = scratch
    result["ratio"] = (result["extra_bytes"]["genesis_moe"] + scratch) / necessary
    return result


def memory_of_each(shapes: tuple[Shape, ...], tokens: int) -> list[dict[str, Any]]:
    """:func:`measure_memory` of each shape in a process of its own: an engine keeps the scratch of the
    largest layer that it has run."""
    context = multiprocessing.get_context("spawn")
    results = []
    for shape in shapes:
        with ProcessPoolExecutor(1, context) as process:
            results.append(process.submit(measure_memory, shape, tokens).result())
    return results


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def measure_router(shape: Shape, tokens: int, rounds: int) -> dict[str, Any]:
    """Routing's share of the layer, for each mode, forward and forward with backward."""
    case = make_case(shape, tokens, torch.float32)
    experts = runner("genesis_moe", case)
    result: dict[str, Any] = {"shape": asdict(shape), "tokens": tokens, "share": {}, "seconds": {}}
    for mode in ("hamiltonian", "mixtral", "deepseek"):
        router = gm.Router(shape.hidden_size, shape.num_experts, shape.top_k, mode=mode)

        def route(router: gm.Router = router) -> None:
            with torch.no_grad():
                router(case.hidden_states)

        def route_backward(router: gm.Router = router) -> None:
            weights = router(case.hidden_states).weights
            leaves = [case.hidden_states, *(p for p in router.parameters() if p.requires_grad)]
            torch.autograd.grad(weights, leaves, torch.ones_like(weights), allow_unused=True)

        def layer() -> None:
            with torch.no_grad():
                experts()

        def layer_backward() -> None:
            torch.autograd.grad(experts(), case.leaves(), case.grad_output)

        for passes, pair in (
            ("forward", (route, layer)),
            ("forward+backward", (route_backward, layer_backward)),
        ):
            times = in_turn({"router": pair[0], "experts": pair[1]}, rounds)
            shares = [r / (r + e) for r, e in zip(times["router"], times["experts"], strict=True)]
            result["share"].setdefault(mode, {})[passes] = statistics.median(shares)
            result["seconds"].setdefault(mode, {})[passes] = {
                k: statistics.median(v) for k, v in times.items()
            }
    return result


def geometric_mean(values: list[float]) -> float | None:
    return statistics.geometric_mean(values) if values else None


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the targets speak of: geometric means of the ratio to grouped_mm."""

    def mean(dtype: str, passes: str, tokens: tuple[int, ...]) -> float | None:
        return geometric_mean(
            [
                r["speedup"]["grouped_mm"]
                for r in records
                if r["dtype"] == dtype and r["passes"] == passes and r["tokens"] in tokens
            ]
        )

    summary: dict[str, Any] = {}
    for dtype in DTYPES:
        for passes in ("forward", "forward+backward"):
            for tokens in ((1,), (16,), (64,), (512, 2048)):
                label = "+".join(map(str, tokens))
                summary.setdefault(dtype, {}).setdefault(passes, {})[label] = mean(dtype, passes, tokens)
    return summary


def run(args: argparse.Namespace) -> int:
    """Measures everything and writes ``cpu-<processor>.json`` into ``args.out``: one record a kind of machine."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    shapes = SHAPES[:1] if args.quick else SHAPES
    tokens = TOKENS[:3] if args.quick else TOKENS
    records = []
    for dtype, shape, count in itertools.product(DTYPES, shapes, tokens):
        rounds = 3 if args.quick else (9 if count <= 64 else 5)
        if dtype == "bfloat16" and count > 64:
            rounds = 3
        for record in measure(shape, count, dtype, rounds):
            records.append(record)
            speedup = "  ".join(f"{name} {value:.2f}x" for name, value in record["speedup"].items())
            dense = record.get("fraction_of_dense_rate")
            tail = f"  {dense:.0%} of dense" if dense else ""
            print(f"{dtype:9} {shape!s:22} T={count:<5} {record['passes']:17} {speedup}{tail}", flush=True)
    result: dict[str, Any] = {
        "study": "layer",
        "tier": "cpu",
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "records": records,
        "summary": summarise(records),
        "memory": memory_of_each(shapes, 512 if args.quick else 2048),
        "router": measure_router(SHAPES[1], 512 if args.quick else 2048, 3 if args.quick else 7),
        "not_run": [
            "GPU tier: no GPU on this machine",
            "eager beyond 8 experts",
            "batched_mm beyond one token",
        ],
    }
    processor = (
        result["environment"]["machine"]["processor"].lower().replace("(r)", "").removesuffix("processor")
    )
    name = re.sub("[^a-z0-9]+", "-", processor).strip("-")
    path = Path(args.out) / f"cpu-{name}{'-quick' if args.quick else ''}.json"
    write_json(path, result)
    print(f"wrote {path}")
    return 0
