"""Student's t against tabulated values, and the paired comparison against hand counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_moe.studies.statistics import paired, t_distribution, t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "want"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 4, 2.7764),
        (0.95, 2, 2.9200), (0.95, 5, 2.0150), (0.99, 10, 2.7638), (0.975, 30, 2.0423),
    ],
)  # fmt: skip
def test_quantiles_agree_with_tables(probability, degrees, want):
    assert t_quantile(probability, degrees) == pytest.approx(want, abs=5e-5)


@given(st.floats(0.001, 0.999), st.integers(1, 40))
def test_quantile_inverts_the_distribution(probability, degrees):
    assert t_distribution(t_quantile(probability, degrees), degrees) == pytest.approx(probability, abs=1e-9)


@given(st.floats(-50, 50), st.integers(1, 40))
def test_distribution_is_symmetric(t, degrees):
    assert t_distribution(t, degrees) + t_distribution(-t, degrees) == pytest.approx(1)


def test_paired_by_hand():
    found = paired([1.0, 2.0, 3.0], [0.9, 2.1, 2.7], margin=0.01)
    # Differences 0.1, -0.1, 0.3: mean 0.1, standard deviation 0.2.
    assert found.mean == pytest.approx(0.1)
    assert found.half_width == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert found.pairs == 3
    assert found.equivalent is False


def test_equivalence_needs_little_spread_and_a_small_mean():
    assert paired([1.001, 1.002, 1.003], [1.0, 1.0, 1.0], margin=0.01).equivalent
    assert not paired([1.001, 1.002, 1.003], [1.0, 1.0, 1.0], margin=0.002).equivalent
    assert not paired([1.0, 1.02, 0.98], [1.0, 1.0, 1.0], margin=0.01).equivalent


def test_no_worse_looks_at_one_side_only():
    # Mean -0.0513, one-sided half width 2.92 * 0.0253 / sqrt(3) = 0.0427: far below, and far from equal.
    far_below = paired([0.92, 0.97, 0.956], [1.0, 1.0, 1.0], margin=0.01)
    assert far_below.no_worse and not far_below.equivalent
    assert not paired([1.08, 1.03, 1.044], [1.0, 1.0, 1.0], margin=0.01).no_worse
    assert not paired([0.97, 1.0, 1.02], [1.0, 1.0, 1.0], margin=0.01).no_worse


def test_one_pair_has_no_interval():
    found = paired([1.0], [2.0], margin=0.01)
    assert (found.mean, found.half_width, found.equivalent, found.no_worse) == (-1.0, None, None, None)


@pytest.mark.parametrize(("values", "baseline"), [([], []), ([1.0], [1.0, 2.0])])
def test_unequal_pairs_are_refused(values, baseline):
    with pytest.raises(ValueError, match="values: "):
        paired(values, baseline, margin=0.01)
