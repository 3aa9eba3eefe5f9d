"""Inputs on the device, references on the CPU in float64, and how the two are compared."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genesis_moe import functional
from genesis_moe.studies.layer import difference

# cpu: the code of the steps on a machine without a GPU, as tests run it.
DEVICE = torch.device(os.environ.get("GMOE_GPU_STUDY_DEVICE", "cuda"))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Of 1 - 2<a,b> / (|a|^2 + |b|^2), against float64 on the same rounded inputs.
TOLERANCE = {torch.float32: 1e-9, torch.bfloat16: 1e-5}


@dataclass
class Experts:
    """A call of the experts: sizes, flags, and how tokens are spread over experts."""

    tokens: int
    hidden: int
    intermediate: int
    experts: int
    slots: int
    routing: str = (
        "random"  # "one": all to the first expert; "few": half of the experts get none; "absent": some slots
    )
    bias: bool = False
    transposed: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        flags = [self.routing] if self.routing != "random" else []
        flags += [name for name in ("bias", "transposed") if getattr(self, name)]
        flags += [str(v) if k == "activation" else f"{k}={v}" for k, v in self.options.items()]
        sizes = f"T{self.tokens} H{self.hidden} I{self.intermediate} E{self.experts} k{self.slots}"
        return " ".join([sizes, *flags])

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """The keywords of functional.experts: tensors, or None for a bias."""
        g = torch.Generator(DEVICE).manual_seed(1)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=g, device=DEVICE) * scale).to(dtype)

        def weight(rows: int, columns: int) -> Tensor:
            scale = columns**-0.5
            if self.transposed:
                return draw(self.experts, columns, rows, scale=scale).transpose(1, 2)
            return draw(self.experts, rows, columns, scale=scale)

        rows = self.intermediate * (2 if self.options.get("gated", True) else 1)
        scores = torch.randn(self.tokens, self.experts, generator=g, device=DEVICE)
        if self.routing == "few":
            scores[:, self.experts // 2 :] -= 100
        index = scores.topk(self.slots, dim=1).indices
        if self.routing == "one":
            index = torch.zeros_like(index)
        if self.routing == "absent":
            index[torch.rand(index.shape, generator=g, device=DEVICE) < 0.3] = self.experts
        return {
            "hidden_states": draw(self.tokens, self.hidden),
            "top_k_index": index,
            "top_k_weights": torch.rand(self.tokens, self.slots, generator=g, device=DEVICE),
            "gate_up_proj": weight(rows, self.hidden),
            "down_proj": weight(self.hidden, self.intermediate),
            "gate_up_bias": draw(self.experts, rows) if self.bias else None,
            "down_bias": draw(self.experts, self.hidden) if self.bias else None,
        }


def poison(megabytes: int = 256) -> None:
    """Leaves NaN in the memory that torch will hand out next, so that what is not written shows."""
    sizes = (megabytes << 18, 1 << 16, 1 << 12, 1 << 8)
    blocks = [
        torch.full((size,), float("nan"), device=DEVICE)
        for size in sizes
        for _ in range(4 if size < 1 << 20 else 1)
    ]
    del blocks


def wide(value: Tensor | None) -> Tensor | None:
    """The value on the CPU, in float64 where it is floating."""
    if value is None:
        return None
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


def run_experts(inputs: dict[str, Any], grad: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
    """Output and gradients, by their names."""
    leaves = {
        name: t.detach().requires_grad_()
        for name, t in inputs.items()
        if t is not None and t.is_floating_point()
    }
    output = functional.experts(**{**inputs, **leaves}, **options)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad)
    return {"output": output.detach(), **{f"grad {n}": g for n, g in zip(leaves, gradients, strict=True)}}


def differences(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """How far each tensor is from its reference; infinity where it is not finite and should be."""
    result = {}
    for name, reference in want.items():
        actual = got[name].detach().cpu()
        finite = bool(actual.isfinite().all()) or not bool(reference.isfinite().all())
        result[name] = difference(actual, reference) if finite else float("inf")
    return result


def equal_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def worst(values: Sequence[float]) -> float:
    """The largest; NaN where there is one, which no tolerance lets pass."""
    return max(values, key=lambda value: (math.isnan(value), value), default=0.0)
