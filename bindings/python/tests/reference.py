"""The equations in plain torch and float64, one token at a time: what the library is compared with."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from genesis_moe import RouterOptions


def logits_of(x: Tensor, centroids: Tensor, options: RouterOptions, projection=None, bias=None) -> Tensor:
    """[T, E], differentiable."""
    z = x if projection is None else x @ projection.T
    if options.mode == "hamiltonian" and options.binding == "cosine":
        norms = (z.norm(dim=-1, keepdim=True) + options.epsilon) * (centroids.norm(dim=-1) + options.epsilon)
        return z @ centroids.T / norms - 1
    logits = z @ centroids.T
    return logits if bias is None else logits + bias


def route(
    x: Tensor,
    centroids: Tensor,
    options: RouterOptions,
    projection: Tensor | None = None,
    bias: Tensor | None = None,
    price: Tensor | None = None,
    temperature: Tensor | None = None,
    gap: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(index, weights, logits, margin): margin [T] is how far each token's choice is from another one."""
    num_experts, k = centroids.shape[0], options.top_k
    logits = logits_of(x, centroids, options, projection, bias)
    price = torch.zeros(num_experts, dtype=logits.dtype) if price is None else price
    rows, indices, margins = [], [], []
    for token in logits:
        chosen, weights, margin = _route_token(token, price, options, temperature, gap)
        absent = k - len(chosen)
        indices.append(chosen + [num_experts] * absent)
        rows.append(torch.cat([weights, weights.new_zeros(absent)]))
        margins.append(margin)
    empty = logits.new_zeros(0, k)
    return (
        torch.tensor(indices, dtype=torch.int64).reshape(-1, k),
        torch.stack(rows) if rows else empty,
        logits,
        torch.tensor(margins),
    )


def _ranked(scores: Tensor, k: int) -> tuple[list[int], float]:
    """The k best, best first and lower index on ties, and the least distance of neighbours."""
    values = scores.detach().tolist()
    order = sorted(range(len(values)), key=lambda e: (-values[e], e))
    steps = [values[a] - values[b] for a, b in itertools.pairwise(order[: k + 1])]
    return order[:k], min(steps, default=math.inf)


def _route_token(
    logits: Tensor, price: Tensor, options: RouterOptions, temperature: Any, gap: Any
) -> tuple[list[int], Tensor, float]:
    k = options.top_k
    if options.mode == "hamiltonian":
        scores = logits - price
        chosen, margin = _ranked(scores, k)
        if options.budgeted:
            values = scores.detach().tolist()
            excitation = [values[chosen[0]] - values[e] for e in chosen]
            margin = min([margin, *(abs(x - float(gap)) for x in excitation[1:])])
            chosen = [e for e, x in zip(chosen, excitation, strict=True) if x <= float(gap) or e == chosen[0]]
        scale = logits.new_ones(()) if temperature is None else temperature.squeeze()
        return chosen, (logits[chosen] / scale.clamp_min(options.temperature_floor)).softmax(0), margin
    if options.mode == "mixtral":
        probabilities = logits.softmax(0)
        chosen, margin = _ranked(logits, k)
    else:
        probabilities = logits.sigmoid()
        scores = probabilities.detach() + price
        groups, kept = options.num_groups, options.top_k_groups
        margin_groups = math.inf
        if groups > 1:
            members = scores.reshape(groups, -1)
            best = members.topk(min(2, members.shape[1]), dim=1).values.sum(1)
            allowed, margin_groups = _ranked(best, kept)
            mask = torch.full_like(members, -math.inf)
            mask[allowed] = 0
            scores = scores + mask.reshape(-1)
        chosen, margin = _ranked(scores, k)
        margin = min(margin, margin_groups)
    weights = probabilities[chosen]
    if options.normalize_top_k:
        weights = weights / (weights.sum() + (1e-20 if options.mode == "deepseek" else 0))
    return chosen, weights * options.scaling_factor, margin


def activate(
    z: Tensor, activation: str, gated: bool, interleaved: bool, alpha: float, limit: float
) -> Tensor:
    if not gated:
        return _act(z, activation)
    alpha, limit = float(np.float32(alpha)), float(np.float32(limit))  # as the C struct has them
    gate, up = (z[..., 0::2], z[..., 1::2]) if interleaved else z.chunk(2, dim=-1)
    if activation == "clipped_swiglu":
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + 1) * gate * torch.sigmoid(alpha * gate)
    if activation == "clipped_silu":
        return up.clamp(-limit, limit) * F.silu(gate.clamp(max=limit))
    return _act(gate, activation) * up


def _act(z: Tensor, activation: str) -> Tensor:
    return {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "relu": F.relu,
        "relu_squared": lambda z: F.relu(z).square(),
        "quick_gelu": lambda z: z * torch.sigmoid(1.702 * z),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "identity": lambda z: z,
    }[activation](z)


