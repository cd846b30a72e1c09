"""How many tokens masked diffusion hides: from a sample's u in [0, 1) to its share of masks t, and what that weighs.

A schedule says how fast t grows from 0 to 1 over s in [0, 1]. The bound does not depend on it when a masked token
weighs t'(s) / t(s) (Sahoo et al. 2024; Shi et al. 2024), which is 1/t for the linear one:

    linear: t = s                  weight 1 / t
    cosine: t = sin(pi s / 2)      weight (pi / 2) sqrt(1 - t^2) / t        (as in MaskGIT and MD4: 1 - t = 1 - sin)

Where exactly k = 1 + floor(t n) of n tokens are masked, P(k) is the share of s that gives k, and the weight is
1 / (k P(k)), n/k for the linear one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .noise import Uniform

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Levels:
    """Shares of masks between `low` and `high` under a schedule.

    Attributes:
        low: the least t.
        high: the largest t; `low` for one share that all samples have.
    """

    schedule: Literal["linear", "cosine"] = "linear"
    low: float = 0.0
    high: float = 1.0

    @property
    def fixed(self) -> bool:
        """Return whether all samples have the same share of masks."""
        return self.low == self.high

    def shares(self, u: Uniform) -> Uniform:
        """Return t of each u, float64 in [low, high)."""
        if self.schedule == "linear" or self.fixed:
            return self.low + (self.high - self.low) * u
        first, last = (math.asin(t) for t in (self.low, self.high))
        return np.sin(first + (last - first) * u)

    @property
    def mean(self) -> float:
        """Return the mean share of masks."""
        if self.schedule == "linear" or self.fixed:
            return (self.low + self.high) / 2
        first, last = (math.asin(t) for t in (self.low, self.high))
        return (math.cos(first) - math.cos(last)) / (last - first)

    def weights(self, t: Uniform) -> Uniform:
        """Return the bound's weight of each masked token where each was masked with probability t."""
        if self.schedule == "linear":
            return inverse_t_weight(t)
        return math.pi / 2 * np.sqrt(1.0 - np.square(t)) * inverse_t_weight(t)

    def counts(self, t: Uniform, n: Counts) -> Counts:
        """Return how many of n real tokens are masked: at least 1 where there is one, at most n."""
        k = np.rint(t * n).astype(np.int64) if self.fixed else 1 + (t * n).astype(np.int64)
        return np.where(n > 0, np.clip(k, 1, np.maximum(n, 1)), 0)

    def count_weights(self, n: Counts, k: Counts) -> NDArray[np.float64]:
        """Return the bound's weight of each masked token where exactly k of n were masked."""
        if self.schedule == "linear" or self.fixed:
            return exact_count_weight(n, k)
        some, least = np.maximum(n, 1), np.maximum(k, 1)
        share = (np.arcsin(least / some) - np.arcsin((least - 1) / some)) / (math.pi / 2)
        return np.where(n > 0, 1.0 / (least * share), 0.0)


def inverse_t_weight(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each masked token when tokens were masked with probability t: 1/t (t = 0 masks none)."""
    return 1.0 / np.maximum(t, 2.0**-53)


def exact_count_weight(n: Counts, k: Counts) -> NDArray[np.float64]:
    """Return the weight of each masked token when exactly k of n were masked: n/k."""
    return n / np.maximum(k, 1)
