"""The laws of the validation loss that are fitted to a grid's evaluations, as formulas.

U: unique tokens. D: tokens trained on. N: weights of the model. U' = min(D, U) of the tokens different, so far.
R = D / U' - 1: repetitions, 0 in the first pass.

    saturating   L = E + B / D'^b,    D' = U' + U' r (1 - exp(-R / r))
    u-shaped     L = E + B / D'^b + C R^c / U^d
    penalty      L = E + B / D^b + P R / U
    sizes        L = E + A / N^a + B / D^b + P R^c (N / U)^d

saturating: Muennighoff et al. 2023 (arXiv 2305.16264), equation 5: repeated tokens are worth ever less, but never harm.
u-shaped: ours. It adds to the saturating law what overfitting costs, so that the loss falls, turns and rises over the
passes, as Quokka (Ni et al. 2025, arXiv 2510.03280) reports of diffusion; it contains the saturating one (C = 0).
sizes: Lovelace et al. 2026 (arXiv 2605.01640), the Chinchilla law with an additive penalty for overfitting, as Weng
("Scaling Laws, Carefully", 2026) writes it; the paper's own text could not be read here. penalty: the same for one size
with one coefficient, its exponents c and d taken to be 1. That is our reading of the paper's "one-parameter form": the
exponents that it fixes may be others.

All constants are positive, and fitted as logarithms. Tokens are in units of the geometric mean of the unique tokens,
weights in units of theirs, so that constants are of order 1 and no unit is mixed up with another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """What a law takes, float64 (points,) each, in the units above."""

    unique: Floats
    tokens: Floats
    size: Floats

    @property
    def repetitions(self) -> Floats:
        """Return R."""
        return np.maximum(self.tokens / np.minimum(self.unique, self.tokens) - 1, 0.0)


@dataclass(frozen=True)
class Form:
    """A law.

    Attributes:
        constants: their names.
        low: bounds of their logarithms.
        high: bounds of their logarithms.
        start: logarithms from which a fit may begin, but for those that follow from the lowest loss (None).
        law: losses of (logarithms of the constants, inputs).
        budgets: how many different U it needs.
        sizes: how many different N it needs.
    """

    name: str
    formula: str
    constants: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    start: tuple[float | None, ...]
    law: Callable[[Floats, Inputs], Floats]
    budgets: int
    sizes: int = 1


def effective_tokens(unique: Floats, tokens: Floats, r: float) -> Floats:
    """Return D': what `tokens` are worth in fresh ones when `unique` are repeated and r is the half-life's scale."""
    seen = np.minimum(unique, tokens)
    return seen * (1 + r * -np.expm1(-(tokens / seen - 1) / r))


def _saturating(theta: Floats, x: Inputs) -> Floats:
    e, b, power, r = np.exp(theta[:4])
    return e + b / effective_tokens(x.unique, x.tokens, r) ** power


def _u_shaped(theta: Floats, x: Inputs) -> Floats:
    c, rising, falling = np.exp(theta[4:])
    return _saturating(theta, x) + c * x.repetitions**rising / x.unique**falling


def _penalty(theta: Floats, x: Inputs) -> Floats:
    e, b, power, p = np.exp(theta)
    return e + b / x.tokens**power + p * x.repetitions / x.unique


def _sizes(theta: Floats, x: Inputs) -> Floats:
    e, a, shrinking, b, power, p, rising, crowding = np.exp(theta)
    fresh = e + a / x.size**shrinking + b / x.tokens**power
    return fresh + p * x.repetitions**rising * (x.size / x.unique) ** crowding


_LOW, _HIGH, _START = (-7.0, -12.0, -5.0, -3.0), (3.0, 6.0, 1.5, 8.0), (None, None, -1.2, 2.3)
SATURATING = Form("saturating", "E + B / D'^b", ("E", "B", "b", "r"), _LOW, _HIGH, _START, _saturating, 2)
U_SHAPED = Form(
    name="u-shaped",
    formula="E + B / D'^b + C R^c / U^d",
    constants=("E", "B", "b", "r", "C", "c", "d"),
    low=(*_LOW, -14.0, -2.5, -5.0),
    high=(*_HIGH, 6.0, 1.5, 2.0),
    start=(*_START, -4.0, 0.0, -1.0),
    law=_u_shaped,
    budgets=3,
)
PENALTY = Form(
    name="penalty",
    formula="E + B / D^b + P R / U",
    constants=("E", "B", "b", "P"),
    low=(*_LOW[:3], -14.0),
    high=(*_HIGH[:3], 6.0),
    start=(*_START[:3], -4.0),
    law=_penalty,
    budgets=2,
)
SIZES = Form(
    name="sizes",
    formula="E + A / N^a + B / D^b + P R^c (N / U)^d",
    constants=("E", "A", "a", "B", "b", "P", "c", "d"),
    low=(-7.0, -12.0, -5.0, -12.0, -5.0, -14.0, -2.5, -5.0),
    high=(3.0, 6.0, 1.5, 6.0, 1.5, 6.0, 1.5, 2.0),
    start=(None, None, -1.2, None, -1.2, -4.0, 0.0, -1.0),
    law=_sizes,
    budgets=2,
    sizes=3,
)
FORMS = (SATURATING, U_SHAPED, PENALTY)
"""Of one size of model. `SIZES` is of several."""
