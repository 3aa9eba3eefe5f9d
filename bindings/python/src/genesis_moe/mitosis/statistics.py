"""What the sums of a window say: directions, medians, and whether tokens fall into two groups."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HALF_WIDTH = 4.0  # standard deviations that half of a histogram covers
_SEED = 20_261


class Fit(NamedTuple):
    """The result of one window, by slot, float64. Slots without tokens keep what they had."""

    mean: Tensor
    """[S, H]: of the window's tokens."""
    axis: Tensor
    """[S, H]: one power iteration on from the axis that the window used."""
    scale: Tensor
    """[S]: half-width of the next histogram."""
    threshold: Tensor
    """[S]: the median of <axis, x>, for the axis that the window used; NaN without tokens."""
    gain: Tensor
    """[S]: the share of the variance along that axis that two groups explain."""
    center: Tensor
    """[S]: the mean along that axis, from the mean that the window used."""
    deviation: Tensor
    """[S]: the standard deviation along that axis."""


def fit(
    tokens: Tensor, total: Tensor, power: Tensor, histogram: Tensor, mean: Tensor, axis: Tensor, scale: Tensor
) -> Fit:
    """The window's result from its sums; see ``genesis_moe.functional.observe`` for their meaning.

    power is about the mean that the window used, so what its distance d to the true mean adds
    is taken off: C a = power/n - d <d, a>.
    """
    count = tokens.clamp_min(1)[:, None]
    seen = tokens > 0
    distance = total / count - mean
    center = (distance * axis).sum(dim=1)
    product = power / count - distance * center[:, None]
    length = product.norm(dim=1)
    variance = (axis * product).sum(dim=1).clamp_min(0)
    moved = seen & (length > 1e-30) & length.isfinite()
    new_axis = torch.where(moved[:, None], product / length.clamp_min(1e-30)[:, None], axis)
    new_scale = torch.where(moved, HALF_WIDTH * length.sqrt(), scale)
    medians = (axis * mean).sum(dim=1) + _median(histogram) * scale
    return Fit(
        torch.where(seen[:, None], total / count, mean),
        new_axis,
        new_scale,
        torch.where(seen, medians, torch.full_like(medians, math.nan)),
        _gain(histogram),
        center,
        variance.sqrt(),
    )


def null_gain(
    tokens: int, center: float, deviation: float, scale: float, percentile: float, samples: int
) -> float:
    """The percentile of the gain of normal samples, seen through the same histogram."""
    if not (tokens > 0 and deviation > 0 and scale > 0):
        return math.inf
    bins = 64
    edges = np.linspace(-1, 1, bins + 1)[1:-1] * scale
    below = np.array([0.5 * (1 + math.erf((e - center) / (deviation * math.sqrt(2)))) for e in edges])
    shares = np.diff(np.concatenate([[0.0], below, [1.0]])).clip(min=0)
    # The same seed for the same question: every rank and every resumed run draws alike.
    draws = np.random.default_rng([_SEED, tokens]).multinomial(tokens, shares / shares.sum(), size=samples)
    gains = _gain(torch.from_numpy(draws).double())
    return float(np.percentile(gains.numpy(), percentile))


def _median(histogram: Tensor) -> Tensor:
    """In units of the scale, linear inside its bin. [S, B] -> [S]."""
    bins = histogram.shape[1]
    below = histogram.cumsum(dim=1)
    half = below[:, -1:] / 2
    place = (below < half).sum(dim=1, keepdim=True).clamp_max(bins - 1)
    inside = histogram.gather(1, place)
    before = below.gather(1, place) - inside
    share = torch.where(inside > 0, (half - before) / inside.clamp_min(1e-30), torch.full_like(half, 0.5))
    return ((place + share) * (2 / bins) - 1).squeeze(1)


def _gain(histogram: Tensor) -> Tensor:
    """1-D 2-means: the largest between-group share of the variance (2/pi for a normal). [S, B] -> [S]."""
    bins = histogram.shape[1]
    centers = (torch.arange(bins, dtype=histogram.dtype) + 0.5) * (2 / bins) - 1
    centers = centers.to(histogram.device)
    count = histogram.sum(dim=1, keepdim=True).clamp_min(1)
    share = histogram / count
    mean = (share * centers).sum(dim=1, keepdim=True)
    variance = (share * (centers - mean) ** 2).sum(dim=1)
    left = share.cumsum(dim=1)[:, :-1]
    left_sum = (share * centers).cumsum(dim=1)[:, :-1]
    between = (mean * left - left_sum) ** 2 / (left * (1 - left)).clamp_min(1e-12)
    best = between.max(dim=1).values
    return torch.where(variance > 0, best / variance.clamp_min(1e-30), torch.zeros_like(best))


def first_axis(slots: int, width: int) -> Tensor:
    """Where power iterations begin: [slots, width] unit vectors, the same in every process."""
    numbers = np.random.default_rng([_SEED, slots, width]).standard_normal((slots, width))
    axis = torch.from_numpy(numbers)
    unit: Tensor = axis / axis.norm(dim=1, keepdim=True)
    return unit


def outlying(values: Tensor, spread: float) -> Tensor:
    """How far above median + spread * MAD each value is, in MADs; below 0 it is not. NaN stays out."""
    finite = values[values.isfinite()]
    if finite.numel() < 2:
        return torch.full_like(values, -1.0)
    middle = finite.quantile(0.5)
    mad = (finite - middle).abs().quantile(0.5)
    excess = (values - middle - spread * mad) / mad.clamp_min(1e-12)
    return torch.where(values > middle + spread * mad, excess, torch.full_like(values, -1.0))