def experts(
    x: Tensor,
    index: Tensor,
    weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: str = "silu",
    gated: bool = True,
    interleaved: bool = False,
    alpha: float = 1.702,
    limit: float = 7.0,
    gate_up_scale: Tensor | None = None,
    down_scale: Tensor | None = None,
) -> Tensor:
    """[T, H], differentiable; with scales, which belong to projections in float8_e4m3fn, it is not."""
    rounded = gate_up_scale is not None
    if gate_up_scale is not None and down_scale is not None:
        gate_up_proj, down_proj = decode(gate_up_proj, gate_up_scale), decode(down_proj, down_scale)
        x = round_e4m3(x)
    rows = []
    for token, chosen, gates in zip(x, index.tolist(), weights, strict=True):
        row = torch.zeros_like(token)
        for e, gate in zip(chosen, gates, strict=True):
            if e >= gate_up_proj.shape[0]:
                continue
            z = gate_up_proj[e] @ token
            z = z if gate_up_bias is None else z + gate_up_bias[e]
            h = activate(z, activation, gated, interleaved, alpha, limit)
            h = down_proj[e] @ (round_e4m3(h[None])[0] if rounded else h)
            row = row + gate * (h if down_bias is None else h + down_bias[e])
        rows.append(row)
    return torch.stack(rows) if rows else torch.zeros_like(x)


def decode(quantized: Tensor, scale: Tensor) -> Tensor:
    """[E, R, C]: each number of a weight in float8_e4m3fn times the scale of its block of 128 x 128."""
    _, rows, columns = quantized.shape
    spread = scale.double().repeat_interleave(128, 1)[:, :rows].repeat_interleave(128, 2)[:, :, :columns]
    return quantized.double() * spread


def round_e4m3(rows: Tensor) -> Tensor:
    """Rows of float64, each block of 128 columns rounded to e4m3 with a scale of its own, in float32."""
    blocks = []
    for block in rows.float().split(128, 1):
        s = (block.abs().amax(1, keepdim=True) / 448).float()
        s = torch.where(s == 0, 1, s)
        blocks.append((block / s).to(torch.float8_e4m3fn).double() * s.double())
    return torch.cat(blocks, 1) if blocks else rows


def tie_margin(rows: Tensor) -> float:
    """How far the numbers that :func:`round_e4m3` rounds are from a tie, in steps of e4m3."""
    margins = [torch.tensor(1.0)]
    for block in rows.double().split(128, 1):
        s = block.abs().amax(1, keepdim=True) / 448
        v = (block / torch.where(s == 0, 1, s)).abs()
        step = 2.0 ** (v.clamp(min=2.0**-6).log2().floor() - 3)
        margins.append((v / step % 1 - 0.5).abs().min())
    return float(torch.stack([m.double() for m in margins]).min())


def occupation(field: Tensor, k: float, tau: float) -> tuple[Tensor, Tensor]:
    """p [T, E] = 1/(1 + exp((field - theta_t)/tau)) with theta_t [T, 1] such that each row sums to k, by bisection."""
    low = field.amin(1, keepdim=True) - 50 * tau
    high = field.amax(1, keepdim=True) + 50 * tau
    for _ in range(80):
        theta = (low + high) / 2
        below = torch.sigmoid((theta - field) / tau).sum(1, keepdim=True) < k
        low, high = torch.where(below, theta, low), torch.where(below, high, theta)
    return torch.sigmoid((theta - field) / tau), theta


def batch_price(logits: Tensor, options: RouterOptions) -> Tensor:
    """The prices mu_e = lambda (rho_e/pi - 1) of the optimum of H over the batch, by a plain damped iteration."""
    k, tau, penalty = options.top_k, options.entropy_temperature, options.load_penalty
    share = k / logits.shape[1]
    step = 1 / (1 + penalty / (4 * share * tau))
    price = torch.zeros(logits.shape[1], dtype=torch.float64)
    for _ in range(5000):
        p, _ = occupation(price - logits, k, tau)
        residual = penalty * (p.mean(0) / share - 1) - price
        price = price + step * residual
        if residual.abs().max() < 1e-13:
            return price
    raise RuntimeError("the batch prices did not settle")


def choose(logits: Tensor, options: RouterOptions, price: Tensor | None) -> tuple[Tensor, Tensor]:
    """(index [T, K], margin [T]) of given logits."""
    price = torch.zeros(logits.shape[1], dtype=torch.float64) if price is None else price
    routed = [_route_token(token, price, options, None, None) for token in logits]
    return torch.tensor([chosen for chosen, _, _ in routed]), torch.tensor([margin for *_, margin in routed])


