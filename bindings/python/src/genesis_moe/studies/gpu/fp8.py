"""The step ``fp8``: experts in float8_e4m3fn, for inference, by the portable kernels and by those for Hopper.

Rounded weights to the bit as on the CPU; outputs against float64 there, twice for the same bits; which kernels
ran. Then times beside the layer's in bfloat16, and beside torch's two grouped products in the same type alone:
rows sorted and rounded beforehand, no activation, a scale a row where ours has one for each 128 columns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_moe import functional
from genesis_moe.studies.gpu.cases import DEVICE, DTYPES, Experts, differences, poison, wide
from genesis_moe.studies.gpu.timing import forget, in_graph, milliseconds, seconds_of_step, synchronize
from genesis_moe.studies.gpu.workers import KERNELS
from genesis_moe.studies.record import finite, read_json, write_json

CHOICES = ("portable", "hopper")  # each in a process of its own: they are chosen before the library is loaded
CASES = [
    Experts(300, 256, 384, 5, 2, routing="absent", bias=True),  # the kernels for Hopper take it
    Experts(1, 64, 32, 4, 2),
    Experts(17, 272, 144, 5, 2, bias=True),
    Experts(65, 67, 129, 4, 2, routing="absent", bias=True),
    Experts(300, 136, 200, 7, 3, transposed=True),
    Experts(64, 256, 384, 4, 2, routing="one"),
    Experts(1000, 640, 256, 8, 2, routing="few"),
    Experts(2048, 1024, 512, 64, 8),
]
# hidden size, intermediate size, experts, slots
LAYERS = [(4096, 1024, 128, 8), (4096, 14336, 8, 2), (7168, 2048, 64, 8)]
TOKENS = (1, 64, 8192)
FEW_TOKENS = 64  # at most: timed from CUDA graphs, as launching takes longer


def tolerance(case: Experts) -> float:
    """As for bfloat16. h is rounded: an element that lies in the middle between two e4m3 on one side only differs
    by 2^-4 of its size, which shows where outputs are few. Hopper keeps some 14 bits of the sum over a block, so that
    there about one element of h in a thousand does.
    """
    hopper = _hopper() and case.hidden % 128 == case.intermediate % 128 == 0
    return 1e-4 if hopper or case.tokens * case.hidden < 8192 else 1e-5


def _hopper() -> bool:
    """Whether this process chose the kernels for Hopper, and the GPU is one."""
    chosen = os.environ.get("GENESIS_MOE_EXPERT_KERNELS") == "hopper"
    return chosen and torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


def scaled(inputs: dict[str, Any], transposed: bool = False) -> dict[str, Any]:
    """The same call with weights in float8_e4m3fn."""
    found = dict(inputs)
    for name, scale in (("gate_up_proj", "gate_up_scale"), ("down_proj", "down_scale")):
        weight, found[scale] = functional.quantize(inputs[name])
        if transposed:
            weight = weight.view(torch.uint8).mT.contiguous().mT.view(torch.float8_e4m3fn)
        found[name] = weight
    return found


def same_bits(weight: Tensor) -> bool:
    """Whether the GPU rounds a weight as the CPU does."""
    here, there = functional.quantize(weight), functional.quantize(weight.cpu())
    return torch.equal(here[0].cpu().view(torch.uint8), there[0].view(torch.uint8)) and torch.equal(
        here[1].cpu(), there[1]
    )


def check(case: Experts, dtype: torch.dtype) -> dict[str, Any]:
    inputs = case.inputs(dtype)
    rounds = all(same_bits(inputs[name]) for name in ("gate_up_proj", "down_proj"))
    given = scaled(inputs, case.transposed)
    poison()
    with torch.no_grad():
        output = functional.experts(**given, **case.options)
        again = functional.experts(**given, **case.options)
        reference: dict[str, Any] = {
            name: tensor.cpu()
            if tensor is not None and name.endswith(("_proj", "_scale", "top_k_index"))
            else wide(tensor)
            for name, tensor in given.items()
        }
        want = functional.experts(**reference, **case.options)
    found = differences({"output": output}, {"output": want})
    same = torch.equal(output, again)
    return {
        "differences": found,
        "deterministic": same,
        "weights_as_on_the_cpu": rounds,
        "passed": rounds and same and found["output"] <= tolerance(case),
    }


def kernels_of(case: Experts) -> list[str]:
    """The kernels that a forward pass launches, from torch's profiler; or why it did not say."""
    given = scaled(case.inputs(torch.bfloat16))
    try:
        with (
            torch.no_grad(),
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile,
        ):
            functional.experts(**given)
            synchronize()
    except Exception as error:
        return [f"unknown: {type(error).__name__}: {error}"]
    return sorted({event.key for event in profile.key_averages() if event.key.startswith("gmoe_")})


