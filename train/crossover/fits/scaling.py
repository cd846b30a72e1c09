"""Fits of the laws (`laws`) to every evaluation of a grid, the intervals of their constants and their errors elsewhere.

Fits are least squares of log L (relative errors count alike at all losses) from several seeded starts. All points take
part: what a form cannot follow shows in its residuals. Hold-out errors are of points that a fit did not see.

Intervals of the constants are from the curvature at the fit (the Jacobian), in logarithms, by Student's t. The
evaluations of one run are no independent points: whatever its draw of data adds to one, it adds to the next. So the
number of points is divided by Kish's design effect, 1 + (m - 1) i, where m is the number of evaluations of a run and i
the share of the residuals' variance that lies between runs. A constant is **unidentified** when it ends at its bound,
or when its interval spans more than a factor of `WIDE`: the data do not settle it, and its value means nothing.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ....common.hashing import derive_words
from .intervals import factor
from .laws import Floats, Form, Inputs

STARTS = 6
"""Seeded starting points of a fit; the best end counts."""

POINTS_PER_CONSTANT = 3
LATE = 2 / 3
"""The late hold-out: a fit to the points before this share of the budget, tried on those after it."""

FLAT = 100.0
"""A reach, in logarithms, that is none."""

WIDE = 10.0
"""The largest ratio of an interval's ends that still says something of a constant."""


class Points(NamedTuple):
    """Evaluations of runs of one kind, (points,) each.

    Attributes:
        unique: tokens, float64.
        tokens: trained on, float64.
        loss: nats per token, float64.
        size: weights, float64.
        run: which run it is of, integers.
    """

    unique: Floats
    tokens: Floats
    loss: Floats
    size: Floats
    run: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> "Points":
        """Return some of the points."""
        return Points(self.unique[kept], self.tokens[kept], self.loss[kept], self.size[kept], self.run[kept])


class Units(NamedTuple):
    """What tokens and weights are counted in."""

    tokens: float
    size: float

    def of(self, unique: Floats, tokens: Floats, size: Floats) -> Inputs:
        """Return what a law takes."""
        return Inputs(unique / self.tokens, tokens / self.tokens, size / self.size)


@dataclass(frozen=True)
class Fit:
    """A fitted form.

    Attributes:
        why_not: why there is none, empty when there is.
        unit: tokens that the constants count in.
        size_unit: weights that the constants count in.
        constants: by name.
        intervals: by name, 95 %: lowest and highest.
        unidentified: those that the data do not settle.
        independent: points that the evaluations are worth.
        rms: of the residuals of log L over all points.
        worst: of the residuals of log L over all points.
        left_out: RMS error of log L on each budget when it was left out of the fit.
        late: on the last third of the budget, fitted to the rest; None where that leaves too few points.
    """

    form: Form
    points: int
    why_not: str = ""
    unit: float = 1.0
    size_unit: float = 1.0
    constants: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    unidentified: tuple[str, ...] = ()
    independent: float = math.nan
    rms: float = math.nan
    worst: float = math.nan
    left_out: dict[int, float] = field(default_factory=dict)
    late: float | None = None
    theta: tuple[float, ...] = ()

    def predict(self, unique: Floats, tokens: Floats, size: float | None = None) -> Floats:
        """Return the loss that the law gives, nats per token; for the mean size where none is given."""
        sizes = np.full(len(unique), self.size_unit if size is None else size)
        return self.form.law(np.array(self.theta), Units(self.unit, self.size_unit).of(unique, tokens, sizes))


def fit(form: Form, points: Points, seed: int = 0) -> Fit:
    """Return `form` fitted to all `points`, with its errors; no fit where there are too few points or budgets."""
    short = _too_few(form, points)
    if short:
        return Fit(form, len(points.loss), short)
    units = Units(*(float(np.exp(np.log(column).mean())) for column in (points.unique, points.size)))
    theta = _best(form, points, units, seed)
    residuals = _residuals(form, points, units, theta)
    reach, independent = _reach(form, points, units, theta)
    near = np.minimum(theta - np.array(form.low), np.array(form.high) - theta) < 1e-2
    loose = near | (2 * reach > math.log(WIDE))
    ends = zip(form.constants, np.exp(np.stack([theta - reach, theta + reach], axis=1)).tolist(), strict=True)
    return Fit(
        form,
        len(points.loss),
        unit=units.tokens,
        size_unit=units.size,
        constants=dict(zip(form.constants, np.exp(theta).tolist(), strict=True)),
        intervals={name: (low, high) for name, (low, high) in ends},
        unidentified=tuple(name for name, is_loose in zip(form.constants, loose, strict=True) if is_loose),
        independent=independent,
        rms=_rms(residuals),
        worst=float(np.abs(residuals).max()),
        left_out=_left_out(form, points, units, theta),
        late=_late(form, points, units, theta),
        theta=tuple(theta.tolist()),
    )