def update(
    options: RouterOptions,
    counts: Tensor,
    price: Tensor,
    gap: Tensor | None,
    num_tokens: int,
    rate: float,
    step_limit: float,
    budget: float,
    gap_rate: float,
) -> tuple[Tensor, Tensor | None]:
    """(price, gap) after the step."""
    if num_tokens == 0:
        return price, gap
    loads = counts.double()
    if options.mode == "deepseek":
        price = price + rate * torch.sign(loads.mean() - loads)
    elif rate > 0:
        step = rate * (loads / loads.mean() - 1 - price / options.load_penalty)
        price = price + step.clamp(-step_limit, step_limit)
        price = price - price.mean()
    if gap is not None:
        gap = (gap + gap_rate * (budget - loads.sum() / num_tokens)).clamp_min(0)
    return price, gap


def report(
    options: RouterOptions,
    logits: Tensor,
    top_k_index: Tensor,
    price: Tensor | None,
    previous_index: Tensor | None,
) -> dict[str, float]:
    """The numbers of a report on a routing by hamiltonian or mixtral with every slot present."""
    tokens, experts = logits.shape
    k, tau = options.top_k, options.entropy_temperature
    share = k / experts
    mu = torch.zeros(experts, dtype=torch.float64) if price is None else price
    field = mu - logits
    p, _ = occupation(field, k, tau)
    bind = (p * -logits).sum(1).mean()
    entropy = -tau * -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum(1).mean()
    cost = options.load_penalty / 2 * share * (p.mean(0) / share - 1).square().sum()
    member = torch.zeros_like(logits, dtype=torch.bool).scatter(1, top_k_index, True)
    loads = member.sum(0).double()
    excess = loads / loads.mean() - 1
    softmax = logits.softmax(1)
    margin = field.masked_fill(member, math.inf).amin(1) - field.masked_fill(~member, -math.inf).amax(1)
    marginal = softmax.mean(0)
    numbers = {
        "energy_bind": bind,
        "energy_entropy": entropy,
        "energy_cost": cost,
        "energy": bind + entropy + cost,
        "max_violation": excess.max(),
        "load_cv": excess.square().mean().sqrt(),
        "dead_share": (loads == 0).double().mean(),
        "token_entropy": -torch.xlogy(softmax, softmax).sum(1).mean(),
        "marginal_entropy": -torch.xlogy(marginal, marginal).sum(),
        "price_min": mu.min(),
        "price_max": mu.max(),
        "top_k_margin": margin.mean(),
        "mean_active": member.sum() / tokens,
        "churn": -1.0 if previous_index is None else (~member.gather(1, previous_index)).double().mean(),
        "non_finite_tokens": 0,
    }
    return {name: float(value) for name, value in numbers.items()}


def descend(
    x: Tensor, index: Tensor, root: Tensor, children: Any, direction: Any, threshold: Any, num_slots: int
) -> tuple[Tensor, Tensor, float]:
    """(slot_index, slot_counts, margin): margin is how close a token comes to a plane it does not lie on."""
    rows, margins = [], [math.inf]
    for token, clans in zip(x.double(), index.tolist(), strict=True):
        row = []
        for clan in clans:
            value = num_slots if clan >= len(root) else int(root[clan])
            while value < 0:
                beyond = float(direction[~value].double() @ token - threshold[~value].double())
                if beyond != 0:
                    margins.append(abs(beyond))
                value = int(children[~value, int(beyond >= 0)])
            row.append(value)
        rows.append(row)
    slots = torch.tensor(rows, dtype=index.dtype).reshape(index.shape)
    counts = torch.bincount(slots.long().flatten(), minlength=num_slots + 1)[:num_slots]
    return slots, counts, min(margins)


HISTOGRAM_BINS = 64


def observe(
    x: Tensor,
    index: Tensor,
    sums: dict[str, Tensor],
    *,
    num_slots: int,
    binding: Tensor | None = None,
    mean: Tensor | None = None,
    axis: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[dict[str, Tensor], float]:
    """(the sums afterwards, margin): margin is how close a token comes to the border of a bin of the histogram."""
    after, margins = {name: value.clone() for name, value in sums.items()}, [math.inf]

    def add(name: str, slot: int, value: Any) -> None:
        if name in after:
            after[name][slot] += value

    for t, token in enumerate(x.double()):
        for k, slot in enumerate(index[t].tolist()):
            if slot >= num_slots:
                continue
            if not token.isfinite().all():
                add("skipped", slot, 1)
                continue
            d = token if mean is None else token - mean[slot]
            add("tokens", slot, 1)
            add("sum", slot, token)
            add("square", slot, d @ d)
            if binding is not None:
                add("binding_sum", slot, binding[t, k].double())
            if axis is not None:
                along = d @ axis[slot]
                add("power", slot, along * d)
            if scale is not None:
                position = float((along / scale[slot] + 1) * HISTOGRAM_BINS / 2)
                margins.append(abs(position - round(position)))
                if "histogram" in after:
                    after["histogram"][slot, min(max(math.floor(position), 0), HISTOGRAM_BINS - 1)] += 1
    return after, min(margins)
