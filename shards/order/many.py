"""Samples of several plans at once. A batch has a few positions of each of many sources, a document a few samples in
each of many runs: the rounds of their permutations run together, in some 200 array operations whatever the number of
plans."""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from .base import Ids, Int, Repetition
from .permutation import forward_many, inverse_many
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


# -- how often, and where first and last ----------------------------------------------------------------------------

Tally = tuple[Int, Int, Int]
"""Exposures, first and last position, int64 (k,) each; the positions mean nothing where there are no exposures."""


def tallies(plans: Sequence[Repetition], stops: Int, which: Int, ids: Int) -> Tally:
    """Return how often samples come in the first positions of plans, and where first and last.

    Costs O(1) a sample; with the policy `global` O(copies), with skips what `first_and_last` costs.

    Args:
        plans: of every policy but `repack`, whose samples are others in every pass.
        stops: int64 (n,): of each plan the positions [0, stops[i]) are looked at.
        which: int64 (k,), numbers of plans.
        ids: int64 (k,), each of its plan's own.
    """
    plain = np.array([plan.policy != "global" and not plan.skips for plan in plans], bool)
    out = np.zeros((3, len(which)), np.int64)
    where = np.flatnonzero(plain[which])
    if len(where):
        out[:, where] = _of_passes(plans, stops, which[where], ids[where])
    for i in np.unique(which[~plain[which]]).tolist():
        where = np.flatnonzero(which == i)
        plan, wanted, stop = plans[i], ids[where].astype(np.uint64), int(stops[i])
        if plan.policy == "global":
            out[:, where] = _of_copies(plan, wanted, stop)
        else:  # only those have skips
            out[:, where] = _of_amended(cast(_Amended, plan), wanted, stop)
    return out[0], out[1], out[2]


def _of_passes(plans: Sequence[Repetition], stops: Int, which: Int, ids: Int) -> Tally:
    """Return the same for plans whose every pass has each sample once."""
    samples = np.array([plan.samples for plan in plans], np.int64)
    keyed = np.array([plan.policy != "sequential" for plan in plans], bool)[which]
    once = np.array([plan.policy == "fixed" for plan in plans], bool)[which]
    last, place = (values[which] for values in np.divmod(stops, samples))
    asked = np.array([np.zeros_like(last), np.maximum(last - 1, 0), last]) * ~once
    at = np.array([ids] * 3)
    needed = np.array([keyed, keyed & ~once, keyed & ~once])  # of the policy `fixed` all passes are the first
    rows, of = np.nonzero(needed)
    numbers = which[of]
    seeds = [plan.seed for plan in plans]
    at[rows, of] = inverse_many(samples[numbers], [seeds[i] for i in numbers.tolist()], asked[rows, of], ids[of])
    at[1:, once] = at[0, once]
    again = at[2] < place
    newest = np.where(again, last, last - 1) * samples[which] + np.where(again, at[2], at[1])
    return last + again, at[0], newest


class _Amended(Protocol):
    """What is asked of a plan with skips, as amendment/plan.py has it, which is made from what is made from this."""

    def first_and_last(self, ids: Ids, position: int) -> tuple[Ids, Ids]: ...
    def exposures(self, position: int, ids: Ids) -> Int: ...


def _of_amended(plan: _Amended, ids: Ids, stop: int) -> Tally:
    first, last = plan.first_and_last(ids, stop)
    return plan.exposures(stop, ids), first.astype(np.int64), last.astype(np.int64)


def _of_copies(plan: Repetition, ids: Ids, stop: int) -> Tally:
    """Look at all copies of each sample, many at once: which of them come before the stop has no shorter answer."""
    end = np.uint64(stop)
    total, first, last = np.zeros(len(ids), np.int64), np.full(len(ids), end), np.zeros(len(ids), np.uint64)
    for block in plan.blocks_of_copies(len(ids)):
        at = plan.positions_of_copies(ids, block)
        seen = at < end
        total += seen.sum(axis=0)
        first = np.minimum(first, at.min(axis=0))
        last = np.maximum(last, np.where(seen, at, np.uint64(0)).max(axis=0))
    return total, first.astype(np.int64), last.astype(np.int64)
