"""Student's t over replicates, and none of too few."""

import math

import numpy as np
import pytest

from epochal.tests.train.crossover.fits import coverage
from epochal.train.crossover.fits.intervals import factor, half_width, pooled


def test_the_interval_of_a_mean_is_students():
    half = half_width(np.array([[1.0], [2.0], [3.0]]))
    assert half[0] == pytest.approx(4.302653 * 1 / math.sqrt(3), rel=1e-6)
    assert half_width(np.array([[1.0], [2.0], [3.0]]), error=10.0)[0] == pytest.approx(math.hypot(half[0], 19.59964))
    assert np.isnan(half_width(np.array([[1.0], [2.0]]))).all()
    assert factor(math.inf) == pytest.approx(1.959964)


def test_a_variance_is_pooled_within_groups():
    variance, freedom = pooled([[1.0, 3.0], [10.0, 10.0, 13.0], [5.0]])
    assert (variance, freedom) == (pytest.approx((2 + 6) / 3), 3)
    assert math.isnan(pooled([[1.0], [2.0]])[0])


def test_the_interval_of_best_against_best_holds_the_truth_as_often_as_it_says():
    for pairs in coverage.PAIRS:
        assert 0.93 <= coverage.of_mean(pairs, 2000).share <= 0.97
