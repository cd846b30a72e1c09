"""Where one curve overtakes another and stays ahead, and how much data the other would need: pure functions.

A **lead** of masked diffusion (MDM) over autoregression (AR) at x tokens is AR's metric minus MDM's where lower is
better (losses), MDM's minus AR's where higher is (accuracy). Curves are straight between evaluations, so the lead is
too, between the evaluations of either; it is known on the span that both curves cover.

The **crossover** is the point from which the lead stays positive up to the end of the span: the last root of the
lead, if the lead is positive at every evaluation after it and there are at least `HOLD` of them. A lead that comes and
goes is no crossover, and neither is one at the very last evaluation alone.

Over replicates (pairs of an AR and an MDM run on the same draw of data, with the same seed) the estimate is the
crossover of the mean lead. Its interval is a percentile bootstrap over pairs; a resample whose lead does not stay
counts as a crossover beyond the budget. Where the metric is a bound, each resample is also moved by one normal error
with the bound's standard error: all evaluations share their noise, so the error is common to them. An accuracy is moved
in the same way by the error of its items (as if AR and MDM had each their own items, which errs on the large side).
With two or three pairs a bootstrap can hardly be wider than what the pairs themselves span; the number of pairs stands
beside every interval, and one pair has none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....common.hashing import derive_words

HOLD = 2
"""Evaluations at which a lead must be positive to be one that stays."""

RESAMPLES = 2000
LEVEL = 0.95
"""Of the bootstrap: how often it draws, and the share its interval is to hold."""

Floats = NDArray[np.float64]
Status = Literal["crosses", "ahead", "none"]


class Curve(NamedTuple):
    """A metric over tokens, float64 (evaluations,) each, tokens increasing.

    Attributes:
        se: one standard error of all values.
    """

    tokens: Floats
    values: Floats
    se: float = 0.0


def curve(tokens: ArrayLike, values: ArrayLike, se: float = 0.0) -> Curve:
    """Return a curve.

    Raises:
        ValueError: unless both are as long, not empty, finite, and tokens increase.
    """
    x, y = np.asarray(tokens, np.float64), np.asarray(values, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x) or not np.isfinite(np.concatenate([x, y])).all():
        raise ValueError(f"a curve needs as many finite tokens as values, got {x.shape} and {y.shape}")
    if (np.diff(x) <= 0).any():
        raise ValueError("tokens of a curve must increase")
    return Curve(x, y, se)


class Pair(NamedTuple):
    """The two curves of one draw of data and one seed."""

    ar: Curve
    mdm: Curve


def lead(pair: Pair, lower_is_better: bool, at: Floats | None = None) -> tuple[Floats, Floats]:
    """Return (tokens, lead), float64 (points,), at the evaluations of either curve within both, or at `at`.

    Both are empty where the curves have no span in common.
    """
    ar, mdm = pair
    if at is None:
        low, high = max(ar.tokens[0], mdm.tokens[0]), min(ar.tokens[-1], mdm.tokens[-1])
        at = np.union1d(ar.tokens, mdm.tokens)
        at = at[(at >= low) & (at <= high)]
    difference = np.interp(at, ar.tokens, ar.values) - np.interp(at, mdm.tokens, mdm.values)
    return at, difference if lower_is_better else -difference


def overtakes(tokens: Floats, leads: Floats) -> float | None:
    """Return where the lead becomes positive and stays so; -inf when it is from the first point on, None for never."""
    behind = np.flatnonzero(leads <= 0)
    last = int(behind[-1]) if len(behind) else -1
    if len(leads) - 1 - last < HOLD:
        return None
    if last < 0:
        return -math.inf
    share = -leads[last] / (leads[last + 1] - leads[last])
    return float(tokens[last] + share * (tokens[last + 1] - tokens[last]))


@dataclass(frozen=True)
class Crossover:
    """Where MDM overtakes AR and stays ahead, in tokens.

    Attributes:
        status: `crosses`; `ahead` (from the first evaluation on); `none` within the budget.
        tokens: of the mean lead, None unless it crosses.
        low: of the interval; -inf: before the first evaluation, inf: beyond the budget, NaN: of one pair.
        high: see `low`.
        share: of resamples whose lead stays.
        pairs: each pair's own crossover, None where it has none.
        budget: last evaluation.
        final_lead: mean lead there, in the metric's unit, and its standard error over pairs (NaN for one).
    """

    status: Status
    tokens: float | None
    low: float
    high: float
    share: float
    pairs: tuple[float | None, ...]
    budget: float
    final_lead: float
    final_lead_se: float


def crossover(pairs: Sequence[Pair], lower_is_better: bool = True, seed: int = 0) -> Crossover | None:
    """Return the crossover over `pairs`, None where their curves have no span in common.

    Args:
        seed: of the bootstrap.
    """
    at = _common(pairs, lower_is_better)
    if not len(at):
        return None
    leads = np.stack([lead(pair, lower_is_better, at)[1] for pair in pairs])
    own = tuple(overtakes(at, row) for row in leads)
    found = overtakes(at, leads.mean(0))
    # Noise and items are the same in all pairs: one error for a resample's mean.
    error = float(np.mean([math.hypot(p.ar.se, p.mdm.se) for p in pairs]))
    drawn = [overtakes(at, row) for row in _resampled(leads, error, seed)]
    places = np.array([math.inf if x is None else x for x in drawn])
    n = len(pairs)
    low, high = _interval(places) if n > 1 else (math.nan, math.nan)
    return Crossover(
        status="none" if found is None else "ahead" if found == -math.inf else "crosses",
        tokens=None if found is None or found == -math.inf else found,
        low=low,
        high=high,
        share=float(np.mean(places < math.inf)),
        pairs=own,
        budget=float(at[-1]),
        final_lead=float(leads[:, -1].mean()),
        final_lead_se=float(leads[:, -1].std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan,
    )


def _common(pairs: Sequence[Pair], lower_is_better: bool) -> Floats:
    """Return all evaluations within the span that every curve of every pair covers."""
    spans = [c for pair in pairs for c in pair]
    low, high = max(c.tokens[0] for c in spans), min(c.tokens[-1] for c in spans)
    at = np.unique(np.concatenate([c.tokens for c in spans]))
    return at[(at >= low) & (at <= high)]


def _resampled(leads: Floats, error: float, seed: int) -> Floats:
    """Return mean leads of resamples, float64 (RESAMPLES, points)."""
    rng = _rng("crossover", seed)
    n = len(leads)
    weights = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    return weights @ leads + error * rng.standard_normal((RESAMPLES, 1))


def _interval(values: Floats) -> tuple[float, float]:
    """Return the percentile interval; order statistics, since values may be infinite."""
    tail = (1 - LEVEL) / 2
    low = np.quantile(values, tail, method="inverted_cdf")
    high = np.quantile(values, 1 - tail, method="inverted_cdf")
    return float(low), float(high)


def _rng(purpose: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(derive_words(purpose, seed, 0, 2))


# -- data potential ----------------------------------------------------------------------------------------------

Values = dict[int, list[float]]
"""A figure of every run (its best loss, say) by unique tokens."""


@dataclass(frozen=True)
class Potential:
    """How many times the unique tokens AR needs to match MDM.

    Attributes:
        sign: "=" or, where the answer lies outside the budgets that AR was run at, ">" (not even the largest is enough)
            or "<" (the smallest is).
        low: interval over replicates, inf and 0 where it runs out of the budgets.
        high: interval over replicates, inf and 0 where it runs out of the budgets.
    """

    sign: Literal["=", ">", "<"]
    ratio: float
    low: float
    high: float


def match(budgets: Sequence[int], values: ArrayLike, target: float, lower_is_better: bool) -> float:
    """Return the fewest unique tokens at which AR is as good as `target`; inf: none of the budgets is enough, 0: the
    smallest is.

    Args:
        budgets: increasing.
        values: AR's at each, straight in between over the logarithm of unique tokens.
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


def potential(ar: Values, mdm: Values, unique_tokens: int, lower_is_better: bool = True, seed: int = 0) -> Potential:
    """Return the data-potential ratio of MDM at `unique_tokens`: AR's unique tokens for the same figure, over its own.

    Means over replicates; interval by bootstrap over the replicates of every budget and of MDM apart.
    """
    budgets = sorted(ar)
    rng = _rng("potential", seed)

    def means(values: Sequence[float]) -> Floats:
        """Return the mean, then the means of the resamples."""
        x = np.asarray(values, np.float64)
        return np.concatenate([[x.mean()], x[rng.integers(0, len(x), (RESAMPLES, len(x)))].mean(1)])

    targets, curves = means(mdm[unique_tokens]), np.stack([means(ar[n]) for n in budgets], axis=1)
    ratios = [match(budgets, row, t, lower_is_better) / unique_tokens for row, t in zip(curves, targets, strict=True)]
    value = ratios[0]
    low, high = _interval(np.array(ratios[1:]))
    if value == math.inf:
        return Potential(">", budgets[-1] / unique_tokens, low, high)
    if value == 0:
        return Potential("<", budgets[0] / unique_tokens, low, high)
    return Potential("=", value, low, high)
