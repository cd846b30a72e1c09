"""What autoregressive training may do to its samples under repetition (arXiv 2606.16246): pure functions of (seed,
position), so that every pass over a sample has its own noise, and the same after any resumption."""

import numpy as np
from numpy.typing import NDArray

from . import noise

Rows = NDArray[np.int64]


def reversed_rows(
    seed: int, share: float, tokens: Rows, n_tokens: NDArray[np.int64], positions: noise.Positions
) -> tuple[Rows, NDArray[np.bool_]]:
    """Return `tokens` with a share of the rows read from their end, PAD still last, and which rows those are.

    Args:
        tokens: int64 (rows, length).
        n_tokens: int64 (rows,), real tokens.
    """
    chosen = noise.to_uniform(noise.row_bits(seed, "right-to-left", positions)) < share
    places = np.arange(tokens.shape[1])[None, :]
    turned = np.where(places < n_tokens[:, None], n_tokens[:, None] - 1 - places, places)
    return np.where(chosen[:, None], np.take_along_axis(tokens, turned, axis=1), tokens), chosen


def drawn(seed: int, purpose: str, share: float, positions: noise.Positions, length: int) -> NDArray[np.bool_]:
    """Return bool (rows, length), True for a share of the places, never for the first."""
    chosen = noise.to_uniform(noise.token_bits(seed, purpose, positions, length)) < share
    chosen[:, 0] = False
    return chosen


def random_ids(seed: int, ids: Rows, positions: noise.Positions, length: int) -> Rows:
    """Return int64 (rows, length), each one of `ids` with equal probability."""
    u = noise.to_uniform(noise.token_bits(seed, "random-id", positions, length))
    return ids[(u * len(ids)).astype(np.int64)]
