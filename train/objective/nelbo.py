"""Which tokens to mask, and how to weigh them, to evaluate the masked-diffusion bound.

For n tokens the any-order form of the bound (Uria et al. 2014; Ou et al. 2024) is

    NELBO = E over k uniform in 1..n, over sets S of k tokens, of  n/k * sum over i in S of -log p(x_i | x outside S)

and, by Jensen's inequality, at least -log of the mean over orders of the product of conditionals: the likelihood of the
model that generates one token at a time in a random order. A conditional bound masks the answer's tokens only; the
context is always visible.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import noise


class MaskSet(NamedTuple):
    """Masked inputs for one text: NELBO = sum over rows of weight * (sum of the row's masked nats).

    Attributes:
        masks: bool (rows, n), True where masked.
        weights: float64 (rows,).
        exact: whether the rows are all there are, so that the bound is known without noise.
    """

    masks: NDArray[np.bool_]
    weights: NDArray[np.float64]
    exact: bool


def masks_for(n: int, draws: int, seed: int, position: int) -> MaskSet:
    """Return at most `draws` masked inputs of `n` >= 1 tokens: all 2^n - 1 sets where they are that few, else a sample.

    One draw is exact for one token, 128 are for seven.

    Args:
        seed: what the noise is a pure function of.
        position: what the noise is a pure function of.
    """
    if 2**n - 1 <= draws:
        return every_mask(n)
    return sampled_masks(n, draws, seed, position)


def every_mask(n: int) -> MaskSet:
    """Return all non-empty sets of n tokens; a set of k has weight 1 / (k * C(n, k)) = n / k * 1/n * 1/C(n, k)."""
    numbers = np.arange(1, 2**n)
    masks = (numbers[:, None] >> np.arange(n)) & 1 == 1
    per_count = np.array([0.0] + [1.0 / (k * math.comb(n, k)) for k in range(1, n + 1)])
    return MaskSet(masks, per_count[masks.sum(1)], exact=True)


def sampled_masks(n: int, draws: int, seed: int, position: int) -> MaskSet:
    """Return `draws` masked inputs whose counts are stratified: k_j = 1 + floor(n * (j + v_j) / draws), v_j uniform.

    Each count has one draw in each of `draws` equal parts of 1..n, and draws are independent, so that neighbours
    tell the error (`estimate`). The k tokens with the smallest random words are masked.
    """
    rows = position * draws + np.arange(draws, dtype=np.int64)
    v = noise.to_uniform(noise.row_bits(seed, "bound-count", rows))
    counts = 1 + np.minimum(n * (np.arange(draws) + v) / draws, n - 1).astype(np.int64)
    order = np.argsort(noise.token_bits(seed, "bound-mask", rows, n), axis=1)
    masks = np.zeros((draws, n), np.bool_)
    np.put_along_axis(masks, order, np.arange(n)[None, :] < counts[:, None], axis=1)
    return MaskSet(masks, n / (counts * draws), exact=False)


def estimate(nats: NDArray[np.float64], masks: MaskSet) -> tuple[float, float]:
    """Return the bound in nats and the standard error that the noise leaves (0 when exact, NaN with one draw).

    With terms y_j = K * weight_j * nats_j in the order of their strata, the squared error is sum (y_{j+1} - y_j)^2 / (2
    K (K - 1)): neighbours differ by their noise and little else (successive differences; Wolter 2007, chapter 8). It
    errs on the large side.

    Args:
        nats: float64 (rows,), the sum of each row's masked negative log-likelihoods.
    """
    terms = nats * masks.weights
    value = float(terms.sum())
    draws = len(terms)
    if masks.exact:
        return value, 0.0
    if draws == 1:
        return value, math.nan
    y = terms * draws
    return value, math.sqrt(float(np.square(np.diff(y)).sum()) / (2 * draws * (draws - 1)))
