"""The audit log: who changed what, entered in the transaction of the change itself, and bounded.

What is entered stands in one table, by the function that makes the change. Reports, signs of life and checkpoints of
runs are none of it: the ledger has them. Who asks is known from the request (`asking`), or is the user of a command.
"""

import contextlib
import getpass
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from ...shards.order.base import Order
from .. import catalogue, limits, runs
from ..database import now
from ..leases import Held
from ..models import AuditEntry
from ..optouts import lists

T = TypeVar("T")

MOST_ENTRIES = 100_000
"""The oldest ones go."""

MOST_WHAT = 1000


class Asker(NamedTuple):
    """Who asks for a change: the name of a token or user, the client's address, the request's id."""

    who: str
    client: str
    request: str


_asker: ContextVar[Asker | None] = ContextVar("epochal_asker", default=None)


@contextlib.contextmanager
def asking(asker: Asker) -> Iterator[None]:
    """Let changes in the body count as made by `asker`."""
    token = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(token)


def by_command(command: str) -> Asker:
    """Return the user of a command on the service's machine, as who asks."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        user = "unknown user"
    return Asker(f"{user} (epochal {command})", "", "")


Described = tuple[str, str] | None
"""What was done, and to what; None where nothing was changed."""


def _run_claimed(result: Any, claim: runs.RunClaim, run: dict[str, Any]) -> Described:
    if result["token"] == result["previous"]["token"]:
        return None
    return "name leased", f"{claim.name}: lease {result['token']}, run {result['run']}"


def _run_closed(result: Any, name: str, said: Held, state: str, receipt: Any) -> Described:
    return ("run closed", f"{name}: {state}, lease {said.token}") if result["new"] else None


def _artifacts(result: Any, found: list[catalogue.FoundArtifact], root: str | None) -> Described:
    if root is not None:  # the service looked by itself
        return None
    return "artifact registered", ", ".join(
        f"{f.manifest.kind} {f.manifest.name} {f.manifest.fingerprint}" for f in found
    )


def _plan(new: bool, plan: Order, name: str | None = None) -> Described:
    return ("plan entered", f"{name or ''} {plan.fingerprint}".strip()) if new or name else None


def _limit(result: Any, kind: str, cap: int, subset: str | None) -> Described:
    return "limit set", f"{result['id']}: {kind} {cap:,}" + (f" on {subset}" if subset else "")


def _list(result: dict[str, Any], name: str, documents: Any) -> Described:
    lines, version = result["lines"], result["version"]
    return ("opt-out list entered", f"{name}: version {version}, {lines:,} lines") if result["new"] else None


_TABLE: dict[Callable[..., Any], Callable[..., Described]] = {
    catalogue.enter_plan: _plan,
    catalogue.update: _artifacts,
    runs.claim_lease: _run_claimed,
    runs.release: lambda done, name: ("name released", f"{name}: run {done['run']}"),
    runs.close: _run_closed,
    limits.add: _limit,
    lists.add: _list,
    limits.remove: lambda done, number: ("limit removed", str(number)),
}
"""By the function that changes something: what is entered, from its result and arguments."""


def audited(job: Callable[..., T]) -> Callable[..., T]:
    """Return `job(connection, *args)`, which also enters what it changed where somebody asks for it."""
    describe, asker = _TABLE.get(job), _asker.get()
    if describe is None or asker is None:
        return job

    def both(connection: Connection, *args: Any) -> T:
        result = job(connection, *args)
        described = describe(result, *args)
        if described is not None:
            enter(connection, asker, *described)
        return result

    return both


def enter(connection: Connection, asker: Asker, action: str, what: str) -> None:
    """Enter one change; the entries beyond the bound go now and then."""
    values = {"who": asker.who[:200], "client": asker.client[:100], "request": asker.request[:128]}
    made = sa.insert(AuditEntry).values(at=now(connection), action=action, what=what[:MOST_WHAT], **values)
    number = connection.execute(made.returning(AuditEntry.id)).scalar_one()
    if number % 100 == 0:
        connection.execute(sa.delete(AuditEntry).where(AuditEntry.id <= number - MOST_ENTRIES))


def listed(connection: Connection, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Return entries, the newest first; those with a smaller number than `before`."""
    t = AuditEntry.__table__
    rows = sa.select(t).order_by(t.c.id.desc()).limit(limit)
    if before is not None:
        rows = rows.where(t.c.id < before)
    return [dict(row._mapping) for row in connection.execute(rows)]
