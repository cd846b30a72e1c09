"""Laws of the validation loss over unique tokens and passes, fitted to every evaluation of a grid.

U: unique tokens. D: tokens trained on. U' = min(D, U) of them different, so far. R = D / U' - 1: repetitions, 0 in the
first pass.

    saturating   L = E + B / D'^b,    D' = U' + U' r (1 - exp(-R / r))        Muennighoff et al. 2023, equation 5
    u-shaped     L = E + B / D'^b + C R^c / U^d

In the saturating form repeated tokens are worth ever less, but never harm. The u-shaped one adds what overfitting
costs: it grows with repetitions and shrinks with unique tokens, so that the loss falls, turns and rises over the
passes, as diffusion scaling studies (Quokka, Ni et al. 2025) see it. It contains the saturating form (C = 0). All
constants are positive; the model's size is one constant within a fit, so there is one fit for each objective, size
and setting.

Fits are least squares of log L (relative errors count alike at all losses) from several seeded starts. All points take
part: what a form cannot follow shows in its residuals. Hold-out errors are of points that a fit did not see.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ....common.hashing import derive_words

STARTS = 6
"""Seeded starting points of a fit; the best end counts."""

POINTS_PER_CONSTANT = 3
LATE = 2 / 3
"""The late hold-out: a fit to the points before this share of the budget, tried on those after it."""

Floats = NDArray[np.float64]


class Points(NamedTuple):
    """Evaluations of runs of one kind, float64 (points,) each."""

    unique: Floats
    tokens: Floats
    loss: Floats

    def where(self, kept: NDArray[np.bool_]) -> "Points":
        """Return some of the points."""
        return Points(*(column[kept] for column in self))


@dataclass(frozen=True)
class Form:
    """A law.

    Attributes:
        constants: their names.
        low: bounds of their logarithms, data in units of `scale_of`.
        high: bounds of their logarithms, data in units of `scale_of`.
    """

    name: str
    formula: str
    constants: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    law: Callable[[Floats, Floats, Floats], Floats]
    budgets: int


def effective_tokens(unique: Floats, tokens: Floats, r: float) -> Floats:
    """Return D': what `tokens` are worth in fresh ones when `unique` are repeated and r is the half-life's scale."""
    seen = np.minimum(unique, tokens)
    return seen * (1 + r * -np.expm1(-(tokens / seen - 1) / r))


def _saturating(theta: Floats, unique: Floats, tokens: Floats) -> Floats:
    e, b, power, r = np.exp(theta[:4])
    return e + b / effective_tokens(unique, tokens, r) ** power


def _u_shaped(theta: Floats, unique: Floats, tokens: Floats) -> Floats:
    c, rising, falling = np.exp(theta[4:])
    repetitions = np.maximum(tokens / np.minimum(unique, tokens) - 1, 0.0)
    return _saturating(theta, unique, tokens) + c * repetitions**rising / unique**falling


_LOW, _HIGH = (-7.0, -12.0, -5.0, -3.0), (3.0, 6.0, 1.5, 8.0)
SATURATING = Form("saturating", "E + B / D'^b", ("E", "B", "b", "r"), _LOW, _HIGH, _saturating, 2)
U_SHAPED = Form(
    "u-shaped",
    "E + B / D'^b + C R^c / U^d",
    ("E", "B", "b", "r", "C", "c", "d"),
    (*_LOW, -14.0, -2.5, -5.0),
    (*_HIGH, 6.0, 1.5, 2.0),
    _u_shaped,
    3,
)
FORMS = (SATURATING, U_SHAPED)


@dataclass(frozen=True)
class Fit:
    """A fitted form.

    Attributes:
        why_not: why there is none, empty when there is.
        constants: by name, tokens in units of `unit`.
        at_bound: those that the data do not settle.
        rms: of the residuals of log L over all points.
        worst: of the residuals of log L over all points.
        left_out: RMS error of log L on each budget when it was left out of the fit.
        late: on the last third of the budget, fitted to the rest; None where that leaves too few points.
    """

    form: Form
    points: int
    why_not: str = ""
    unit: float = 1.0
    constants: dict[str, float] = field(default_factory=dict)
    at_bound: tuple[str, ...] = ()
    rms: float = math.nan
    worst: float = math.nan
    left_out: dict[int, float] = field(default_factory=dict)
    late: float | None = None
    theta: tuple[float, ...] = ()

    def predict(self, unique: Floats, tokens: Floats) -> Floats:
        """Return the loss that the law gives, nats per token."""
        return self.form.law(np.array(self.theta), unique / self.unit, tokens / self.unit)


def fit(form: Form, points: Points, seed: int = 0) -> Fit:
    """Return `form` fitted to all `points`, with its errors; no fit where there are too few points or budgets."""
    short = _too_few(form, points)
    if short:
        return Fit(form, len(points.loss), short)
    unit = float(np.exp(np.log(points.unique).mean()))
    theta = _best(form, points, unit, seed)
    residuals = _residuals(form, points, unit, theta)
    budgets = np.unique(points.unique)
    left_out = {}
    for budget in budgets:
        inside = points.where(points.unique != budget)
        if not _too_few(form, inside):
            error = _residuals(form, points.where(points.unique == budget), unit, _best(form, inside, unit, seed))
            left_out[int(budget)] = _rms(error)
    early = points.tokens <= LATE * points.tokens.max()
    late = None
    if not early.all() and not _too_few(form, points.where(early)):
        late = _rms(_residuals(form, points.where(~early), unit, _best(form, points.where(early), unit, seed)))
    near = np.minimum(theta - np.array(form.low), np.array(form.high) - theta) < 1e-2
    return Fit(
        form,
        len(points.loss),
        unit=unit,
        constants=dict(zip(form.constants, np.exp(theta).tolist(), strict=True)),
        at_bound=tuple(name for name, is_near in zip(form.constants, near, strict=True) if is_near),
        rms=_rms(residuals),
        worst=float(np.abs(residuals).max()),
        left_out=left_out,
        late=late,
        theta=tuple(theta.tolist()),
    )


def _too_few(form: Form, points: Points) -> str:
    """Return why `form` cannot be fitted to `points`, empty when it can."""
    needed, budgets = POINTS_PER_CONSTANT * len(form.constants), len(np.unique(points.unique))
    if budgets < form.budgets:
        return f"not fitted: it needs {form.budgets} budgets of unique tokens, there are {budgets}"
    if len(points.loss) < needed:
        return (
            f"not fitted: its {len(form.constants)} constants need {needed} evaluations, there are {len(points.loss)}"
        )
    return ""


def _residuals(form: Form, points: Points, unit: float, theta: Floats) -> Floats:
    return np.log(form.law(theta, points.unique / unit, points.tokens / unit)) - np.log(points.loss)


def _best(form: Form, points: Points, unit: float, seed: int) -> Floats:
    """Return the logarithms of the constants that fit best, over the starts."""
    low, high = np.array(form.low), np.array(form.high)
    rng = np.random.default_rng(derive_words("scaling", seed, len(form.constants), 2))
    starts = [np.clip(_start(form, points), low + 0.1, high - 0.1)]
    starts += [np.clip(starts[0] + rng.normal(0, 1, len(low)), low + 0.1, high - 0.1) for _ in range(STARTS - 1)]
    ends = [
        least_squares(lambda t: _residuals(form, points, unit, t), start, bounds=(low, high), max_nfev=300)
        for start in starts
    ]
    return np.asarray(min(ends, key=lambda end: end.cost).x)


def _start(form: Form, points: Points) -> Floats:
    """Return a plausible start: half of the lowest loss is what cannot be learned, the rest falls slowly."""
    lowest = math.log(points.loss.min() / 2)
    return np.array([lowest, lowest, math.log(0.3), math.log(10.0), -4.0, 0.0, -1.0][: len(form.constants)])


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
