"""Where one curve overtakes another and stays ahead: pure functions.

A **lead** of masked diffusion (MDM) over autoregression (AR) at x tokens is AR's metric minus MDM's where lower is
better (losses), MDM's minus AR's where higher is (accuracy). Curves are straight between evaluations, so the lead is
too, between the evaluations of either; it is known on the span that both curves cover.

The **crossover** is the point from which the lead stays positive up to the end of the span: the last root of the
lead, if the lead is positive at every evaluation after it and there are at least `HOLD` of them. A lead that comes and
goes is no crossover, and neither is one at the very last evaluation alone. A lone evaluation behind, by a hair, is no
end of a lead either: by less than twice what the lead wobbles from one evaluation to the next.

Over replicates (pairs of an AR and an MDM run on the same draw of data, with the same seed) the estimate is the
crossover of the mean lead. Its interval holds every point at which the mean lead's own interval (`intervals`) holds 0:
from where its upper end turns positive for good to where its lower end does. A pair that ends early, or of which too
little was measured, has no part in the mean and shortens nobody's curve; it is named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .intervals import Floats, Unit, half_width, over_draws

HOLD = 2
"""Evaluations at which a lead must be positive to be one that stays."""

REACH = 0.99
COVER = 0.75
"""A pair takes part in the mean when it reaches this share of the longest one's end, and covers this share of its
span."""

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


def wobble(leads: Floats) -> float:
    """Return how far a lead's evaluations lie off a smooth line, one standard deviation; 0 for fewer than four.

    From the median of second differences, so that neither a turn nor an outlier counts for much.
    """
    second = np.abs(np.diff(leads, 2))
    return float(1.4826 * np.median(second) / math.sqrt(6)) if len(second) > 1 else 0.0


def overtakes(tokens: Floats, leads: Floats, hair: float = 0.0) -> float | None:
    """Return where the lead becomes positive and stays so; -inf when it is from the first point on, None for never.

    Args:
        hair: how far a single evaluation, ahead on either side of it or the last, may lie behind.
    """
    ahead = leads > 0
    lone = ~ahead & np.append(False, ahead[:-1]) & np.append(ahead[1:], True) & (leads > -hair)
    behind = np.flatnonzero(~ahead & ~lone)
    last = int(behind[-1]) if len(behind) else -1
    if np.count_nonzero(ahead[last + 1 :]) < HOLD:
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
        low: of the interval; -inf: before the first evaluation, inf: beyond the budget, NaN: of too few pairs.
        high: see `low`.
        pairs: each pair's own crossover, None where it has none.
        left_out: places of the pairs that end early or cover too little, and have no part in the mean.
        budget: last evaluation.
        final_lead: mean lead there, in the metric's unit.
        final_half_width: of its interval, NaN for too few pairs.
    """

    status: Status
    tokens: float | None
    low: float
    high: float
    pairs: tuple[float | None, ...]
    left_out: tuple[int, ...]
    budget: float
    final_lead: float
    final_half_width: float


def crossover(
    pairs: Sequence[Pair], lower_is_better: bool = True, units: Sequence[Unit] | None = None
) -> Crossover | None:
    """Return the crossover over `pairs`, None where no two curves of a pair have a span in common.

    Args:
        units: draw and seed of each pair, each a draw of its own without them.
    """
    alone = [lead(pair, lower_is_better) for pair in pairs]
    whole = _whole([at for at, _ in alone])
    if not whole:
        return None
    kept = [pairs[i] for i in whole]
    at = _common(kept)
    if not len(at):
        return None
    units = units or [(i, 0) for i in range(len(pairs))]
    leads = over_draws(np.stack([lead(pair, lower_is_better, at)[1] for pair in kept]), [units[i] for i in whole])
    # Noise and items are the same in all pairs: one error for their mean.
    error = float(np.mean([math.hypot(p.ar.se, p.mdm.se) for p in kept]))
    mean, half = leads.mean(0), half_width(leads, error)
    found = overtakes(at, mean, hair(mean, error))
    low, high = _interval(at, mean, half, error)
    return Crossover(
        status="none" if found is None else "ahead" if found == -math.inf else "crosses",
        tokens=None if found is None or found == -math.inf else found,
        low=low,
        high=high,
        pairs=tuple(_own(*own, pair) for own, pair in zip(alone, pairs, strict=True)),
        left_out=tuple(i for i in range(len(pairs)) if i not in whole),
        budget=float(at[-1]),
        final_lead=float(mean[-1]),
        final_half_width=float(half[-1]),
    )


def hair(leads: Floats, error: float) -> float:
    """Return how far behind a lone evaluation may lie without being the end of a lead."""
    return 2 * max(error, wobble(leads))


def _own(at: Floats, leads: Floats, pair: Pair) -> float | None:
    """Return a pair's own crossover, on the span that it covers."""
    return overtakes(at, leads, hair(leads, math.hypot(pair.ar.se, pair.mdm.se)))


def _whole(spans: Sequence[Floats]) -> list[int]:
    """Return the places of the pairs that reach the end and cover enough; see `REACH`, `COVER`."""
    covered = [at[-1] - at[0] if len(at) else -1.0 for at in spans]
    if max(covered, default=-1.0) < 0:
        return []
    end = max(at[-1] for at in spans if len(at))
    return [i for i, at in enumerate(spans) if len(at) and at[-1] >= REACH * end and covered[i] >= COVER * max(covered)]


def _common(pairs: Sequence[Pair]) -> Floats:
    """Return all evaluations within the span that every curve of every pair covers."""
    spans = [c for pair in pairs for c in pair]
    low, high = max(c.tokens[0] for c in spans), min(c.tokens[-1] for c in spans)
    at = np.unique(np.concatenate([c.tokens for c in spans]))
    return at[(at >= low) & (at <= high)]


def _interval(at: Floats, mean: Floats, half: Floats, error: float) -> tuple[float, float]:
    """Return where the mean lead's interval holds 0: from its upper end's crossover to its lower end's."""
    if np.isnan(half).any():
        return math.nan, math.nan
    ends = (overtakes(at, side, hair(mean, error)) for side in (mean + half, mean - half))
    low, high = (math.inf if end is None else end for end in ends)
    return low, high
