"""Shares of masks and their weights against integrals."""

import math

import numpy as np
import pytest

from epochal.train.objective.levels import Levels

U = (np.arange(400_000) + 0.5) / 400_000
RANGES = [(1e-3, 1.0), (0.0, 1.0), (0.3, 0.8)]


@pytest.mark.parametrize("limits", RANGES)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_shares_rise_within_their_range_and_have_the_stated_mean(schedule, limits) -> None:
    levels = Levels(schedule, *limits)
    t = levels.shares(U)
    assert (np.diff(t) > 0).all()
    assert limits[0] <= t[0] < limits[0] + 1e-5
    assert limits[1] - 1e-5 < t[-1] <= limits[1]
    assert t.mean() == pytest.approx(levels.mean, abs=1e-6)


@pytest.mark.parametrize("k", range(6))
def test_the_cosine_schedule_weighs_each_number_of_masks_as_the_linear_one(k: int) -> None:
    """The bound is an integral over t of t^k (1-t)^(n-k) / t: the schedule only says how often t is visited."""
    n = 5
    cosine = Levels("cosine", 1e-9)
    t = cosine.shares(U)
    found = (t ** (k + 1) * (1 - t) ** (n - k) * cosine.weights(t)).mean()
    beta = math.factorial(k) * math.factorial(n - k) / math.factorial(n + 1)
    assert found == pytest.approx(beta, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_exact_counts_weigh_so_that_every_number_of_masks_counts_the_same(schedule) -> None:
    n = np.full(len(U), 7)
    levels = Levels(schedule)
    k = levels.counts(levels.shares(U), n)
    weights = levels.count_weights(n, k)
    for count in range(1, 8):  # n/k with probability 1/n
        assert (weights * (k == count)).mean() == pytest.approx(1 / count, rel=1e-3)


def test_a_fixed_share_masks_that_share_and_at_least_one_token() -> None:
    levels = Levels(low=0.25, high=0.25)
    n = np.array([0, 1, 4, 16, 31])
    k = levels.counts(levels.shares(np.linspace(0, 0.999, 5)), n)
    assert k.tolist() == [0, 1, 1, 4, 8]
    assert levels.mean == 0.25
