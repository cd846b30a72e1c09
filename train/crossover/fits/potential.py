"""How much data a type of model is worth in the other's: the unique tokens that a baseline needs for the same figure.

The baseline's figure is straight between its budgets over the logarithm of unique tokens. Nothing is extrapolated:
beyond the budgets that it was run at, the answer is `>` or `<`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .intervals import LEAST, Floats, Unit, factor, pooled

Values = dict[int, list[float]]
"""A figure (a best loss, say) of every replicate by unique tokens, see `by_draw`."""


@dataclass(frozen=True)
class Potential:
    """How many times the unique tokens the baseline needs to match a figure.

    Attributes:
        sign: "=" or, where the answer lies outside the budgets that the baseline was run at, ">" (not even the largest
            is enough) or "<" (the smallest is).
        low: of the interval, 0 and inf where it runs out of the budgets, NaN where there are too few replicates.
        high: see `low`.
    """

    sign: Literal["=", ">", "<"]
    ratio: float
    low: float
    high: float


def by_draw(figures: Mapping[int, Mapping[Unit, float]]) -> Values:
    """Return figures by unique tokens, the mean over seeds for each draw of data where any budget has several draws;
    the figures of all seeds where none has."""
    several = any(len({draw for draw, _ in own}) > 1 for own in figures.values())
    found: Values = {}
    for n, own in figures.items():
        groups: dict[Unit, list[float]] = {}
        for (draw, seed), figure in sorted(own.items()):
            groups.setdefault((draw, 0 if several else seed), []).append(figure)
        found[n] = [float(np.mean(group)) for group in groups.values()]
    return found


def match(budgets: Sequence[int], values: ArrayLike, target: float, lower_is_better: bool) -> float:
    """Return the fewest unique tokens at which the baseline is as good as `target`; inf: none of the budgets is enough,
    0: the smallest is.

    Args:
        budgets: increasing.
        values: the baseline's at each.
    """
    short = np.asarray(values, np.float64) - target
    short = short if lower_is_better else -short
    enough = np.flatnonzero(short <= 0)
    if not len(enough):
        return math.inf
    i = int(enough[0])
    if i == 0:
        return 0.0
    share = short[i - 1] / (short[i - 1] - short[i])
    x = np.log(np.asarray(budgets, np.float64))
    return float(np.exp(x[i - 1] + share * (x[i] - x[i - 1])))


def potential(
    baseline: Values, values: Values, unique_tokens: int, lower_is_better: bool = True, error: float = 0.0
) -> Potential:
    """Return how many times `unique_tokens` the baseline needs for the figure that `values` have there.

    The interval holds every number of unique tokens at which the difference of the two means may be 0 by Student's t.
    Replicates are taken to spread alike at all budgets of a type, so that budgets of one draw have an error too; where
    all budgets of a type together leave fewer than two degrees of freedom there is no interval.

    Args:
        error: standard error that the noise of a bound leaves in the difference, the same in all replicates.
    """
    budgets = sorted(baseline)
    means = np.array([np.mean(baseline[n]) for n in budgets])
    target = float(np.mean(values[unique_tokens]))
    half = np.hypot(_half_widths(baseline, values, unique_tokens), factor(math.inf) * error)
    half = half if lower_is_better else -half
    value = match(budgets, means, target, lower_is_better) / unique_tokens
    known = not np.isnan(half).any()
    low, high = (
        match(budgets, means + side * half, target, lower_is_better) / unique_tokens if known else math.nan
        for side in (-1, 1)
    )
    if value == math.inf:
        return Potential(">", budgets[-1] / unique_tokens, low, high)
    if value == 0:
        return Potential("<", budgets[0] / unique_tokens, low, high)
    return Potential("=", value, low, high)


def _half_widths(baseline: Values, values: Values, unique_tokens: int) -> Floats:
    """Return how far the difference of means reaches to either side at each budget of the baseline."""
    (ours, freedom), (theirs, other) = pooled(list(values.values())), pooled(list(baseline.values()))
    least = min(freedom, other)
    counts = np.array([len(baseline[n]) for n in sorted(baseline)])
    if least < LEAST - 1:
        return np.full(len(counts), np.nan)
    return factor(least) * np.sqrt(theirs / counts + ours / len(values[unique_tokens]))
