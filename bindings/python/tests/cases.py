"""Inputs that several tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import reference
from genesis_moe import RouterOptions


@dataclass
class Case:
    """Arguments of the experts; keywords are options and biases."""

    x: Tensor
    index: Tensor
    weights: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor
    options: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        return [self.x, self.index, self.weights, self.gate_up_proj, self.down_proj]

    def reference(self) -> Tensor:
        double = [t.double() if t.is_floating_point() else t for t in self.tensors()]
        options = {k: v.double() if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return reference.experts(*double, **options)


def experts_case(
    tokens: int,
    hidden: int,
    intermediate: int,
    experts: int,
    slots: int,
    dtype: torch.dtype = torch.float64,
    *,
    bias: bool = False,
    sentinels: bool = False,
    index_dtype: torch.dtype = torch.int64,
    **options: Any,
) -> Case:
    rows = 2 * intermediate if options.get("gated", True) else intermediate
    index = torch.randint(0, experts + (2 if sentinels else 0), (tokens, slots)).to(index_dtype)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    if bias:
        options["gate_up_bias"] = torch.randn(experts, rows).to(dtype)
        options["down_bias"] = torch.randn(experts, hidden).to(dtype)
    return Case(
        torch.randn(tokens, hidden).to(dtype),
        index,
        torch.rand(tokens, slots).to(accumulator),
        (torch.randn(experts, rows, hidden) / hidden**0.5).to(dtype),
        (torch.randn(experts, hidden, intermediate) / intermediate**0.5).to(dtype),
        options,
    )


# Routers of every mode.
ROUTERS = {
    "cosine": RouterOptions(),
    "cosine budgeted": RouterOptions(budgeted=True, top_k=3),
    "dot": RouterOptions(binding="dot"),
    "mixtral": RouterOptions(mode="mixtral"),
    "mixtral raw": RouterOptions(mode="mixtral", normalize_top_k=False, scaling_factor=2.0),
    "deepseek": RouterOptions(mode="deepseek", top_k=2, scaling_factor=1.5),
    "deepseek groups": RouterOptions(mode="deepseek", top_k=2, num_groups=4, top_k_groups=2),
}


def router_arguments(
    options: RouterOptions,
    tokens: int,
    hidden: int,
    experts: int,
    dtype: torch.dtype,
    width: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments of route besides options."""
    hamiltonian = options.mode == "hamiltonian"
    width = width if hamiltonian else None
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    linear = options.mode == "mixtral" or (hamiltonian and options.binding == "dot")
    return {
        "hidden_states": torch.randn(tokens, hidden).to(dtype),
        "centroids": torch.randn(experts, width or hidden).to(dtype),
        "projection": (torch.randn(width, hidden) / hidden**0.5).to(dtype) if width else None,
        "bias": torch.randn(experts).to(accumulator) if linear else None,
        "price": 0.2 * torch.randn(experts).to(accumulator) if options.mode != "mixtral" else None,
        "temperature": torch.tensor([0.4], dtype=accumulator) if hamiltonian else None,
        "gap": torch.tensor([0.2], dtype=accumulator) if options.budgeted else None,
    }


def expected_routing(options: RouterOptions, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    double = {k: v.double() if isinstance(v, Tensor) else v for k, v in given.items()}
    return reference.route(double.pop("hidden_states"), double.pop("centroids"), options, **double)
