"""Limits: caps on exposures and tokens that a run is held against before it starts."""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ..shards.order.base import Order
from .database import now
from .errors import ConflictError, NotFoundError
from .ledger import DocumentReader, Segment, most_exposed, segments_of
from .models import Limit

KINDS = ("exposures", "subset_exposures", "tokens")


def add(connection: Connection, kind: str, cap: int, subset: str | None) -> dict[str, Any]:
    """Enter a limit; the same one again is the one that is there."""
    t = Limit.__table__
    there = sa.select(t).where(t.c.kind == kind, t.c.cap == cap, t.c.subset.is_not_distinct_from(subset))
    row = connection.execute(there).first()
    if row is None:
        values = {"kind": kind, "cap": cap, "subset": subset, "added": now(connection)}
        connection.execute(sa.insert(Limit).values(**values))
        row = connection.execute(there).first()
    assert row is not None, "it was just entered"
    return dict(row._mapping)


def remove(connection: Connection, number: int) -> None:
    """Remove a limit.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    if not connection.execute(sa.delete(Limit).where(Limit.id == number)).rowcount:
        raise NotFoundError(f"there is no limit {number}")


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Return all limits, in the order they were made."""
    return [dict(row._mapping) for row in connection.execute(sa.select(Limit.__table__).order_by(Limit.id))]


def check(
    limits: Sequence[dict[str, Any]],
    plan: Order,
    history: Sequence[tuple[Order, int]],
    pool_of: Callable[[str], str],
    read: DocumentReader,
) -> None:
    """Raise ConflictError when `plan`, trained to its end on top of `history`, would break a limit, with the excess.

    A mixture trains on several subsets, each of which a limit may be of. See `most_exposed` for the cost.

    Args:
        history: plans or mixtures and the positions they stop at.
        pool_of: the pool of a plan's subset (any other name where it is not known).
    """
    whole = [s for order, stop in [(plan, plan.positions), *history] for s in segments_of("", order, stop, 1, pool_of)]
    own = [p.subset for p in plan.components().values()]
    for limit in limits:
        if limit["subset"] not in (None, *own):
            continue
        if limit["kind"] == "tokens":
            _refuse(limit, sum(s.plan.tokens_before(s.stop) for s in whole), "tokens in all")
            continue
        for counted in [whole] if limit["kind"] == "exposures" else _by_subset(whole, limit["subset"], own):
            _refuse(limit, most_exposed(counted, limit["cap"], read), "exposures of a document")


def _by_subset(segments: Sequence[Segment], subset: str | None, own: Sequence[str]) -> list[list[Segment]]:
    """Return the segments on the subset of a limit, or on each of a run's own."""
    return [[s for s in segments if s.plan.subset == one] for one in ([subset] if subset else own)]


def _refuse(limit: dict[str, Any], would_be: int, what: str) -> None:
    excess = would_be - limit["cap"]
    if excess > 0:
        raise ConflictError(
            f"limit {limit['id']} allows {limit['cap']:,} {what}, this run would come to {would_be:,}: "
            f"{excess:,} too many",
            limit=limit["id"],
            cap=limit["cap"],
            would_be=would_be,
            excess=excess,
        )
