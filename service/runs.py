"""Runs: registered with a plan, alive while they hold the lease on their name, heard of through reports.

Everything that writes here runs in a transaction of `Database.write`. It starts by locking the lease of the run's name,
so two servers on one database agree about who holds it. A lease has a number (`token`) that rises with every holder:
what comes with an older one is refused, however late it arrives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ..common.errors import RequestError
from ..common.hashing import digest
from ..shards.order.base import Order
from .catalogue import enter_plan, resolve
from .database import insert, insert_all, now
from .errors import ConflictError, NotFoundError
from .leases import Held, held, locked, note
from .models import Artifact, Checkpoint, Lease, PlanRow, PlanSubset, Report, RunRow

RUN_VERSION = 1
"""Goes into a run's fingerprint; raised when it is made from other things."""


@dataclass(frozen=True)
class RunClaim:
    """What a run says when it starts.

    Attributes:
        holder: see `Lease`.
        session: see `Lease`.
        seconds: how long a lease lasts after a report.
        parent: name or fingerprint of the run whose model is trained on.
        parent_position: where it is taken over (None: at its last reported position).
        details: what else is to be known of the run, JSON.
    """

    name: str
    plan: Order
    batch_samples: int
    holder: str
    session: str
    seconds: float
    parent: str | None = None
    parent_position: int | None = None
    details: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunReport:
    """A report: samples trained on so far, real tokens, loss with its kind, and the receipt's digest."""

    position: int
    tokens: int
    loss: float | None = None
    kind: str | None = None
    digest: str | None = None
    split: str = "train"


class Ancestor(NamedTuple):
    """A run's fingerprint and name, its plan's, the position its model stops at in a history, and its batch."""

    run: str
    name: str
    plan: str
    stop: int
    batch_samples: int


def identify(connection: Connection, claim: RunClaim) -> dict[str, Any]:
    """Return the row of the run that `claim` is about, its fingerprint included.

    Raises:
        NotFoundError: when nothing of that name is known.
        RequestError: for a wrong request.
    """
    parent, position = None, 0
    if claim.parent is not None:
        parent = resolve(connection, "run", claim.parent)
        row = get(connection, parent)
        position = row.position if claim.parent_position is None else claim.parent_position
        positions = plan_of(connection, row.plan)["positions"]
        if not 0 <= position <= positions:
            raise RequestError(f"parent_position is {position}, but run '{row.name}' has positions 0 to {positions}")
        _same_tokenizer(connection, claim.plan, row.plan)
    elif claim.parent_position is not None:
        raise RequestError("parent_position needs a parent")
    identity = {
        "run_version": RUN_VERSION,
        "name": claim.name,
        "plan": claim.plan.fingerprint,
        "batch_samples": claim.batch_samples,
        "parent": parent,
        "parent_position": position,
        "details": claim.details or {},
    }
    row = {key: value for key, value in identity.items() if key != "run_version"}
    return row | {"fingerprint": digest(identity)}


def _same_tokenizer(connection: Connection, plan: Order, parents: str) -> None:
    """Raise RequestError when parent and child were tokenized differently: tokens could not be counted together.

    parents: fingerprint of the parent's plan.
    """
    before = sa.select(PlanSubset.subset).where(PlanSubset.plan == parents)
    own = [p.subset for p in plan.components().values()]
    known = Artifact.fingerprint.in_(own) | Artifact.fingerprint.in_(before)
    wanted = sa.select(Artifact.tokenizer_fingerprint).where(known).distinct()
    if len(connection.execute(wanted).all()) > 1:
        raise RequestError("a run cannot continue one on data of another tokenizer")


