"""Crossovers and data-potential ratios: planted ones are found, and where there is none none is found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.train.crossover.fits.estimate import HOLD, Pair, crossover, curve, lead, match, overtakes, potential

BUDGET = 1e6


def planted(at: float, noise: float, pairs: int, seed: int, points: tuple[int, int] = (20, 20)) -> list[Pair]:
    """Return pairs whose AR loss turns up, and whose MDM loss is AR's minus a lead of 1e-6 nats per token beyond `at`.

    AR and MDM are evaluated at different numbers of places, both up to the budget.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(pairs):
        curves = []
        for n, slope in zip(points, (0.0, 1e-6), strict=True):
            x = np.append((np.arange(n - 1) + rng.uniform(0.1, 0.9, n - 1)) / n, 1.0) * BUDGET
            loss = 4 + 3 * np.square(x / BUDGET - 0.3) - slope * (x - at)
            curves.append(curve(x, loss + rng.normal(0, noise, len(x))))
        found.append(Pair(*curves))
    return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    at=st.floats(0.15, 0.8),
    pairs=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    points=st.tuples(st.integers(15, 40), st.integers(15, 40)),
)
def test_a_planted_crossover_is_recovered_from_noise(at, pairs, seed, points):
    noise = 0.01  # moves the root of a lead of slope 1e-6 by 1e4 tokens
    found = crossover(planted(at * BUDGET, noise, pairs, seed, points))
    assert found is not None
    assert found.status == "crosses"
    # Straight lines between distant evaluations cost up to 3/8 of a squared gap, in nats, beside the noise.
    gap = max(np.diff(c.tokens, prepend=0).max() for p in planted(at * BUDGET, 0, pairs, seed, points) for c in p) / 1e6
    assert found.tokens == pytest.approx(at * BUDGET, abs=(8 * noise + 3 * gap**2) * 1e6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), behind=st.floats(0.1, 1.0), pairs=st.integers(1, 4))
def test_where_mdm_stays_behind_there_is_none(seed, behind, pairs):
    x = np.linspace(0.05, 1, 20) * BUDGET
    rng = np.random.default_rng(seed)
    ar = [curve(x, 3 + rng.normal(0, 0.01, 20)) for _ in range(pairs)]
    mdm = [curve(x, 3 + behind + rng.normal(0, 0.01, 20), 0.005) for _ in range(pairs)]
    found = crossover([Pair(a, m) for a, m in zip(ar, mdm, strict=True)])
    assert found is not None
    assert (found.status, found.tokens, found.share) == ("none", None, 0.0)
    assert all(own is None for own in found.pairs)
    assert pairs == 1 or (found.low, found.high) == (math.inf, math.inf)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_metric_where_more_is_better_is_the_mirror_image(seed):
    pairs = planted(0.5 * BUDGET, 0.02, 3, seed)
    mirrored = [Pair(*(c._replace(values=-c.values) for c in pair)) for pair in pairs]
    a, b = crossover(pairs), crossover(mirrored, lower_is_better=False)
    assert a == b


X = np.arange(1.0, 7.0)


@pytest.mark.parametrize(
    ("leads", "expected"),
    [
        ([-3, -1, 1, 2, 2, 2], 2.5),
        ([-3, 1, -1, 1, 2, 2], 3.5),  # the first time it did not stay
        ([1, 1, 1, -1, -1, -1], None),  # came and went
        ([-1, -1, -1, -1, -1, 1], None),  # at the last evaluation alone
        ([-1, -1, -1, -1, 1, 1], 4.5),
        ([-1, -1, 0, 1, 1, 1], 3.0),  # a tie is no lead
        ([1, 2, 1, 2, 1, 2], -math.inf),
        ([0, 0, 0, 0, 0, 0], None),
    ],
)
def test_overtaking_means_staying_ahead(leads, expected):
    assert overtakes(X, np.array(leads, float)) == expected
    assert HOLD == 2


def test_curves_with_other_evaluations_are_compared_where_both_are_known():
    ar = curve([0, 4, 8], [1, 5, 9])
    mdm = curve([2, 3, 10], [4, 4, 4])
    at, leads = lead(Pair(ar, mdm), lower_is_better=True)
    assert at.tolist() == [2, 3, 4, 8]
    assert leads.tolist() == [-1, 0, 1, 5]
    found = crossover([Pair(ar, mdm)])
    assert (found.status, found.tokens, found.budget) == ("crosses", 3.0, 8.0)
    assert crossover([Pair(curve([1, 2], [1, 1]), curve([3, 4], [1, 1]))]) is None


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says_and_is_reproducible():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Every draw of data has its own crossover; the mean lead's is the mean of them.
        pairs = [planted(BUDGET * (0.5 + rng.normal(0, 0.05)), 0.0, 1, 17)[0] for _ in range(10)]
        found = crossover(pairs, seed=seed)
        hits += found.low <= 0.5 * BUDGET <= found.high
        assert found.low <= found.tokens <= found.high
    assert 33 <= hits <= 40  # a percentile bootstrap of ten is a little narrow
    assert crossover(pairs, seed=3) == crossover(pairs, seed=3)


def test_an_interval_reaches_beyond_the_budget_where_resamples_do_not_cross():
    late, never = planted(0.9 * BUDGET, 0, 1, 0, (30, 30))[0], planted(1.2 * BUDGET, 0, 1, 0, (30, 30))[0]
    found = crossover([late, late, never])
    assert found.high == math.inf
    assert 0 < found.share < 1
    assert found.pairs[2] is None


def test_the_noise_of_a_bound_widens_the_interval():
    pairs = planted(0.5 * BUDGET, 0.0, 3, 5)
    noisy = [Pair(p.ar, p.mdm._replace(se=0.1)) for p in pairs]
    narrow, wide = crossover(pairs), crossover(noisy)
    assert wide.high - wide.low > 1e5 > narrow.high - narrow.low
    assert wide.tokens == narrow.tokens


@pytest.mark.parametrize(
    "values", [([1, 2], [1]), ([2, 1], [1, 1]), ([1, 1], [1, 1]), ([1, 2], [1, math.nan]), ([], [])]
)
def test_what_is_no_curve_is_refused(values):
    with pytest.raises(ValueError, match="curve"):
        curve(*values)


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
    assert found.high / found.low < 1.15


def test_a_data_potential_outside_the_budgets_is_not_extrapolated():
    ar = {n: [6 - 0.5 * math.log(n / 1000)] for n in BUDGETS}
    more, less = potential(ar, {50_000: [0.1]}, 50_000), potential(ar, {50_000: [9.0]}, 50_000)
    assert (more.sign, more.ratio, more.low) == (">", 8.0, math.inf)
    assert (less.sign, less.ratio, less.high) == ("<", 0.5, 0.0)
    accuracy = {n: [math.log(n)] for n in BUDGETS}
    assert potential(accuracy, {50_000: [math.log(100_000)]}, 50_000, lower_is_better=False).ratio == pytest.approx(2)


def test_the_match_is_the_first_budget_that_is_enough():
    assert match([10, 100, 1000], [3.0, 2.0, 2.5], 2.2, True) == pytest.approx(10 ** (1 + 0.8))
    assert match([10, 100], [3.0, 2.0], 2.0, True) == pytest.approx(100)
