"""Rules that name the positions a masked-diffusion model writes next, from nothing but what is already written.

A rule that looks at nothing else makes the model an exact distribution over texts (DUEL; Turok et al. 2026): the
probability of a text is the product of those of its tokens as they are written. Generation and likelihoods share the
rules here.

Scores are rounded to the nearest multiple of `CELL` before they are compared, and of equal ones the leftmost position
comes first. So positions that are equally sure but for rounding errors (a model that knows a text by heart is sure of
all of them) are written from left to right on every machine.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .writing_order import Order

CELL = 2.0**-6
"""Nats: scores that round to the same multiple of it are equal."""

Scores = NDArray[np.float64]
Places = NDArray[np.bool_]


def scores_of(logits: Tensor, order: Order) -> Tensor:
    """Return how early each position is to be written, more is earlier: nats, dtype of `logits`, (positions,).

    Args:
        logits: (positions, vocabulary), -inf for ids that are never written.
        order: left_to_right scores all alike, so that the position alone decides.
    """
    if order == "left_to_right":
        return torch.zeros_like(logits[:, 0])
    log_p = logits.log_softmax(-1)
    if order == "confidence":
        return log_p.amax(-1)
    return -torch.special.entr(log_p.exp()).sum(-1)


def choose(scores: Scores, waiting: Places, count: int) -> Places:
    """Return which positions are written next: the `count` best of each row's waiting ones, or all where fewer wait.

    Args:
        scores: float64 (rows, positions), finite where a position waits.
        waiting: bool (rows, positions), True where nothing is written yet.
        count: at least 1.
    """
    cells = np.where(waiting, np.rint(scores / CELL), -np.inf)
    first = np.argsort(-cells, axis=1, kind="stable")[:, :count]
    chosen = np.zeros_like(waiting)
    np.put_along_axis(chosen, first, True, axis=1)
    return chosen & waiting


def undecided(scores: Scores, waiting: Places, chosen: Places, noise: float) -> NDArray[np.bool_]:
    """Return, bool (rows,), whether scores that are wrong by up to `noise` could have hidden another choice.

    Where no score that may reach the last chosen cell is within `noise` of a cell's edge, none could.
    """
    low, high = np.rint((scores - noise) / CELL), np.rint((scores + noise) / CELL)
    floor = np.where(chosen, low, np.inf).min(axis=1, keepdims=True)
    return ((low != high) & waiting & (high >= floor)).any(axis=1)