def grouped_products(inputs: dict[str, Any]) -> Callable[[], Tensor]:
    """torch's two products over rows that are sorted by expert."""
    e4m3 = torch.float8_e4m3fn
    index = inputs["top_k_index"].flatten().sort().values
    experts, gate_up, down = (
        inputs["gate_up_proj"].shape[0],
        inputs["gate_up_proj"].to(e4m3),
        inputs["down_proj"].to(e4m3),
    )
    ends = torch.arange(experts, device=DEVICE).add_(1)
    offsets = torch.searchsorted(index, ends).int()
    x = torch.randn(index.numel(), gate_up.shape[2], device=DEVICE).to(e4m3)
    h = torch.randn(index.numel(), down.shape[2], device=DEVICE).to(e4m3)

    one_a_row = torch.ones(index.numel(), device=DEVICE)
    one_a_column = [torch.ones(weight.shape[:2], device=DEVICE) for weight in (gate_up, down)]

    def product(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        result: Tensor = torch._scaled_grouped_mm(
            rows,
            weight.mT,
            one_a_row,
            scales,
            offs=offsets,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return result

    def run() -> Tensor:
        product(x, gate_up, one_a_column[0])
        return product(h, down, one_a_column[1])

    return run


def measure(case: Experts) -> dict[str, Any]:
    """Milliseconds of a forward pass and its rates; a rival that refuses the shape says why."""
    inputs = case.inputs(torch.bfloat16)
    given = scaled(inputs)
    calls: dict[str, Callable[[], Any]] = {
        "e4m3": lambda: functional.experts(**given),
        "bfloat16": lambda: functional.experts(**inputs),
    }
    found: dict[str, Any] = {"errors": {}, "graph": {}}
    try:
        calls["scaled_grouped_mm"] = grouped_products(inputs)
        calls["scaled_grouped_mm"]()
    except Exception as error:
        calls.pop("scaled_grouped_mm", None)
        found["errors"]["scaled_grouped_mm"] = f"{type(error).__name__}: {error}"
    with torch.no_grad():
        for name, call in calls.items():
            found["graph"][name] = False
            if case.tokens <= FEW_TOKENS and DEVICE.type == "cuda":
                call()
                try:
                    calls[name] = in_graph(call)
                    found["graph"][name] = True
                except Exception as error:
                    synchronize()
                    found["errors"][f"{name} in a graph"] = f"{type(error).__name__}: {error}"
        times = {name: milliseconds(call) for name, call in calls.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows, drawn = case.tokens * case.slots, int(inputs["top_k_index"].unique().numel())
    flops, weights = (
        6 * rows * case.hidden * case.intermediate,
        3 * drawn * case.hidden * case.intermediate,
    )
    return {
        **found,
        "experts_drawn": drawn,
        "milliseconds": {name: {"median": medians[name], "all": times[name]} for name in times},
        "teraflops_per_second": {name: flops / m / 1e9 for name, m in medians.items()},
        "e4m3_weight_terabytes_per_second": weights / medians["e4m3"] / 1e9,
        "speedup_over_bfloat16": medians["bfloat16"] / medians["e4m3"],
    }


def run(path: Path, seconds: float) -> int:
    """The cases and times of the kernels that this process has."""
    found: dict[str, Any] = {"cases": {}, "kernels": {}, "times": {}, "errors": [], "not_run": []}
    start = time.monotonic()
    for case in CASES:
        for label, dtype in DTYPES.items():
            name = f"{case} {label}"
            if time.monotonic() - start > seconds / 2:
                found["not_run"].append(name)
                continue
            write_json(
                path, finite({**found, "running": name})
            )  # where it hangs or dies, this is the last word
            try:
                result = check(case, dtype)
            except Exception as error:
                result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
            found["cases"][name] = result
            print(f"{name}: {'passed' if result['passed'] else result}", flush=True)
    found["kernels"] = {str(case): kernels_of(case) for case in CASES[:2]}
    launched = found["kernels"][str(CASES[0])]
    if _hopper() and not any("hopper" in name or name.startswith("unknown") for name in launched):
        found["errors"].append(
            f"{CASES[0]}: no kernel for Hopper ran: {', '.join(launched) or 'none of ours'}"
        )
    for tokens in TOKENS:
        for layer in LAYERS:
            case = Experts(tokens, *layer)
            if time.monotonic() - start > seconds:
                found["not_run"].append(f"time of {case}")
                continue
            write_json(path, finite({**found, "running": f"time of {case}"}))
            try:
                result = found["times"][str(case)] = measure(case)
                rates = ", ".join(f"{n} {v:.0f}" for n, v in result["teraflops_per_second"].items())
                print(f"{case}: {rates} TFLOP/s", flush=True)
            except Exception as error:
                found["errors"].append(f"{case}: {type(error).__name__}: {error}")
                print(found["errors"][-1], flush=True)
            forget()
    write_json(path, finite(found))
    return 1 if found["errors"] or not all(result["passed"] for result in found["cases"].values()) else 0


def main(path: Path) -> int:
    found, failed, limit = {}, 0, seconds_of_step(75) / len(CHOICES)
    for kernels in CHOICES:
        part = path.with_suffix(f".{kernels}.json")
        part.unlink(missing_ok=True)
        print(f"{kernels}:", flush=True)
        process = subprocess.run(
            [sys.executable, "-m", "genesis_moe.studies.gpu.fp8", str(part), f"{limit - 5:.0f}"],
            env={**os.environ, **KERNELS[kernels]},
        )
        failed += process.returncode != 0
        found[kernels] = {
            "exit_status": process.returncode,
            "found": read_json(part) if part.exists() else None,
        }
        write_json(path, found)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(run(Path(sys.argv[1]), float(sys.argv[2])))
    sys.exit(main(Path(sys.argv[1])))
