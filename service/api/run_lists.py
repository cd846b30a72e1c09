"""Runs as they are shown: lists of them, a page at a time, and the curve of one."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ..database import Place, after
from ..models import Lease, Report, RunRow


@dataclass(frozen=True)
class RunQuery:
    """Which runs are listed; None matches everything.

    Attributes:
        name: a part of it.
        live: only those whose lease lasts, or the others.
        after: only what comes after it in the list.
    """

    name: str | None = None
    live: bool | None = None
    fingerprint: str | None = None
    after: Place | None = None
    limit: int = 200


_HEARD = sa.func.coalesce(RunRow.reported, RunRow.added)
_HOLDS = sa.and_(Lease.name == RunRow.name, Lease.run == RunRow.fingerprint)
"""A lease is found by the name that it is on."""


def listed(connection: Connection, wanted: RunQuery, at: float) -> list[Any]:
    """Return runs, the last heard of first; `heard` is when that was. Those whose lease lasts at `at` are live.

    The page is chosen first, by few columns: whole rows and leases of all runs take several times as long.
    """
    chosen = _matching(sa.select(RunRow.fingerprint), wanted, at)
    if wanted.after:
        chosen = chosen.where(after(_HEARD, RunRow.fingerprint, wanted.after))
    page = connection.execute(chosen.order_by(_HEARD.desc(), RunRow.fingerprint).limit(wanted.limit)).scalars().all()
    columns = Lease.run.label("leased"), Lease.until, Lease.token.label("lease_token"), _HEARD.label("heard")
    rows = sa.select(RunRow.__table__, *columns).select_from(RunRow).outerjoin(Lease, _HOLDS)
    rows = rows.where(RunRow.fingerprint.in_(page))
    return list(connection.execute(rows.order_by(_HEARD.desc(), RunRow.fingerprint)))


def counted(connection: Connection, wanted: RunQuery, at: float) -> tuple[int, int]:
    """Return how many runs match in all, whatever page is asked for, and how many of them are live at `at`."""
    count = sa.select(sa.func.count())
    total = connection.execute(_matching(count.select_from(RunRow), wanted, at)).scalar_one()
    live = count.select_from(Lease).join(RunRow, _HOLDS).where(Lease.until > at)
    alive = 0 if wanted.live is False else connection.execute(_of_run(live, wanted)).scalar_one()
    return total, alive


def _matching(rows: Any, wanted: RunQuery, at: float) -> Any:
    rows = _of_run(rows, wanted)
    if wanted.live is not None:
        lasts = sa.exists().where(_HOLDS, Lease.until > at)
        rows = rows.where(lasts if wanted.live else ~lasts)
    return rows


def _of_run(rows: Any, wanted: RunQuery) -> Any:
    if wanted.name:
        rows = rows.where(RunRow.name.contains(wanted.name, autoescape=True))
    if wanted.fingerprint:
        rows = rows.where(RunRow.fingerprint == wanted.fingerprint)
    return rows


def shown(row: Any, at: float) -> dict[str, Any]:
    """Return a row of `listed` as JSON data, its plan's numbers aside."""
    keys: tuple[str, ...] = ("fingerprint", "name", "plan", "batch_samples", "parent", "parent_position", "details")
    keys += ("state", "position", "tokens", "loss", "kind", "digest", "reported", "added", "receipt_problem", "thinned")
    checked = {None: "not checked yet", "": "valid"}.get(row.receipt_problem, "not valid")
    state = "none" if row.receipt is None else checked
    return {key: getattr(row, key) for key in keys} | {
        "live": row.until is not None and row.until > at,
        "lease": row.lease_token,
        "receipt": state,
        "step": -(-row.position // row.batch_samples),
    }


def curve(connection: Connection, fingerprint: str, split: str, most: int) -> list[dict[str, Any]]:
    """Return at most about `most` of a run's reports in order of position, of each position the newest lease's.

    Of more, the last one of each of `most` equal spans is returned, and the first of all. The database finds each in
    its index: a run of 100,000 reports costs no more than it returns.
    """
    of_run = Report.run == fingerprint, Report.split == split
    wanted = sa.select(Report.position, Report.token, Report.tokens, Report.loss, Report.kind, Report.digest, Report.at)
    few = wanted.where(*of_run).limit(most + 1)
    rows: list[Any] = list(connection.execute(few))
    if len(rows) > most:
        leases = _leases(connection, fingerprint)
        chosen = _chosen(connection, of_run, leases, most)
        each = wanted.where(*of_run, Report.position.in_(chosen))
        rows = [row for lease in leases for row in connection.execute(each.where(Report.token == lease))]
    rows.sort(key=lambda row: (row.position, row.token))
    return list({row.position: dict(row._mapping) for row in rows}.values())


def _leases(connection: Connection, fingerprint: str) -> list[int]:
    """Return the numbers of the leases that a run has reported under, by a step in the index each."""
    found: list[int] = []
    following = sa.select(sa.func.min(Report.token)).where(Report.run == fingerprint)
    while (one := connection.execute(following.where(Report.token > (found or [0])[-1])).scalar()) is not None:
        found.append(one)
    return found


def _chosen(connection: Connection, of_run: tuple[Any, ...], leases: list[int], most: int) -> set[int]:
    """Return the first position of a run's reports, and the last one in each of `most` equal spans."""
    position, ends = Report.position, list[int]()
    for lease in leases:
        for end in (sa.func.min(position), sa.func.max(position)):
            ends += connection.execute(sa.select(end).where(*of_run, Report.token == lease)).scalars()
    known = [end for end in ends if end is not None]
    first, width = min(known), (max(known) - min(known)) // most + 1
    spans = sa.select(sa.literal(0).label("number")).cte("spans", recursive=True)
    spans = spans.union_all(sa.select(spans.c.number + 1).where(spans.c.number < most))
    begin = first + spans.c.number * width
    inside = *of_run, Report.token == sa.bindparam("lease"), position >= begin, position < begin + width
    last = sa.select(sa.func.max(position)).where(*inside).correlate(spans).scalar_subquery()
    found: dict[int, int] = {}
    for lease in leases:
        for number, at in connection.execute(sa.select(spans.c.number, last), {"lease": lease}):
            if at is not None:
                found[number] = max(at, found.get(number, at))
    return {first, *found.values()}
