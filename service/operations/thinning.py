"""Old reports, thinned: a curve keeps its shape, and the ledger all that it follows from.

The rule: of the training reports of one lease, one that is older than so many days goes where a later one of the same
lease lies in the same span of w positions, counted from position 0. w is the power of two that cuts the furthest
position of that lease's reports into 1,000 to 2,000 spans, so that wider spans are made of whole narrower ones: what is
left does not depend on how often reports were thinned before. The last report of every lease stays, and with it a run's
position, tokens and digest; validation, checkpoints, leases and receipts are never touched.
"""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.orm import aliased

from ..database import Database, now
from ..leases import locked
from ..models import Report, RunRow
from .audit import by_command, enter

DAY = 86_400.0

SPANS = 1000
"""Spans that a lease's positions are cut into at least."""

TOGETHER = 1000
"""Reports that go in one transaction: some ten milliseconds, so that runs that report wait no longer."""


class Thinned(NamedTuple):
    """How many reports went, of how many runs, and how many are left of all."""

    reports: int
    runs: int
    left: int


class _Curve(NamedTuple):
    """The training reports of a run under one lease, the furthest of them at position `furthest`."""

    run: str
    name: str
    token: int
    furthest: int


def thin(db: Database, days: float) -> Thinned:
    """Take out reports that are older than `days` by the rule above, a few at a time, while servers run.

    What is done stays done when it is stopped: the next call goes on with the rest.

    Raises:
        UnreachableError: when the database cannot be read or written.
    """
    with db.reader() as connection:
        before = now(connection) - days * DAY
        curves = _old(connection, before)
    gone: dict[str, int] = {}
    for curve in curves:
        while taken := db.write(lambda connection, c=curve: _take(connection, c, before)).result():  # type: ignore[misc]
            gone[curve.run] = gone.get(curve.run, 0) + taken
    total = sum(gone.values())
    if total:
        told = f"{total:,} reports of {len(gone):,} runs, older than {days:g} days"
        db.write(lambda connection: enter(connection, by_command("thin"), "reports thinned", told)).result()
    with db.reader() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(Report)).scalar_one()
    return Thinned(total, len(gone), left)


def _old(connection: Connection, before: float) -> list[_Curve]:
    """Return the curves that have a report from `before` that time and more than one in all."""
    rows = (
        sa.select(Report.run, RunRow.name, Report.token, sa.func.max(Report.position))
        .join(RunRow, RunRow.fingerprint == Report.run)
        .where(Report.split == "train")
        .group_by(Report.run, RunRow.name, Report.token)
        .having(sa.func.min(Report.at) < before, sa.func.count() > 1)
    )
    return [_Curve(*row) for row in connection.execute(rows)]


def span_of(furthest: int) -> int:
    """Return the positions of a span, a power of two, where a lease's reports go to position `furthest`."""
    return 1 << max(0, (furthest // SPANS).bit_length() - 1)


def _take(connection: Connection, curve: _Curve, before: float) -> int:
    """Take out some reports of a curve; return how many."""
    locked(connection, curve.name)  # before all else, as whoever reports does: nobody waits in a circle
    later, width = aliased(Report), span_of(curve.furthest)
    span_end = (Report.position // width + 1) * width
    of_curve = Report.run == curve.run, Report.token == curve.token, Report.split == "train"
    same = later.run == Report.run, later.token == Report.token, later.split == Report.split
    crowded = sa.exists().where(*same, later.position > Report.position, later.position < span_end)
    chosen = sa.select(Report.position).where(*of_curve, Report.at < before, crowded).limit(TOGETHER)
    positions = connection.execute(chosen).scalars().all()
    if positions:
        connection.execute(sa.delete(Report).where(*of_curve, Report.position.in_(positions)))
        more = {"thinned": RunRow.thinned + len(positions)}
        connection.execute(sa.update(RunRow).where(RunRow.fingerprint == curve.run).values(more))
    return len(positions)
