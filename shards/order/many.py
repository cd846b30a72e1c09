"""Samples of several plans at once. A batch has a few positions of each of many sources: the rounds of their
permutations run together, in some 200 array operations whatever the number of sources."""

from collections.abc import Sequence

import numpy as np

from .base import Ids, Int
from .permutation import forward_many
from .plan import Plan

FEW = 2048
"""Positions of a plan up to which it is worth it: more of one plan are faster by themselves."""


def ids_of(plans: Sequence[Plan], which: Int, positions: Int) -> Ids:
    """Return the sample at a position of a plan, for many of them: `plans[which[i]].ids([positions[i]])`.

    Args:
        plans: see above.
        which: int64 (k,), numbers of plans.
        positions: int64 (k,), each of its plan's own.

    Returns:
        uint64 of shape (k,).
    """
    out = np.empty(len(which), np.uint64)
    counts = np.bincount(which, minlength=len(plans))
    together = np.array([0 < n <= FEW and _is_keyed(plan) for plan, n in zip(plans, counts, strict=True)])
    if together.sum() > 1:
        where = np.flatnonzero(together[which])
        out[where] = _keyed(plans, which[where], positions[where])
        counts[together] = 0
    for s in np.flatnonzero(counts).tolist():
        where = np.flatnonzero(which == s)
        out[where] = plans[s].ids(positions[where])
    return out


def _is_keyed(plan: Plan) -> bool:
    """Return whether each pass of a plan is a keyed permutation; numbers of passes leave room for those of plans."""
    return plan.policy in ("reshuffle", "fixed") and plan.copies < 1 << 40


def _keyed(plans: Sequence[Plan], which: Int, positions: Int) -> Ids:
    """Return the same for plans whose passes are keyed permutations."""
    samples = np.array([plan.samples for plan in plans], np.int64)
    fixed = np.array([plan.policy == "fixed" for plan in plans])
    passes, places = np.divmod(positions, samples[which])
    passes[fixed[which]] = 0
    orders, of = np.unique(passes * len(plans) + which, return_inverse=True)
    numbered = [divmod(order, len(plans)) for order in orders.tolist()]
    asked = [(plans[s].samples, plans[s].seed, number) for number, s in numbered]
    return forward_many(asked, of, places.astype(np.uint64))
