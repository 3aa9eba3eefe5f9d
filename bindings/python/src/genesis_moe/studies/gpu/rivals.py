"""The layer as several implementations run it, on the same weights, tokens and routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from genesis_moe.studies.gpu.cases import DEVICE
from genesis_moe.studies.layer import Case, Shape, runner

OURS = "genesis_moe"
# transformers' default and its loop over experts; torch's grouped product called directly; ours in Triton.
RIVALS = ("grouped_mm", "torch_grouped_mm", "scatter", "eager")
DENSE = (
    "dense"  # no rival but the ceiling: as many operations as two plain products, three times for training
)


def make_case(shape: Shape, tokens: int) -> Case:
    """As in the CPU's study: random weights, a routing drawn unevenly. In bfloat16; the same numbers in every
    process."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    generator = torch.Generator(DEVICE).manual_seed(1)
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
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=DEVICE, generator=generator)

    scores = draw(tokens, shape.num_experts) + 0.5 * draw(shape.num_experts)
    weights, index = scores.softmax(-1).topk(shape.top_k)
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_()
    x = draw(tokens, shape.hidden_size).bfloat16().requires_grad_()
    return Case(shape, x, index, weights, experts, draw(tokens, shape.hidden_size).bfloat16())


def forward(name: str, case: Case) -> Callable[[], Tensor]:
    """The forward pass of an implementation as a function of no arguments."""
    weights = case.experts.gate_up_proj, case.experts.down_proj
    if name == "scatter":
        from genesis_moe.studies.gpu import scatter

        return lambda: scatter.experts(case.hidden_states, case.top_k_index, case.top_k_weights, *weights)
    if name == "torch_grouped_mm":
        return lambda: grouped(case.hidden_states, case.top_k_index, case.top_k_weights, *weights)
    if name == DENSE:
        return _dense(case)
    return runner(name, case)


def call(name: str, case: Case, passes: str) -> Callable[[], Any]:
    """What is timed: passes is "forward" (no gradients) or "forward+backward"."""
    run, times = forward(name, case), 1
    if passes == "forward+backward":
        if name != DENSE:
            return lambda: torch.autograd.grad(run(), case.leaves(), case.grad_output)
        times = 3  # backward multiplies twice as much as forward

    def without_gradients() -> None:
        with torch.no_grad():
            for _ in range(times):
                run()

    return without_gradients


def grouped(x: Tensor, index: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """torch's grouped product with as little around it as dropless routing needs."""
    tokens, slots = index.shape
    ranked, order = index.flatten().sort(stable=True)
    ends = torch.searchsorted(ranked, torch.arange(1, gate_up.shape[0] + 1, device=x.device)).to(torch.int32)
    gate, up = torch._grouped_mm(x[order // slots], gate_up.mT, offs=ends).chunk(2, dim=-1)
    rows = torch._grouped_mm(silu(gate) * up, down.mT, offs=ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
    pairs = rows[back].view(tokens, slots, -1)
    output: Tensor = torch.bmm(weights.to(pairs.dtype).unsqueeze(1), pairs).squeeze(1)
    return output


def _dense(case: Case) -> Callable[[], Tensor]:
    """The forward's multiplications as two plain products: what cuBLAS makes of them."""
    rows, width = case.hidden_states.shape[0] * case.shape.top_k, case.shape.intermediate_size
    x = torch.randn(rows, case.shape.hidden_size, device=DEVICE).bfloat16()
    gate_up, down = case.experts.gate_up_proj[0].detach(), case.experts.down_proj[0].detach()

    def run() -> Tensor:
        z: Tensor = x @ gate_up.T
        y: Tensor = z[:, :width] @ down.T
        return y

    return run