def claim_lease(connection: Connection, claim: RunClaim, run: dict[str, Any]) -> dict[str, Any]:
    """Register the run and take the lease on its name; return run, token, position and what else is known of it.

    The same session gets the same lease again.

    Raises:
        ConflictError: while another holder's lease lasts.
    """
    enter_plan(connection, claim.plan)
    at = now(connection)
    start = {"token": 0, "position": 0, "tokens": 0, "state": "open", "added": at}
    insert(connection, RunRow, **run, **start)
    nobody = {"token": 0, "holder": "", "session": "", "seconds": 0.0, "until": 0.0, "calls": 0}
    insert(connection, Lease, name=claim.name, run=run["fingerprint"], **nobody)
    lease = locked(connection, claim.name)
    at = now(connection)  # waiting for the lock may have taken a while
    mine = lease.session == claim.session and lease.run == run["fingerprint"]
    if not mine and lease.until > at and lease.holder != claim.holder:
        held = get(connection, lease.run)
        raise ConflictError(
            f"run name '{claim.name}' is leased to a live run, at position {held.position}, for another "
            f"{lease.until - at:,.0f} s: choose another run_name, or wait until that run is over "
            f"(`epochal release {claim.name}` ends the lease of one that is dead)",
            position=held.position,
            seconds=lease.until - at,
        )
    values = {"run": run["fingerprint"], "holder": claim.holder, "session": claim.session, "seconds": claim.seconds}
    token, calls = (lease.token, lease.calls) if mine else (lease.token + 1, 0)
    taken = sa.update(Lease).where(Lease.name == claim.name)
    connection.execute(taken.values(**values, token=token, until=at + claim.seconds, calls=calls))
    connection.execute(sa.update(RunRow).where(RunRow.fingerprint == run["fingerprint"]).values(state="open"))
    row = get(connection, run["fingerprint"])
    return {
        "run": row.fingerprint,
        "name": claim.name,
        "plan": row.plan,
        "token": token,
        "position": row.position,
        "digest": row.digest,
        "seconds": claim.seconds,
        "calls": calls,
        "previous": {"token": lease.token, "calls": lease.calls, "own": lease.holder == claim.holder},
        "parent_position": run["parent_position"],
    }


def is_live(connection: Connection, claim: RunClaim, run: str) -> bool:
    """Return whether a run is live already, by a lease of the holder that claims it."""
    mine = sa.select(Lease.until).where(Lease.name == claim.name, Lease.run == run, Lease.holder == claim.holder)
    return (connection.execute(mine).scalar() or 0.0) > now(connection)


