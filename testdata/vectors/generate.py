"""Writes the test vectors: inputs, options and what the float64 reference makes of them.

    python testdata/vectors/generate.py          # writes the JSON files beside this one
    python testdata/vectors/generate.py --check  # fails when they are not what it would write

Every binding passes the same files, so a mistake in one of them cannot hide behind its own tests. README.md
beside this file describes the format. Inputs are multiples of 1/64 below 4: exact in bfloat16, so that a case
is the same in every dtype. No case lies close to a tie or a kink of an activation.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / "bindings" / "python"
sys.path[:0] = [str(PYTHON / "src"), str(PYTHON / "tests")]

import reference  # noqa: E402
from genesis_moe import RouterOptions  # noqa: E402

# |got - want| <= tolerance * max(1, largest magnitude in the tensor)
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "bfloat16": 4e-2}
MARGIN = 0.02  # how far every choice and kink is from flipping
DIGITS = 13
# What is float64 beside hidden states of any dtype.
DOUBLE = ("mean", "axis", "scale", "tokens", "skipped", "sum", "square", "power", "binding_sum", "histogram")

Record = dict[str, Any]


def grid(*shape: int, below: float = 2.0) -> Tensor:
    """Multiples of 1/64 in [-below, below]."""
    most = int(below * 64)
    return torch.randint(-most, most + 1, shape).double() / 64


def record(
    tensors: dict[str, Tensor | None], single: tuple[str, ...] = ("gate_up_scale", "down_scale")
) -> Record:
    """Tensors as JSON; those that are None are left out. single: what is float32 in every case."""
    return {name: _tensor(name, value, single) for name, value in tensors.items() if value is not None}


def _tensor(name: str, value: Tensor, single: tuple[str, ...]) -> Record:
    flat = (
        value.detach().double().reshape(-1).tolist()
        if value.is_floating_point()
        else value.reshape(-1).tolist()
    )
    if name in single or value.dtype == torch.float8_e4m3fn:
        dtype = "float32" if name in single else "float8_e4m3fn"
        return {"dtype": dtype, "shape": list(value.shape), "values": [_short(v) for v in flat]}
    if name in DOUBLE:
        return {"dtype": "float64", "shape": list(value.shape), "values": [_short(v) for v in flat]}
    if value.is_floating_point():
        return {"shape": list(value.shape), "values": [_short(v) for v in flat]}
    return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "values": flat}


def _short(value: float) -> float | int:
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def until_clear(make: Callable[[], tuple[Record, float]]) -> Record:
    """The first random case whose margin is large enough."""
    for seed in range(1000):
        torch.manual_seed(seed)
        made, margin = make()
        if margin > MARGIN:
            return made
    raise RuntimeError(f"no case of {make} is clear of ties")


# ------------------------------------------------------------------ the router


def router(
    name: str,
    *,
    tokens: int = 5,
    hidden: int = 4,
    experts: int = 4,
    width: int | None = None,
    bias: bool = False,
    price: bool = False,
    temperature: float | None = None,
    gap: float | None = None,
    **options: Any,
) -> Record:
    chosen = RouterOptions(**{**_default_epsilon(options), **options})

    def make() -> tuple[Record, float]:
        inputs = {
            "hidden_states": grid(tokens, hidden),
            "projection": grid(width, hidden, below=1) if width else None,
            "centroids": grid(experts, width or hidden),
            "bias": grid(experts, below=1) if bias else None,
            "price": grid(experts, below=0.25) if price else None,
            "temperature": None if temperature is None else torch.tensor([temperature]).double(),
            "gap": None if gap is None else torch.tensor([gap]).double(),
        }
        floats = {k: v for k, v in inputs.items() if v is not None and k not in ("price", "gap")}
        for value in floats.values():
            value.requires_grad_()
        given = {k: v for k, v in inputs.items() if k not in ("hidden_states", "centroids")}
        price_out = None
        if chosen.solver == "batch":
            logits = reference.logits_of(inputs["hidden_states"], inputs["centroids"], chosen)
            given["price"] = price_out = reference.batch_price(logits.detach(), chosen)
        index, weights, logits, margins = reference.route(
            inputs["hidden_states"], inputs["centroids"], chosen, **given
        )
        counts = torch.bincount(index.reshape(-1), minlength=experts + 1)[:experts]
        grad_outputs = {"grad_top_k_weights": grid(*weights.shape), "grad_logits": grid(*logits.shape)}
        # An absent slot's weight is 0 whatever the parameters are.
        gradients = torch.autograd.grad([weights, logits], list(floats.values()), list(grad_outputs.values()))
        outputs = {
            "top_k_index": index,
            "top_k_weights": weights,
            "logits": logits,
            "counts": counts,
            "price_out": price_out,
        }
        made = {
            "name": name,
            "operation": "router",
            "options": {**_default_epsilon(options), **options},
            "inputs": record(inputs),
            "outputs": record(outputs),
            "grad_outputs": record(grad_outputs),
            "grad_inputs": record({f"grad_{k}": g for k, g in zip(floats, gradients, strict=True)}),
        }
        if price_out is not None:
            made["tolerances"] = {"price_out": 1e-3}  # where the library's iteration ends
        return made, float(margins.min())

    return until_clear(make)


def _default_epsilon(options: Record) -> Record:
    """The default, 0.01, is not the same number in float32 and float64."""
    cosine = (
        options.get("mode", "hamiltonian") == "hamiltonian" and options.get("binding", "cosine") == "cosine"
    )
    return {"epsilon": 1 / 64} if cosine else {}


def router_cases() -> list[Record]:
    return [
        router("hamiltonian, cosine", price=True),
        router("hamiltonian, cosine, projection, temperature", width=3, price=True, temperature=0.5),
        router("hamiltonian, cosine, temperature below its floor", temperature=0.125, temperature_floor=0.25),
        router(
            "hamiltonian, cosine, budgeted", budgeted=True, top_k=3, price=True, temperature=0.5, gap=0.25
        ),
        router(
            "hamiltonian, cosine, batch solver", solver="batch", entropy_temperature=0.125, load_penalty=2.0
        ),
        router(
            "hamiltonian, dot, bias, projection",
            binding="dot",
            width=3,
            bias=True,
            price=True,
            temperature=2.0,
        ),
        router("hamiltonian, dot, budgeted", binding="dot", budgeted=True, top_k=3, gap=1.5),
        router("hamiltonian, every expert", top_k=4),
        router("mixtral", mode="mixtral"),
        router(
            "mixtral, bias, not normalised, scaled",
            mode="mixtral",
            bias=True,
            normalize_top_k=False,
            scaling_factor=2.5,
        ),
        router("deepseek", mode="deepseek", price=True, scaling_factor=1.5),
        router("deepseek, not normalised", mode="deepseek", normalize_top_k=False),
        router("deepseek, groups", mode="deepseek", experts=8, num_groups=4, top_k_groups=2, price=True),
    ]


# ----------------------------------------------------------------- the experts


def experts(
    name: str,
    *,
    tokens: int = 4,
    hidden: int = 3,
    intermediate: int = 2,
    num_experts: int = 3,
    slots: int = 2,
    bias: bool = False,
    absent: bool = False,
    index_dtype: torch.dtype = torch.int64,
    **options: Any,
) -> Record:
    gated = options.get("gated", True)
    rows = 2 * intermediate if gated else intermediate

    def make() -> tuple[Record, float]:
        floats = {
            "hidden_states": grid(tokens, hidden),
            "top_k_weights": grid(tokens, slots, below=1),
            "gate_up_proj": grid(num_experts, rows, hidden, below=1),
            "gate_up_bias": grid(num_experts, rows, below=1) if bias else None,
            "down_proj": grid(num_experts, hidden, intermediate, below=1),
            "down_bias": grid(num_experts, hidden, below=1) if bias else None,
        }
        index = torch.stack([torch.randperm(num_experts + absent)[:slots] for _ in range(tokens)]).to(
            index_dtype
        )
        wanted = {k: v.requires_grad_() for k, v in floats.items() if v is not None}
        output = reference.experts(
            floats["hidden_states"],
            index,
            floats["top_k_weights"],
            floats["gate_up_proj"],
            floats["down_proj"],
            floats["gate_up_bias"],
            floats["down_bias"],
            **options,
        )
        grad_output = grid(tokens, hidden)
        gradients = torch.autograd.grad(output, list(wanted.values()), grad_output)
        z = pre_activation(floats, index)
        made = {
            "name": name,
            "operation": "experts",
            "options": options,
            "inputs": record({"top_k_index": index, **floats}),
            "outputs": record({"output": output, "pre_activation": z}),
            "grad_outputs": record({"grad_output": grad_output}),
            "grad_inputs": record({f"grad_{k}": g for k, g in zip(wanted, gradients, strict=True)}),
        }
        return made, kink_margin(z, **options)

    return until_clear(make)


def pre_activation(given: dict[str, Any], index: Tensor) -> Tensor:
    """z [T*K, Z], rows by expert and then by token; zeros in the rows of absent slots, which come last."""
    num_experts, rows, _ = given["gate_up_proj"].shape
    found = []
    for e in range(num_experts):
        for token, chosen in enumerate(index.tolist()):
            if e in chosen:
                z = given["gate_up_proj"][e] @ given["hidden_states"][token]
                found.append(z if given["gate_up_bias"] is None else z + given["gate_up_bias"][e])
    found += [torch.zeros(rows, dtype=torch.float64)] * (index.numel() - len(found))
    return torch.stack(found).detach()


def kink_margin(z: Tensor, activation: str = "silu", limit: float = 7.0, **_: Any) -> float:
    """How far z is from where the activation has no derivative."""
    kinks = {"relu": [0.0], "relu_squared": [0.0], "clipped_swiglu": [-limit, limit]}.get(activation, [])
    present = z[z.abs().sum(1) > 0]
    return min((float((present - kink).abs().min()) for kink in kinks), default=math.inf)


def experts_cases() -> list[Record]:
    return [
        experts("SwiGLU"),
        experts("SwiGLU, biases, absent slots", bias=True, absent=True),
        experts("SwiGLU, one token, one slot", tokens=1, slots=1),
        experts("SwiGLU, interleaved, int32 index", interleaved=True, index_dtype=torch.int32),
        experts(
            "gpt-oss: clipped, interleaved, biases",
            activation="clipped_swiglu",
            interleaved=True,
            bias=True,
            alpha=1.75,
            limit=1.0,
        ),
        experts("gelu", activation="gelu"),
        experts("gelu_tanh, interleaved, biases", activation="gelu_tanh", interleaved=True, bias=True),
        experts("relu, not gated, biases", activation="relu", gated=False, bias=True),
        experts("relu_squared, not gated", activation="relu_squared", gated=False),
        experts("quick_gelu", activation="quick_gelu"),
        experts("sigmoid", activation="sigmoid"),
        experts("tanh, not gated", activation="tanh", gated=False),
        experts("identity, gated, absent slots", activation="identity", absent=True),
    ]


# ------------------------------------------------------------ weights in 8 bits


def scales(experts: int, rows: int, columns: int) -> Tensor:
    """Scales of a weight: small multiples of a power of two, so that they are short in decimals."""
    shape = experts, -(-rows // 128), -(-columns // 128)
    return torch.randint(1, 8, shape).float() / 256


def codes(*shape: int) -> Tensor:
    """Numbers of e4m3 of every exponent."""
    return (torch.randn(*shape) * 2.0 ** torch.randint(-3, 7, shape)).to(torch.float8_e4m3fn)


def scaled(
    name: str,
    *,
    tokens: int = 3,
    hidden: int = 3,
    intermediate: int = 2,
    num_experts: int = 2,
    slots: int = 2,
    bias: bool = False,
    absent: bool = False,
    **options: Any,
) -> Record:
    gated = options.get("gated", True)
    rows = 2 * intermediate if gated else intermediate

    def make() -> tuple[Record, float]:
        inputs = {
            "hidden_states": grid(tokens, hidden),
            "top_k_index": torch.stack([torch.randperm(num_experts + absent)[:slots] for _ in range(tokens)]),
            "top_k_weights": grid(tokens, slots, below=1),
            "gate_up_proj": codes(num_experts, rows, hidden),
            "gate_up_bias": grid(num_experts, rows, below=1) if bias else None,
            "down_proj": codes(num_experts, hidden, intermediate),
            "down_bias": grid(num_experts, hidden, below=1) if bias else None,
            "gate_up_scale": scales(num_experts, rows, hidden),
            "down_scale": scales(num_experts, hidden, intermediate),
        }
        names = ("hidden_states", "top_k_index", "top_k_weights", "gate_up_proj", "down_proj")
        rest = {k: v for k, v in inputs.items() if k not in names}
        output = reference.experts(*(inputs[k] for k in names), **rest, **options)
        made = {
            "name": name,
            "operation": "experts",
            "options": options,
            "inputs": record(inputs),
            "outputs": record({"output": output}),
        }
        # What is rounded between the products must fall on the same side in every dtype.
        decoded = {
            **inputs,
            "hidden_states": reference.round_e4m3(inputs["hidden_states"]),
            "gate_up_proj": reference.decode(inputs["gate_up_proj"], inputs["gate_up_scale"]),
        }
        z = pre_activation(decoded, inputs["top_k_index"])
        h = torch.stack(
            [
                reference.activate(row, **{"activation": "silu", "gated": True, **ACTIVATION, **options})
                for row in z
            ]
        )
        return made, min(kink_margin(z, **options), reference.tie_margin(h))

    return until_clear(make)


ACTIVATION = {"interleaved": False, "alpha": 1.702, "limit": 7.0}


def quantize(name: str, *shape: int, zeros: bool = False) -> Record:
    torch.manual_seed(1)
    experts, rows, columns = shape
    weight = grid(*shape, below=3)
    if zeros:
        weight[0] = 0
    quantized = torch.empty(shape, dtype=torch.float8_e4m3fn)
    scale = torch.ones(experts, -(-rows // 128), -(-columns // 128))
    for e in range(experts):
        for i in range(scale.shape[1]):
            for j in range(scale.shape[2]):
                block = weight[e, 128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
                if block.any():
                    # The largest is 448 times a short number, and so the scale is one.
                    block[0, 0] = -448 * (1 + (e + i + j) % 3) / 128
                    scale[e, i, j] = block.abs().max() / 448
                numbers = (block / scale[e, i, j]).to(torch.float8_e4m3fn)
                quantized[e, 128 * i : 128 * i + 128, 128 * j : 128 * j + 128] = numbers
    return {
        "name": name,
        "operation": "quantize",
        "options": {},
        "inputs": record({"weight": weight}),
        "outputs": record({"quantized": quantized, "scale": scale}, single=("scale",)),
    }


def e4m3_cases() -> list[Record]:
    return [
        scaled("SwiGLU in 8 bits"),
        scaled("in 8 bits, biases, absent slots", bias=True, absent=True),
        scaled("in 8 bits, interleaved", interleaved=True),
        scaled("in 8 bits, relu, not gated", activation="relu", gated=False, bias=True),
        scaled("in 8 bits, two blocks of hidden columns", hidden=130, intermediate=1, tokens=2),
        scaled(
            "in 8 bits, two blocks of rows",
            hidden=2,
            intermediate=130,
            num_experts=1,
            slots=1,
            tokens=1,
            activation="identity",
            gated=False,
        ),
        quantize("one block", 1, 3, 4),
        quantize("an expert of zeros", 2, 3, 4, zeros=True),
        quantize("blocks of rows and of columns", 1, 130, 3),
        quantize("blocks of columns", 1, 2, 131),
    ]


# -------------------------------------------------------- the step and the report


def update(
    name: str,
    counts: list[int],
    numbers: dict[str, float],
    gap: float | None = None,
    **options: Any,
) -> Record:
    torch.manual_seed(1)
    price = grid(len(counts), below=0.25)
    given = {
        "counts": torch.tensor(counts),
        "price": price,
        "gap": None if gap is None else torch.tensor([gap]).double(),
    }
    after = reference.update(RouterOptions(**options), **given, **numbers)
    return {
        "name": name,
        "operation": "update",
        "options": options,
        "numbers": numbers,
        "inputs": record(given),
        "outputs": record(dict(zip(("price", "gap"), after, strict=True))),
    }


def update_cases() -> list[Record]:
    usual = {"num_tokens": 10, "rate": 0.03125, "step_limit": 0.0625, "budget": 0.0, "gap_rate": 0.03125}
    budget = {**usual, "budget": 1.25}
    return [
        update("hamiltonian", [8, 3, 5, 4], usual, load_penalty=4.0),
        update(
            "hamiltonian, steps at their limit",
            [10, 9, 1, 0],
            {**usual, "step_limit": 0.015625},
            load_penalty=4.0,
        ),
        update("hamiltonian, budgeted", [8, 3, 5, 1], budget, gap=0.5, budgeted=True),
        update(
            "hamiltonian, the gap ends at 0",
            [8, 3, 5, 4],
            {**budget, "gap_rate": 4.0},
            gap=0.5,
            budgeted=True,
        ),
        update("hamiltonian, no tokens", [0, 0, 0, 0], {**usual, "num_tokens": 0}),
        update("hamiltonian, frozen", [8, 3, 5, 4], {**usual, "rate": 0.0}),
        update("deepseek", [8, 5, 5, 2], usual, mode="deepseek"),
    ]


def report(
    name: str,
    *,
    tokens: int = 6,
    experts: int = 4,
    price: bool = False,
    previous: bool = False,
    **options: Any,
) -> Record:
    chosen = RouterOptions(entropy_temperature=0.125, load_penalty=4.0, **options)

    def make() -> tuple[Record, float]:
        inputs = {
            "logits": grid(tokens, experts),
            "top_k_index": None,
            "price": grid(experts, below=0.25) if price else None,
            "previous_index": None,
        }
        index, margins = reference.choose(inputs["logits"], chosen, inputs["price"])
        inputs["top_k_index"] = index
        if previous:
            inputs["previous_index"] = (index + torch.randint(0, 2, index.shape)) % experts
        made = {
            "name": name,
            "operation": "report",
            "options": {"entropy_temperature": 0.125, "load_penalty": 4.0, **options},
            "inputs": record(inputs),
            "numbers": {k: _short(v) for k, v in reference.report(chosen, **inputs).items()},
        }
        return made, float(margins.min())

    return until_clear(make)


def report_cases() -> list[Record]:
    return [
        report("hamiltonian", price=True, previous=True),
        report("hamiltonian, one expert a token, no price", top_k=1),
        report("mixtral", mode="mixtral"),
    ]


# ------------------------------------------------------------------ the clans


def forest(hidden: int) -> dict[str, Tensor]:
    """Clan 0 is slot 4; clan 1 is node 0: slot 1, or node 2: slot 0 or 3. Node 1 is free, and so is slot 2."""
    return {
        "root": torch.tensor([4, -1], dtype=torch.int32),
        "children": torch.tensor([[1, -3], [99, -99], [0, 3]], dtype=torch.int32),
        "direction": grid(3, hidden, below=1),
        "threshold": grid(3, below=0.5),
    }


def descend(
    name: str,
    *,
    tokens: int = 9,
    hidden: int = 4,
    slots: int = 2,
    num_slots: int = 5,
    split: bool = True,
    on_a_plane: bool = False,
    index_dtype: torch.dtype = torch.int64,
) -> Record:
    def make() -> tuple[Record, float]:
        tree: dict[str, Any] = {**dict.fromkeys(("children", "direction", "threshold")), **forest(hidden)}
        if not split:
            tree = {**dict.fromkeys(tree), "root": torch.tensor([3, 0], dtype=torch.int32)}
        x = grid(tokens, hidden)
        index = torch.randint(0, 3, (tokens, slots)).to(index_dtype)  # clan 2 is none: an absent slot
        if on_a_plane:
            x[0], index[0] = torch.tensor([0.5, -1.0, 0.25, 0.0]), 1
            tree["threshold"][0] = tree["direction"][0] @ x[0]  # exact: few bits
        slot_index, counts, margin = reference.descend(x, index, **tree, num_slots=num_slots)
        if split and not on_a_plane and set(slot_index.flatten().tolist()) != {0, 1, 3, 4, num_slots}:
            margin = 0.0  # want every leaf
        made = {
            "name": name,
            "operation": "descend",
            "options": {"num_slots": num_slots},
            "inputs": record({"hidden_states": x, "clan_index": index, **tree}),
            "outputs": record({"slot_index": slot_index, "slot_counts": counts}),
        }
        return made, margin

    return until_clear(make)


def observe(
    name: str,
    *sums: str,
    tokens: int = 8,
    hidden: int = 4,
    slots: int = 2,
    num_slots: int = 3,
    index_dtype: torch.dtype = torch.int64,
) -> Record:
    """Sums that hold something before, as after an earlier batch."""
    shapes = {"sum": (num_slots, hidden), "power": (num_slots, hidden)}
    shapes["histogram"] = (num_slots, reference.HISTOGRAM_BINS)

    def make() -> tuple[Record, float]:
        x = grid(tokens, hidden)
        index = torch.randint(0, num_slots + 1, (tokens, slots)).to(index_dtype)
        axis = grid(num_slots, hidden)
        frame: dict[str, Tensor] = {}
        if {"square", "power", "histogram"} & set(sums):
            frame["mean"] = grid(num_slots, hidden, below=0.5)
        if {"power", "histogram"} & set(sums):
            frame["axis"] = axis / axis.norm(dim=1, keepdim=True)
        if "histogram" in sums:
            frame["scale"] = torch.tensor([0.5, 2.0, 4.0]).double()  # the first is exceeded: outer bins
        if "binding_sum" in sums:
            frame["binding"] = grid(tokens, slots)
        before = {s: torch.randint(0, 3, shapes.get(s, (num_slots,))).double() for s in sums}
        after, margin = reference.observe(x, index, before, num_slots=num_slots, **frame)
        made = {
            "name": name,
            "operation": "observe",
            "options": {"num_slots": num_slots},
            "inputs": record({"hidden_states": x, "slot_index": index, **frame, **before}),
            "outputs": record(after),
        }
        return made, margin

    return until_clear(make)


def clans_cases() -> list[Record]:
    every = ("tokens", "skipped", "sum", "square", "power", "binding_sum", "histogram")
    return [
        descend("slots of trees"),
        descend("slots of clans that have not split", split=False),
        descend("one slot a token, int32 index", slots=1, tokens=12, index_dtype=torch.int32),
        descend("a token on a plane goes to child 1", tokens=1, slots=1, on_a_plane=True),
        observe("every sum", *every),
        observe("tokens and their sum, from zero", "tokens", "sum"),
        observe("the axis of a power iteration, int32 index", "power", index_dtype=torch.int32),
    ]


# ------------------------------------------------------------------ refused calls


def refused(name: str, case: Record, names: str, status: str = "INVALID_ARGUMENT", **change: Any) -> Record:
    """A case with something wrong in it: tensors by name, options or numbers; None takes a tensor away."""
    made = json.loads(
        json.dumps({k: case[k] for k in ("operation", "options", "inputs", "numbers") if k in case})
    )
    for key, value in change.items():
        if key in made["inputs"] or isinstance(value, Tensor):
            made["inputs"].pop(key, None)
            made["inputs"].update(record({key: value}))
        elif key in made.get("numbers", {}):
            made["numbers"][key] = value
        else:
            made["options"][key] = value
    outputs = {k: {**v, "values": []} for k, v in case.get("outputs", {}).items()}
    return {"name": name, **made, "outputs": outputs, "status": status, "names": names}


def refused_cases() -> list[Record]:
    trees, sums = descend("trees"), observe("sums", "tokens", "power", "histogram")
    ffn, route = experts("SwiGLU"), router("hamiltonian, cosine", price=True)
    eight, made = scaled("SwiGLU in 8 bits"), quantize("one block", 1, 3, 4)
    budgeted = router("budgeted", budgeted=True, gap=0.25)
    groups = router("groups", mode="deepseek", experts=8, num_groups=4, top_k_groups=2)
    step = update(
        "step",
        [8, 3, 5, 1],
        {"num_tokens": 10, "rate": 0.03125, "step_limit": 0.0625, "budget": 1.25, "gap_rate": 0.03125},
        gap=0.5,
        budgeted=True,
    )
    seen = {**report("report"), "numbers": {}}
    circle = torch.tensor([[1, -3], [99, -99], [0, -1]], dtype=torch.int32)
    index = torch.tensor([[0, 1], [1, -1], [2, 0], [1, 2]])
    return [
        refused("a negative expert", ffn, "top_k_index", top_k_index=index),
        refused("an index of too few tokens", ffn, "top_k_index", top_k_index=index[:3]),
        refused("weights of another number of slots", ffn, "top_k_weights", top_k_weights=grid(4, 3)),
        refused("hidden states of one dimension", ffn, "hidden_states", hidden_states=grid(12)),
        refused("a projection of another hidden size", ffn, "gate_up_proj", gate_up_proj=grid(3, 4, 5)),
        refused("an odd number of gate and up rows", ffn, "gate_up_proj", gate_up_proj=grid(3, 5, 3)),
        refused("projections of different numbers of experts", ffn, "down_proj", down_proj=grid(2, 3, 2)),
        refused("a bias of another size", ffn, "down_bias", down_bias=grid(3, 2)),
        refused("no hidden states", ffn, "hidden_states", hidden_states=None),
        refused(
            "clipped, but not gated",
            ffn,
            "gated",
            activation="clipped_swiglu",
            gated=False,
            gate_up_proj=grid(3, 2, 3),
        ),
        refused("8 bits without scales", eight, "gate_up_scale", gate_up_scale=None),
        refused("8 bits with scales of another shape", eight, "down_scale", down_scale=scales(2, 3, 200)),
        refused("8 bits in one projection alone", eight, "down_proj", down_proj=grid(2, 3, 2)),
        refused("scales without 8 bits", ffn, "gate_up_scale", gate_up_scale=scales(3, 4, 3)),
        refused("a weight of two dimensions to make 8 bits of", made, "weight", weight=grid(3, 4)),
        refused("centroids of another width", route, "centroids", centroids=grid(4, 3)),
        refused("no centroids", route, "centroids", centroids=None),
        refused("more experts per token than there are", route, "top_k", top_k=5),
        refused("a negative epsilon", route, "epsilon", epsilon=-1.0),
        refused("a price of another number of experts", route, "price", price=grid(5)),
        refused("a budget without a gap", budgeted, "gap", gap=None),
        refused("a negative gap", budgeted, "gap", gap=torch.tensor([-0.5])),
        refused("groups that do not divide the experts", groups, "num_groups", num_groups=3),
        refused("more loads than tokens have slots", step, "counts", counts=torch.tensor([10, 10, 1, 1])),
        refused("a negative load", step, "counts", counts=torch.tensor([-1, 3, 5, 1])),
        refused("a budget below one expert", step, "budget", budget=0.5),
        refused("a negative rate", step, "rate", rate=-1.0),
        refused(
            "a report on an index of another shape",
            seen,
            "top_k_index",
            top_k_index=torch.zeros(6, 3, dtype=torch.int64),
        ),
        refused("a slot that is not there", trees, "root", root=torch.tensor([5, -1], dtype=torch.int32)),
        refused("a node that is not there", trees, "root", root=torch.tensor([4, -9], dtype=torch.int32)),
        refused("a tree in a circle", trees, "children", children=circle),
        refused("inner nodes without directions", trees, "direction", direction=None),
        refused("directions of another width", trees, "direction", direction=grid(3, 5)),
        refused("no trees", trees, "root", root=None),
        refused("power without an axis", sums, "axis", axis=None),
        refused("a width of 0", sums, "scale", scale=torch.tensor([0.5, 0.0, 4.0])),
        refused("sums of another number of slots", sums, "tokens", tokens=torch.zeros(4)),
        refused("a negative slot", sums, "slot_index", slot_index=torch.full((8, 2), -1)),
    ]


# ------------------------------------------------------------------------ files

FILES: dict[str, Callable[[], list[Record]]] = {
    "router": router_cases,
    "experts": experts_cases,
    "update": update_cases,
    "report": report_cases,
    "clans": clans_cases,
    "e4m3": e4m3_cases,
    "refused": refused_cases,
}


def text_of(cases: list[Record]) -> str:
    """JSON with one tensor a line."""
    lines = ['{"tolerances": ' + json.dumps(TOLERANCES) + ', "cases": [']
    for i, case in enumerate(cases):
        parts = []
        for key, value in case.items():
            if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
                inner = ",\n   ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
                parts.append(f"{json.dumps(key)}: {{\n   {inner}}}")
            else:
                parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
        lines.append(" {" + ",\n  ".join(parts) + "}" + ("," if i + 1 < len(cases) else ""))
    return "\n".join([*lines, "]}\n"])


def same(one: Any, other: Any) -> bool:
    """Equal up to the last digits of floating results, which differ between processors."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-11)
    return bool(one == other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    for name, make in FILES.items():
        path, text = HERE / f"{name}.json", text_of(make())
        if not check:
            path.write_text(text)
        elif not same(json.loads(path.read_text()), json.loads(text)):
            print(f"{path}: is not what {Path(__file__).name} writes; run it", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