def _too_few(form: Form, points: Points) -> str:
    """Return why `form` cannot be fitted to `points`, empty when it can."""
    for needed, column, what in (
        (form.budgets, points.unique, "budgets of unique tokens"),
        (form.sizes, points.size, "sizes of model"),
    ):
        if len(np.unique(column)) < needed:
            return f"not fitted: it needs {needed} {what}, there are {len(np.unique(column))}"
    needed = POINTS_PER_CONSTANT * len(form.constants)
    if len(points.loss) < needed:
        return (
            f"not fitted: its {len(form.constants)} constants need {needed} evaluations, there are {len(points.loss)}"
        )
    return ""


def _residuals(form: Form, points: Points, units: Units, theta: Floats) -> Floats:
    x = units.of(points.unique, points.tokens, points.size)
    return np.log(form.law(theta, x)) - np.log(points.loss)


def _best(form: Form, points: Points, units: Units, seed: int) -> Floats:
    """Return the logarithms of the constants that fit best, over the starts."""
    rng = np.random.default_rng(derive_words("scaling", seed, len(form.constants), 2))
    first = _start(form, points)
    return _end(form, points, units, [first, *(first + rng.normal(0, 1, len(first)) for _ in range(STARTS - 1))])


def _end(form: Form, points: Points, units: Units, starts: list[Floats]) -> Floats:
    """Return the best of the ends that the starts lead to."""
    low, high = np.array(form.low), np.array(form.high)
    ends = [
        least_squares(
            lambda t: _residuals(form, points, units, t),
            np.clip(start, low + 0.1, high - 0.1),
            bounds=(low, high),
            max_nfev=300,
        )
        for start in starts
    ]
    return np.asarray(min(ends, key=lambda end: end.cost).x)


def _start(form: Form, points: Points) -> Floats:
    """Return a plausible start: half of the lowest loss is what cannot be learned, the rest falls slowly."""
    lowest = math.log(points.loss.min() / 2)
    return np.array([lowest if value is None else value for value in form.start])


def _left_out(form: Form, points: Points, units: Units, theta: Floats) -> dict[int, float]:
    """Return the error on each budget of a fit to the others, begun where the whole fit ended and afresh."""
    found = {}
    for budget in np.unique(points.unique):
        inside = points.where(points.unique != budget)
        if not _too_few(form, inside):
            found[int(budget)] = _error(form, inside, points.where(points.unique == budget), units, theta)
    return found


def _late(form: Form, points: Points, units: Units, theta: Floats) -> float | None:
    """Return the error on the last third of the budget of a fit to the rest."""
    early = points.tokens <= LATE * points.tokens.max()
    if early.all() or _too_few(form, points.where(early)):
        return None
    return _error(form, points.where(early), points.where(~early), units, theta)


def _error(form: Form, seen: Points, unseen: Points, units: Units, theta: Floats) -> float:
    """Return the RMS error of a fit to `seen` on `unseen`."""
    return _rms(_residuals(form, unseen, units, _end(form, seen, units, [theta, _start(form, seen)])))


def _reach(form: Form, points: Points, units: Units, theta: Floats) -> tuple[Floats, float]:
    """Return how far each constant's interval reaches to either side, in logarithms, and the points' true number.

    It is infinite where there is no curvature.
    """
    residuals = _residuals(form, points, units, theta)
    step = 1e-5
    columns = [
        (_residuals(form, points, units, theta + move) - _residuals(form, points, units, theta - move)) / (2 * step)
        for move in step * np.eye(len(theta))
    ]
    jacobian = np.stack(columns, axis=1)
    effect = design_effect(residuals, points.run)
    independent = len(residuals) / effect
    freedom = max(1.0, independent - len(theta))
    # The residuals' own freedom is that of all points: a run that lies off does so in all of its evaluations.
    variance = float(residuals @ residuals) / max(1, len(residuals) - len(theta)) * effect
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    singular = np.maximum(singular, 1e-10 * singular.max())  # a direction without curvature is one that nothing settles
    reach = factor(freedom) * np.sqrt(variance * (directions**2 / singular[:, None] ** 2).sum(0))
    return np.where(reach > FLAT, np.inf, reach), independent


def design_effect(residuals: Floats, run: NDArray[np.int64]) -> float:
    """Return how many evaluations count as one independent point, at least 1; see the head of this file."""
    _, place, counts = np.unique(run, return_inverse=True, return_counts=True)
    if len(counts) < 2 or len(residuals) <= len(counts):
        return 1.0
    sums = np.bincount(place, residuals)
    between = float((sums**2 / counts).sum()) / len(counts)
    within = float(residuals @ residuals - (sums**2 / counts).sum()) / (len(residuals) - len(counts))
    m = float(np.mean(counts))
    share = (between - within) / (between + (m - 1) * within) if between > within else 0.0
    return 1 + (m - 1) * share


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