def release(connection: Connection, name: str) -> dict[str, Any]:
    """End the lease on a run's name, whoever holds it; it can then be claimed at once.

    Should its holder be live after all, its reports are taken until another one claims the name.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    lease, at = locked(connection, name), now(connection)
    connection.execute(sa.update(Lease).where(Lease.name == name).values(until=0.0))
    position = get(connection, lease.run).position
    return {"run": lease.run, "name": name, "seconds": max(0.0, lease.until - at), "position": position}


def report(connection: Connection, name: str, under: Held, said: Sequence[RunReport]) -> dict[str, Any]:
    """Enter reports; one that is there already changes nothing. Return how many are new, the run's position, by how
    many positions and tokens it has got on, and its fingerprint.

    Raises:
        NotFoundError: for a lease that is over.
        ConflictError: for a lease that is over.
        RequestError: for a position beyond the plan.
    """
    lease, token = held(connection, name, under), under.token
    run = connection.execute(
        sa.select(RunRow.plan, RunRow.token, RunRow.position, RunRow.tokens).where(RunRow.fingerprint == lease.run)
    ).one()
    positions = _length(connection, run.plan)
    wrong = [s.position for s in said if s.position > positions]
    if wrong:
        raise RequestError(f"position {wrong[0]} is not in the plan, which ends at {positions}")
    at = now(connection)
    new = insert_all(connection, Report, [{"run": lease.run, "token": token, "at": at, **vars(s)} for s in said])
    trained = [s for s in said if s.split == "train"]
    position, tokens = run.position, run.tokens
    if trained:
        last = max(trained, key=lambda s: s.position)
        if token > run.token or last.position > run.position:
            position, tokens = last.position, last.tokens
            values = {k: v for k, v in vars(last).items() if k != "split"}
            newer = sa.update(RunRow).where(RunRow.fingerprint == lease.run)
            connection.execute(newer.values(**values, token=token, reported=at))
    note(connection, lease, under, len(said))
    gained = (max(0, position - run.position), max(0, tokens - run.tokens))
    return {"new": new, "position": position, "gained": gained, "run": lease.run}


def checkpoint(connection: Connection, name: str, said: Held, position: int, label: str, digest: str | None) -> bool:
    """Enter a checkpoint; return whether it is new.

    Raises:
        NotFoundError: as `report` does.
        ConflictError: as `report` does.
        RequestError: when the plan ends before `position`.
    """
    lease = held(connection, name, said)
    positions = _length(connection, get(connection, lease.run).plan)
    if position > positions:
        raise RequestError(f"position {position} is not in the plan, which ends at {positions}")
    values = {"digest": digest, "at": now(connection)}
    note(connection, lease, said, 1)
    return insert(connection, Checkpoint, run=lease.run, position=position, name=label, **values)


def close(connection: Connection, name: str, said: Held, state: str, receipt: dict[str, Any] | None) -> dict[str, Any]:
    """Close a run: its name is free again. `new` in what is returned: it was not closed so already.

    Args:
        receipt: what it trained on, yet to be checked.

    Raises:
        NotFoundError: as `report` does.
        ConflictError: as `report` does.
    """
    lease = held(connection, name, said)
    note(connection, lease, said, 1)
    values: dict[str, Any] = {"state": state}
    before = get(connection, lease.run)
    new = before.state != state or receipt not in (None, before.receipt)
    if receipt is not None and new:
        values |= {"receipt": receipt, "receipt_problem": None}
    connection.execute(sa.update(RunRow).where(RunRow.fingerprint == lease.run).values(**values))
    connection.execute(sa.update(Lease).where(Lease.name == name).values(until=0.0))
    row = get(connection, lease.run)
    return {"run": lease.run, "state": state, "position": row.position, "tokens": row.tokens, "new": new}


def unchecked(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
    """Return the runs whose receipts were not checked yet, with them."""
    rows = sa.select(RunRow.fingerprint, RunRow.receipt).where(
        RunRow.receipt.is_not(None), RunRow.receipt_problem.is_(None)
    )
    return [(row.fingerprint, row.receipt) for row in connection.execute(rows)]


def checked(connection: Connection, fingerprint: str, receipt: dict[str, Any], problem: str) -> None:
    """Enter what is wrong with a receipt (nothing: empty), unless another one was handed in meanwhile."""
    if get(connection, fingerprint).receipt == receipt:
        values = {"receipt_problem": problem[:1000]}
        connection.execute(sa.update(RunRow).where(RunRow.fingerprint == fingerprint).values(**values))


def get(connection: Connection, fingerprint: str) -> Any:
    """Return the row of a run.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    row = connection.execute(sa.select(RunRow.__table__).where(RunRow.fingerprint == fingerprint)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no run '{fingerprint}'")
    return row


def plan_of(connection: Connection, fingerprint: str) -> dict[str, Any]:
    """Return a plan as it was entered.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    found = connection.execute(sa.select(PlanRow.plan).where(PlanRow.fingerprint == fingerprint)).scalar()
    if found is None:
        raise NotFoundError(f"there is no plan '{fingerprint}'")
    return dict(found)


_lengths: dict[str, int] = {}
"""Positions of plans, which never change."""


def _length(connection: Connection, plan: str) -> int:
    if plan not in _lengths:
        _lengths[plan] = plan_of(connection, plan)["positions"]
    return _lengths[plan]


_STRETCHES = sa.select(
    RunRow.fingerprint,
    RunRow.name,
    RunRow.plan,
    RunRow.position,
    RunRow.batch_samples,
    RunRow.parent,
    RunRow.parent_position,
)


def ancestries(connection: Connection) -> dict[str, list[Ancestor]]:
    """Return, for every run, itself at its position, then the runs its model went through, each up to where it left."""
    rows = {row[0]: tuple(row) for row in connection.execute(_STRETCHES).all()}
    return {fingerprint: _history(rows, fingerprint) for fingerprint in rows}


def ancestry(connection: Connection, fingerprint: str) -> list[Ancestor]:
    """Return what `ancestries` says of one run, without reading the others."""
    rows: dict[str, Any] = {}
    at: str | None = fingerprint
    while at is not None:
        rows[at] = tuple(connection.execute(_STRETCHES.where(RunRow.fingerprint == at)).one())
        at = rows[at][5]
    return _history(rows, fingerprint)


def _history(rows: dict[str, tuple[Any, ...]], fingerprint: str) -> list[Ancestor]:
    """Return the history of a run; `rows` are those of `_STRETCHES`, by their fingerprints."""
    history: list[Ancestor] = []
    at, stop = fingerprint, None
    while at is not None:
        run, name, plan, position, batch_samples, parent, parent_position = rows[at]
        history.append(Ancestor(run, name, plan, position if stop is None else stop, batch_samples))
        at, stop = parent, parent_position
    return history
