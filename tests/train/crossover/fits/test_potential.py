"""Data potential: planted ratios are recovered within their intervals, and nothing is extrapolated."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.tests.train.crossover.fits import coverage
from epochal.train.crossover.fits.potential import match, potential

BUDGETS = [25_000, 50_000, 100_000, 400_000]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(ratio=st.floats(1.2, 7.0), seed=st.integers(0, 2**32))
def test_a_planted_data_potential_is_recovered_from_noise(ratio, seed):
    """AR's loss is straight over the logarithm of unique tokens; MDM at 50k has AR's loss at `ratio` times as many."""
    rng = np.random.default_rng(seed)

    def loss(n: float) -> list[float]:
        return list(6 - 0.5 * math.log(n / 1000) + rng.normal(0, 0.005, 3))

    found = potential({n: loss(n) for n in BUDGETS}, {50_000: loss(50_000 * ratio)}, 50_000)
    assert found.sign == "="
    assert found.ratio == pytest.approx(ratio, rel=0.05)  # 0.02 nats of error are 4 % of tokens
    assert found.low <= found.ratio <= found.high
    assert found.high / found.low < 1.2


def test_a_data_potential_outside_the_budgets_is_not_extrapolated():
    ar = {n: [6 - 0.5 * math.log(n / 1000)] for n in BUDGETS}
    more, less = potential(ar, {50_000: [0.1]}, 50_000), potential(ar, {50_000: [9.0]}, 50_000)
    assert (more.sign, more.ratio) == (">", 8.0)
    assert (less.sign, less.ratio) == ("<", 0.5)
    assert math.isnan(more.low)  # one draw at each budget
    three = {n: [value[0] + d for d in (-0.01, 0, 0.01)] for n, value in ar.items()}
    more, less = (potential(three, {50_000: [x, x + 0.01, x - 0.01]}, 50_000) for x in (0.1, 9.0))
    assert (more.low, less.high) == (math.inf, 0.0)
    accuracy = {n: [math.log(n)] for n in BUDGETS}
    assert potential(accuracy, {50_000: [math.log(100_000)]}, 50_000, lower_is_better=False).ratio == pytest.approx(2)


def test_the_match_is_the_first_budget_that_is_enough():
    assert match([10, 100, 1000], [3.0, 2.0, 2.5], 2.2, True) == pytest.approx(10 ** (1 + 0.8))
    assert match([10, 100], [3.0, 2.0], 2.0, True) == pytest.approx(100)


def test_an_interval_needs_two_degrees_of_freedom_of_each_type():
    ar = {n: [6 - 0.5 * math.log(n / 1000)] for n in BUDGETS}
    ar[25_000] *= 2
    assert math.isnan(potential(ar, {50_000: [4.0, 4.1, 4.2]}, 50_000).low)
    ar[25_000] = [ar[25_000][0] + d for d in (-0.02, 0.0, 0.02)]
    found = potential(ar, {50_000: [4.0, 4.1, 4.2]}, 50_000)
    assert found.low < found.ratio < found.high
    assert potential(ar, {50_000: [4.0, 4.1, 4.2]}, 50_000, error=0.1).high > found.high


@pytest.mark.slow
def test_the_interval_of_a_multiple_holds_the_truth_as_often_as_it_says():
    assert coverage.of_multiple(3, 400).share >= 0.92
