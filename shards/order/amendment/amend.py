"""Amending an order, ending it earlier, and whether a run may go on with an amended one."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ....common.errors import RequestError
from ..base import Order, Repetition
from ..mixture import Mixture
from ..plan import Plan
from .amended import Amended
from .mixture import AmendedMixture
from .plan import AmendedPlan
from .skips import Spans, Written, first_difference, read_skips

Amendable = TypeVar("Amendable", Order, Repetition)


def amend(order: Amendable, skip: Written) -> Amendable:
    """Return `order` without the spans of positions `skip`; without any span, the order as it was made.

    Args:
        order: a plan or mixture; where it has been amended already, `skip` takes the place of its spans.
        skip: [start, stop) or [start, stop, reason] of the positions of the order without any skip, in order.

    Raises:
        RequestError: for spans that overlap, or are not within the order.
    """
    own: Any = order.without_skips()
    skips = read_skips(skip)
    if not skips:
        return own
    kind: Any = AmendedMixture if isinstance(own, Mixture) else AmendedPlan
    return kind(own, skips)


def ending_at(order: Order, position: int) -> Order:
    """Return the plan, amended or not, that ends at `position`: for policies that do not depend on the length.

    Raises:
        RequestError: for a mixture.
    """
    own = order.without_skips()
    if not isinstance(own, Plan):
        raise RequestError("a mixture cannot end earlier: its shares are of its whole length")
    if not isinstance(order, Amended):
        return replace(own, total_tokens=own.tokens_before(position))
    end, passed = order.spans.before(position)
    if passed and passed[-1].stop == end:  # nothing is read after it
        end, passed = passed[-1].start, passed[:-1]
    return amend(replace(own, total_tokens=own.tokens_before(end)), passed)


def why_not_on(saved: Order, order: Order, position: int) -> str:
    """Return why a run of `saved` that stands at `position` cannot go on with `order`; empty where it can.

    It can where nothing but skips tells the two apart, and both read the same up to there.
    """
    own = order.without_skips()
    if saved.without_skips() != own:
        return order.difference(saved)
    first = first_difference(saved.skips, order.skips)
    end = saved.spans.read_to(position) if isinstance(saved, Amended) else position
    if first is None or first >= end:
        return ""
    good = Spans(saved.skips, own.positions).left_before(np.array([first], np.uint64))[0] if saved.skips else first
    back = f"go on from a checkpoint at or before position {good:,}"
    added = next((skip for skip in order.skips if skip.start <= first < skip.stop), None)
    if added is None:
        lost = next(skip for skip in saved.skips if skip.start <= first < skip.stop)
        return f"it has passed over positions {lost.start} to {lost.stop}, which are skipped no more: {back}"
    rest = f", or skip from there on, [{end}, {added.stop}]" if end < added.stop else ""
    return f"at position {position:,} it has read some of the new {added}: {back}{rest}"
