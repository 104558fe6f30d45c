"""Laws of the benchmark's statistics."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.pipeline.statistics import (
    TOO_SMALL,
    bootstrap,
    bootstrap_ratio,
    break_even,
    efficiency,
    percentiles,
    realization,
)
from hypothesis import given
from hypothesis import strategies as st

times = st.floats(0.01, 1e4)
shares = st.floats(0.0, 0.95)


@given(times, shares)
def test_realization_is_one_at_the_ideal_and_zero_at_dense(dense, share):
    assert realization(dense, dense * share, share) == pytest.approx(1)
    assert realization(dense, dense, share) == pytest.approx(0, abs=1e-9)


@given(times, times, st.floats(0.951, 1.0))
def test_realization_is_not_given_where_nothing_is_left_to_save(dense, adaptive, share):
    assert realization(dense, adaptive, share) is None


@given(times, st.floats(0.01, 0.95), st.floats(1.0, 10.0))
def test_realization_and_efficiency_lie_between_0_and_1_from_dense_to_ideal(dense, share, slack):
    adaptive = min(dense, dense * share * slack)
    gained = realization(dense, adaptive, share)
    assert gained is not None
    assert efficiency(dense, adaptive, share) <= 1 + 1e-9
    assert 0 - 1e-9 <= gained <= 1 + 1e-9


pairs = st.lists(st.tuples(times, times), min_size=1, max_size=20)


@given(pairs, st.integers(0, 5))
def test_bootstrap_interval_contains_the_point_and_stays_in_range(samples, seed):
    above, below = np.array(samples).T
    ratio = bootstrap_ratio(above, below, draws=200, seed=seed)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(above.sum() / below.sum())
    each = above / below
    assert each.min() * (1 - 1e-9) <= ratio.low and ratio.high <= each.max() * (1 + 1e-9)


@given(times, times)
def test_bootstrap_interval_of_equal_samples_is_the_point(above, below):
    ratio = bootstrap_ratio([above] * 5, [below] * 5, draws=100)
    assert ratio.low == pytest.approx(ratio.high)


def test_bootstrap_interval_covers_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        below = random.lognormal(0.0, 0.3, 30)
        above = 2 * random.lognormal(0.0, 0.3, 30)
        ratio = bootstrap_ratio(above, below, draws=300, seed=seed)
        covered += ratio.low <= 2 <= ratio.high
    assert 0.88 <= covered / 200 <= 0.99


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-10, 10))
def test_the_interval_of_a_mean_moves_with_its_samples(samples, shift):
    values = np.array(samples)
    low, high = bootstrap(lambda weights: weights @ values, len(values), draws=50)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    moved = bootstrap(lambda weights: weights @ (values + shift), len(values), draws=50)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


def test_bootstrap_refuses_samples_that_are_not_pairs():
    with pytest.raises(ValueError, match="paired"):
        bootstrap_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("n", "known"), [(1, {"p50"}), (63, {"p50"}), (64, {"p50", "p90"}), (662, {"p50", "p90", "p99"})]
)
def test_percentiles_are_given_only_where_the_samples_support_them(n, known):
    found = percentiles(np.arange(n, dtype=float))
    assert {name for name, value in found.items() if value != TOO_SMALL} == known
    assert found["p50"] == pytest.approx((n - 1) / 2)


def test_break_even_lies_where_the_lines_cross():
    active = [0.0, 0.25, 0.5, 0.75, 1.0]
    adaptive = [2.0, 6.0, 10.0, 14.0, 18.0]
    assert break_even(active, [8.0] * 5, adaptive) == pytest.approx(0.375)
    assert break_even(active[::-1], [8.0] * 5, adaptive[::-1]) == pytest.approx(0.375)
    assert break_even(active, [20.0] * 5, adaptive) == 1.0
    assert break_even(active, [1.0] * 5, adaptive) == 0.0


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 30))
def test_break_even_solves_a_linear_cost_exactly(fixed, slope, dense):
    active = np.linspace(0, 1, 11)
    expected = float(np.clip((dense - fixed) / slope, 0, 1))
    assert break_even(active, np.full(11, dense), fixed + slope * active) == pytest.approx(expected, abs=1e-6)
