"""Whether a database's rows say the same of everything: what a backup is held against, and `epochal serve --check`."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ...common.errors import EpochalError
from ...shards.order.stored import order_from_dict
from ..models import Artifact, Base, Checkpoint, Lease, OptOut, PlanRow, Report, RunRow
from ..optouts import lists

MOST_PROBLEMS = 20


def problems(connection: Connection) -> list[str]:
    """Return what does not go together, one line each; at most `MOST_PROBLEMS` of them."""
    found: list[str] = []
    for problem in _all(connection):
        found.append(problem)
        if len(found) == MOST_PROBLEMS:
            break
    return found


def counts(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has, by its name."""
    rows = (sa.select(sa.func.count()).select_from(table) for table in Base.metadata.sorted_tables)
    names = (table.name for table in Base.metadata.sorted_tables)
    return {name: connection.execute(wanted).scalar_one() for name, wanted in zip(names, rows, strict=True)}


def _all(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        yield from (f"the file: {row[0]}" for row in connection.exec_driver_sql("PRAGMA quick_check") if row[0] != "ok")
        for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"{table}: row {row} refers to a row of {parent} that is not there"
    yield from _artifacts(connection)
    yield from _optouts(connection)
    yield from _runs(connection, dict(_plans(connection)))


def _artifacts(connection: Connection) -> Iterator[str]:
    t = Artifact.__table__
    for row in connection.execute(sa.select(t.c.fingerprint, t.c.manifest)):
        if row.manifest.get("fingerprint") != row.fingerprint:
            yield f"artifact {row.fingerprint}: its manifest is of {row.manifest.get('fingerprint')}"


def _optouts(connection: Connection) -> Iterator[str]:
    t = OptOut.__table__
    last: dict[str, int] = {}
    for row in connection.execute(sa.select(t).order_by(t.c.name, t.c.version)):
        what = f"opt-out list '{row.name}', version {row.version}"
        if row.version != last.get(row.name, 0) + 1:
            yield f"{what}: the version before it is not there"
        last[row.name] = row.version
        content = lists.content_of([(kind, value) for kind, value in row.documents])
        named = lists.fingerprint_of(row.name, row.version, content)
        if (row.lines, row.digest, row.fingerprint) != (len(row.documents), content, named):
            yield f"{what}: its documents are not those that it was entered with"


def _plans(connection: Connection) -> Iterator[tuple[str, int | str]]:
    """Yield the positions of each plan by its fingerprint, or what is wrong with it."""
    for row in connection.execute(sa.select(PlanRow.fingerprint, PlanRow.plan)):
        try:
            order = order_from_dict(row.plan)
            same = order.fingerprint == row.fingerprint
            yield row.fingerprint, order.positions if same else f"it is the plan {order.fingerprint}"
        except EpochalError as error:
            yield row.fingerprint, str(error)


def _runs(connection: Connection, plans: dict[str, int | str]) -> Iterator[str]:
    yield from (f"plan {name}: {said}" for name, said in plans.items() if isinstance(said, str))
    lengths = {name: said for name, said in plans.items() if isinstance(said, int)}
    rows = {row.fingerprint: row for row in connection.execute(_TOLD)}
    for row in rows.values():
        what, end = f"run '{row.name}' ({row.fingerprint})", lengths.get(row.plan, row.position)
        furthest = max(row.position, row.furthest or 0, row.saved or 0)
        if furthest > end:
            yield f"{what}: position {furthest:,} is told of, and its plan ends at {end:,}"
        if row.parent and row.parent in rows and row.parent_position > lengths.get(rows[row.parent].plan, 2**63):
            yield f"{what}: it continues a run at position {row.parent_position:,}, which that one does not have"
        if (row.last_token or 0) > (row.lease_token or 0):
            yield f"{what}: reports came under lease {row.last_token}, and the last one is {row.lease_token}"
    for row in connection.execute(_UNREPORTED):
        yield f"run '{row.name}' ({row.fingerprint}): no report says position {row.position:,}, where it is said to be"


def _per_run(model: Any, *columns: Any) -> Any:
    return sa.select(model.run, *columns).group_by(model.run).subquery()


_REPORTED = _per_run(
    Report, sa.func.max(Report.position).label("furthest"), sa.func.max(Report.token).label("last_token")
)
_SAVED = _per_run(Checkpoint, sa.func.max(Checkpoint.position).label("saved"))
_TOLD = (
    sa.select(
        RunRow.fingerprint,
        RunRow.name,
        RunRow.plan,
        RunRow.position,
        RunRow.parent,
        RunRow.parent_position,
        Lease.token.label("lease_token"),
        _REPORTED.c.furthest,
        _REPORTED.c.last_token,
        _SAVED.c.saved,
    )
    .outerjoin(Lease, Lease.name == RunRow.name)
    .outerjoin(_REPORTED, _REPORTED.c.run == RunRow.fingerprint)
    .outerjoin(_SAVED, _SAVED.c.run == RunRow.fingerprint)
)
"""Every run with what its reports, checkpoints and lease say."""

_SAME = sa.and_(
    Report.run == RunRow.fingerprint,
    Report.token == RunRow.token,
    Report.position == RunRow.position,
    Report.split == "train",
    Report.tokens == RunRow.tokens,
    Report.digest.is_not_distinct_from(RunRow.digest),
)
_UNREPORTED = sa.select(RunRow.fingerprint, RunRow.name, RunRow.position).where(
    RunRow.reported.is_not(None), ~sa.exists().where(_SAME)
)
"""Runs whose position, tokens and digest are not those of a report."""
