"""Leases: a run's name belongs to whoever holds its lease, by a number that rises with every holder.

What comes under an older number is refused, however late it arrives. A number, or a count of calls, that this database
does not know yet was given before it was replaced or restored from a backup: the answer says so, and the run sends
again what is missing.
"""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from .database import now
from .errors import ConflictError, NotFoundError
from .models import Lease


class Held(NamedTuple):
    """What a run says under its lease: its number, the session of the claim, the calls acknowledged before this one.

    The last two may be left out (version 0.1.0 does): then nothing that the database has lost is noticed.
    """

    token: int
    session: str | None = None
    after: int | None = None


def locked(connection: Connection, name: str) -> Any:
    """Lock and return the lease of `name`.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    row = connection.execute(sa.select(Lease.__table__).where(Lease.name == name).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no run '{name}'")
    return row


def held(connection: Connection, name: str, said: Held) -> Any:
    """Lock and return the lease of `name`.

    Raises:
        NotFoundError: when nothing of that name is known.
        ConflictError: when it is not the lease that `said` speaks of; `details` then has the number of the one it is,
            or as `calls` how many of its calls this database has.
    """
    lease = locked(connection, name)
    if said.token > lease.token:
        raise ConflictError(
            f"lease {said.token} of run '{name}' is not known here, the last is {lease.token}: claim the name again",
            token=lease.token,
        )
    if lease.token != said.token:
        raise ConflictError(
            f"lease {said.token} of run '{name}' is over: it was taken over with number {lease.token}",
            token=lease.token,
        )
    if said.session not in (None, lease.session):
        raise ConflictError(
            f"lease {said.token} of run '{name}' is another session's here: claim the name again", token=lease.token
        )
    if (said.after or 0) > lease.calls:
        raise ConflictError(
            f"of {said.after:,} calls under lease {said.token} of run '{name}' {lease.calls:,} are known here: "
            "send the others again",
            calls=lease.calls,
        )
    return lease


def note(connection: Connection, lease: Any, said: Held, calls: int) -> None:
    """Let a live run's lease last from now on (a closed run stays closed), and count what was said under it."""
    values: dict[str, Any] = {}
    if lease.until > 0:
        values["until"] = now(connection) + lease.seconds
    if said.after is not None and said.after + calls > lease.calls:
        values["calls"] = said.after + calls
    if values:
        connection.execute(sa.update(Lease).where(Lease.name == lease.name).values(**values))


def renew(connection: Connection, name: str, said: Held) -> dict[str, Any]:
    """Say that the run is alive.

    Raises:
        NotFoundError: when nothing of that name is known.
        ConflictError: when it contradicts what is there.
    """
    lease = held(connection, name, said)
    note(connection, lease, said, 0)
    return {"token": said.token, "seconds": lease.seconds}
