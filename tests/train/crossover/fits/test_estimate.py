"""Crossovers: planted ones are found, and where there is none none is found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.tests.train.crossover.fits import coverage
from epochal.train.crossover.fits.estimate import HOLD, Pair, crossover, curve, lead, overtakes, wobble

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
    assert (found.status, found.tokens) == ("none", None)
    assert all(own is None for own in found.pairs)
    assert math.isnan(found.low) if pairs < 3 else (found.low, found.high) == (math.inf, math.inf)


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
@pytest.mark.parametrize(("pairs", "before"), [(3, 0.80), (5, 0.90)])
def test_the_interval_holds_the_truth_as_often_as_it_says(pairs, before):
    """Seeded, so that it is the same every time; a standard error is 1.1 points."""
    assert coverage.of_crossover(pairs, 400).share >= 0.92
    assert coverage.of_bootstrap(pairs, 400, resamples=200).share < before  # the simulation tells them apart


def test_below_three_pairs_there_is_no_interval():
    for n in (1, 2):
        found = crossover(planted(0.5 * BUDGET, 0.0, n, 3))
        assert found.status == "crosses"
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert math.isnan(found.final_half_width)


def test_an_interval_reaches_beyond_the_budget_where_the_lead_may_not_come():
    late, never = planted(0.9 * BUDGET, 0, 1, 0, (30, 30))[0], planted(1.2 * BUDGET, 0, 1, 0, (30, 30))[0]
    found = crossover([late, late, never])
    assert found.high == math.inf
    assert found.pairs[2] is None


def test_a_lone_evaluation_behind_by_a_hair_ends_no_lead():
    x = np.arange(1.0, 13.0) * 1e5
    leads = np.array([-4, -3, -2, -1, 1.05, 1.95, 3.05, 3.95, 5.05, 5.95, 7.0, -0.01])
    pair = Pair(curve(x, 10 + leads), curve(x, np.full(12, 10.0)))
    assert wobble(leads) > 0.005
    found = crossover([pair])
    assert (found.status, found.pairs) == ("crosses", (found.tokens,))
    assert 4e5 < found.tokens < 5e5
    assert overtakes(x, leads) is None  # without the allowance
    # two in a row, or one that lies far behind, are the end of a lead
    assert overtakes(x, np.append(leads[:-2], [-0.01, -0.01]), hair=0.1) is None
    assert overtakes(x, np.append(leads[:-1], -3.0), hair=0.1) is None


def test_a_curve_that_ends_early_shortens_no_others():
    whole = planted(0.6 * BUDGET, 0.0, 3, 5)
    short = Pair(*(curve(c.tokens[:5], c.values[:5]) for c in whole[2]))
    found = crossover([*whole[:2], short])
    both = crossover(whole[:2])
    assert found.left_out == (2,)
    assert (found.tokens, found.budget, found.pairs[:2]) == (both.tokens, both.budget, both.pairs)
    assert found.pairs[2] is None
    nothing = Pair(curve([1, 2], [1, 1]), curve([3, 4], [1, 1]))
    assert crossover([*whole[:2], nothing]).left_out == (2,)


def test_the_noise_of_a_bound_widens_the_interval():
    pairs = planted(0.5 * BUDGET, 0.0, 3, 5)
    noisy = [Pair(p.ar, p.mdm._replace(se=0.1)) for p in pairs]
    narrow, wide = crossover(pairs), crossover(noisy)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low) > 0
    assert wide.tokens == narrow.tokens


@pytest.mark.parametrize(
    "values", [([1, 2], [1]), ([2, 1], [1, 1]), ([1, 1], [1, 1]), ([1, 2], [1, math.nan]), ([], [])]
)
def test_what_is_no_curve_is_refused(values):
    with pytest.raises(ValueError, match="curve"):
        curve(*values)
