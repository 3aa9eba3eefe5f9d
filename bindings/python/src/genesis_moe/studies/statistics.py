"""Paired comparisons of a few seeds: Student's t, intervals, equivalence.

With three seeds a difference has two degrees of freedom, so the quantiles are computed
exactly rather than read from a normal table (which would claim intervals half as wide).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def t_distribution(t: float, degrees: int) -> float:
    """P(T <= t) of Student's t, by the finite series for whole degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if degrees < 1:
        raise ValueError(f"degrees: {degrees}, want at least 1")
    theta = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for j in range(3, degrees - 1, 2):
            term *= cosine * cosine * (j - 1) / j
            total += term
        between = 2 / math.pi * (theta + sine * total)
    else:
        term = total = 1.0
        for j in range(2, degrees - 1, 2):
            term *= cosine * cosine * (j - 1) / j
            total += term
        between = sine * total
    return 0.5 + between / 2


def t_quantile(probability: float, degrees: int) -> float:
    """The t with P(T <= t) = probability, by bisection to double precision."""
    if not 0 < probability < 1:
        raise ValueError(f"probability: {probability}, want a value between 0 and 1")
    low, high = -1.0, 1.0
    while t_distribution(low, degrees) > probability:
        low *= 2
    while t_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if t_distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its 95 % interval and its verdict.

    half_width is None with fewer than two pairs: one pair says nothing about spread.
    equivalent: both one-sided t-tests at 5 % reject a difference beyond the margin (TOST),
    which is the same as the 90 % interval lying inside +-margin. no_worse: the upper of the two
    alone does, so that the difference is below the margin (non-inferiority).
    """

    mean: float
    half_width: float | None
    pairs: int
    equivalent: bool | None
    no_worse: bool | None


def paired(values: Sequence[float], baseline: Sequence[float], margin: float) -> Difference:
    """Compares two arms seed by seed. `margin` is the equivalence margin, in their unit."""
    if len(values) != len(baseline) or not values:
        raise ValueError(f"values: {len(values)} against {len(baseline)}, want equally many, >= 1")
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return Difference(mean, None, count, None, None)
    variance = sum((difference - mean) ** 2 for difference in differences) / (count - 1)
    error = math.sqrt(variance / count)
    one_sided = t_quantile(0.95, count - 1) * error
    return Difference(
        mean,
        t_quantile(0.975, count - 1) * error,
        count,
        equivalent=abs(mean) + one_sided < margin,
        no_worse=mean + one_sided < margin,
    )
