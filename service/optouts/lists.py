"""Opt-out lists as they are kept: every version of each, the last of which is in force.

A list is never changed or removed. A newer one of the same name takes its place, also one that names fewer documents or
none; what the name meant before can still be read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ...common.hashing import digest
from ...shards.without.lists import Entry, NameList, list_of
from ..database import Place, after, insert, now
from ..errors import NotFoundError
from ..models import OptOut


class InForce(NamedTuple):
    """The version of a list that is in force, without its documents."""

    name: str
    version: int
    fingerprint: str
    lines: int
    added: float


_SHOWN = (OptOut.name, OptOut.version, OptOut.fingerprint, OptOut.lines, OptOut.added)


def add(connection: Connection, name: str, documents: Sequence[Entry]) -> dict[str, Any]:
    """Enter a list, or a newer version of it; return it with `new`, which says whether it is. The same documents as in
    force, in any order, change nothing."""
    kept = list(dict.fromkeys(documents))
    content = content_of(kept)
    while True:  # another server may be faster
        last = connection.execute(
            sa.select(*_SHOWN, OptOut.digest).where(OptOut.name == name).order_by(OptOut.version.desc()).limit(1)
        ).first()
        if last is not None and last.digest == content:
            return InForce(*last[:-1])._asdict() | {"new": False}
        version, at = (last.version if last else 0) + 1, now(connection)
        row = InForce(name, version, fingerprint_of(name, version, content), len(kept), at)
        if insert(connection, OptOut, documents=list(map(list, kept)), digest=content, **row._asdict()):
            return row._asdict() | {"new": True}


def content_of(documents: Sequence[Entry]) -> str:
    """Return the digest of a list's documents, in any order."""
    return digest(sorted((list(entry) for entry in documents), key=repr))


def fingerprint_of(name: str, version: int, content: str) -> str:
    """Return the fingerprint of a version of a list, whose documents have the digest `content`."""
    return digest({"optout_version": 1, "name": name, "version": version, "documents": content})


def in_force(connection: Connection) -> list[InForce]:
    """Return the last version of every list that names a document."""
    return [row for row in listed(connection, None, None) if row.lines]


def listed(connection: Connection, place: Place | None, limit: int | None, name: str | None = None) -> list[InForce]:
    """Return the last version of every list whose name has `name` in it, the newest first, those after `place`."""
    last = sa.select(OptOut.name, sa.func.max(OptOut.version).label("version")).group_by(OptOut.name).subquery()
    rows = sa.select(*_SHOWN).join(last, (last.c.name == OptOut.name) & (last.c.version == OptOut.version))
    if place:
        rows = rows.where(after(OptOut.added, OptOut.fingerprint, place))
    if name:
        rows = rows.where(OptOut.name.contains(name, autoescape=True))
    rows = rows.order_by(OptOut.added.desc(), OptOut.fingerprint).limit(limit)
    return [InForce(*row) for row in connection.execute(rows)]


def versions(connection: Connection, name: str) -> list[InForce]:
    """Return all versions of a list, the newest first.

    Raises:
        NotFoundError: when there is no list of that name.
    """
    rows = sa.select(*_SHOWN).where(OptOut.name == name).order_by(OptOut.version.desc())
    found = [InForce(*row) for row in connection.execute(rows)]
    if not found:
        raise NotFoundError(f"there is no opt-out list '{name}'")
    return found


def find(connection: Connection, name: str, version: int | None = None) -> InForce:
    """Return a version of a list, the last where none is named.

    Raises:
        NotFoundError: when there is none.
    """
    known = versions(connection, name)
    found = next((row for row in known if version in (None, row.version)), None)
    if found is None:
        raise NotFoundError(f"opt-out list '{name}' has versions 1 to {known[0].version}, not {version}")
    return found


def entries(connection: Connection, fingerprint: str) -> list[Entry]:
    """Return what the lines of a version of a list say, in order."""
    said = connection.execute(sa.select(OptOut.documents).where(OptOut.fingerprint == fingerprint)).scalar_one()
    return [(kind, value) for kind, value in said]


def names(connection: Connection, of: InForce) -> NameList:
    """Return the documents that a version of a list names, as carving takes them."""
    return list_of(f"{of.name}, version {of.version}", entries(connection, of.fingerprint))
