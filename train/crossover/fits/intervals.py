"""Intervals over replicates: Student's t, and none where there are too few to say anything.

Replicates (pairs of runs on the same draw of data with the same seed) are few and cost much, so an interval of them
must be right for three. A bootstrap over pairs, labelled 95 %, holds the truth in 49 % of simulations with 2 pairs, 75
with 3, 87 with 5 and 89 with 10; Student's t over their differences holds it in 95 % for normal differences, whatever
their number. Below three pairs no interval is given: with two, t's factor of 12.7 says nothing that anyone could use.

Seeds on one draw of data are no replicates of each other's draw: taken for such, three draws of three seeds each hold
the truth in 69 % where draws differ more than seeds do. So the mean over a draw's seeds is one replicate, and seeds are
replicates where there is one draw: the interval then says nothing of other data.
What these intervals cover is measured in `tests/train/crossover/fits/coverage.py`.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
"""The share of intervals that are to hold the truth."""

LEAST = 3
"""Replicates below which there is no interval."""

Floats = NDArray[np.float64]

Unit = tuple[int, int]
"""What AR and MDM runs are paired by: the draw of the data (replicate), and the seed."""


def over_draws(values: Floats, units: Sequence[Unit]) -> Floats:
    """Return what counts as replicates of `values`, float64 (units, points): the means over the seeds of each draw of
    data, or the values as they are where all are of one draw."""
    draws = np.array([draw for draw, _ in units])
    kept = np.unique(draws)
    return values if len(kept) < 2 else np.stack([values[draws == draw].mean(0) for draw in kept])


def independent(units: Sequence[Unit]) -> int:
    """Return how many replicates `over_draws` leaves of so many units."""
    draws = len({draw for draw, _ in units})
    return draws if draws > 1 else len(units)


def factor(freedom: float) -> float:
    """Return Student's t: how many standard errors an interval reaches to either side."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def half_width(values: Floats, error: float = 0.0) -> Floats:
    """Return how far the mean's interval reaches to either side at each point, float64 (points,); NaN for too few.

    Args:
        values: float64 (replicates, points).
        error: standard error that all replicates share (the noise of a bound), normal.
    """
    n = len(values)
    if n < LEAST:
        return np.full(values.shape[1], np.nan)
    spread = factor(n - 1) * values.std(0, ddof=1) / math.sqrt(n)
    return np.hypot(spread, factor(math.inf) * error)


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the variance within groups of replicates, as if it were the same in all, and its degrees of freedom.

    The variance is NaN where no group has two replicates.
    """
    freedom = sum(len(group) - 1 for group in groups)
    squares = math.fsum(float(np.var(group)) * len(group) for group in groups)
    return (squares / freedom, freedom) if freedom else (math.nan, 0)
