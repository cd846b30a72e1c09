"""`epochal serve --check`: whether a server would start here, a line for each thing it needs; nothing is changed."""

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from ...common.cli import short_path
from ...common.errors import EpochalError, RequestError, WorkError
from .. import catalogue
from ..commands import counted
from ..database import database_url, engine_of, opening, revision_of, revisions
from ..service import STATE_FOLDER, default_database
from .consistency import counts, problems

LEAST_FREE = 1 << 30
"""Bytes on the disk of the database below which the check fails: reports come for as long as runs train."""


def check(args: argparse.Namespace, access: Callable[[argparse.Namespace], object]) -> int:
    """Print a line for each part; return 0 where a server would start, else 1.

    Args:
        args: of `epochal serve`.
        access: raises RequestError for options that do not go together.
    """
    fine = True
    url = args.database or default_database(args.root)
    for name, look in (
        ("configuration", lambda: _configuration(args, access)),
        ("root", lambda: _root(args.root)),
        ("database", lambda: _database(url)),
        ("migrations", lambda: _migrations(url)),
        ("ledger", lambda: _ledger(url)),
        ("disk", lambda: _disk(args.root, url)),
    ):
        try:
            said = f"ok      {name}: {look()}"
        except EpochalError as error:
            said, fine = f"FAILED  {name}: {error}", False
        print(said)
    return 0 if fine else 1


def _configuration(args: argparse.Namespace, access: Callable[[argparse.Namespace], object]) -> str:
    from ..observe.lineage import delivery

    access(args)
    if args.openlineage:
        delivery(args.openlineage)
    return f"address {args.host}, port {args.port}; {'tokens are asked for' if _has_tokens(args) else 'no tokens'}"


def _has_tokens(args: argparse.Namespace) -> bool:
    from ..security import read_tokens

    return bool(read_tokens(args.tokens))


def _root(root: str) -> str:
    if not os.path.isdir(root):
        raise RequestError(f"{root} is no folder: make it, or name another with --root")
    scanner = catalogue.Scanner(os.path.realpath(root))
    kinds = [found.manifest.kind for found in scanner.scan()]
    left = f"; {counted(len(scanner.problems), 'folder')} left out, see `epochal serve`" if scanner.problems else ""
    return f"{counted(kinds.count('pool'), 'pool')}, {counted(kinds.count('subset'), 'subset')}{left}"


def _shown(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return short_path(url.database or "")
    return url.render_as_string(hide_password=True)


def _missing(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite" and not os.path.exists(url.database or "")


@contextlib.contextmanager
def _connected(given: str | sa.URL) -> Iterator[tuple[sa.URL, sa.Connection | None]]:
    """Yield the database's URL and a connection, none where it is yet to be made."""
    url = database_url(given)
    if _missing(url):
        yield url, None
        return
    engine = engine_of(url)
    try:
        with opening(url), engine.connect() as connection:
            yield url, connection
    finally:
        engine.dispose()


def _database(given: str | sa.URL) -> str:
    with _connected(given) as (url, connection):
        if connection is None:
            return f"{_shown(url)} is made at the first start"
        connection.execute(sa.text("SELECT 1"))
        return f"{_shown(url)} answers"


def _migrations(given: str | sa.URL) -> str:
    newest = revisions()[0]
    with _connected(given) as (_, connection):
        found = None if connection is None else revision_of(connection)
        if found is None:
            return f"the tables of revision {newest} are made at the first start"
        if found not in revisions():
            raise RequestError(f"revision {found} was made by a newer epochal: upgrade this one")
        return f"revision {found}" + ("" if found == newest else f", {newest} once it starts: make a backup before")


def _ledger(given: str | sa.URL) -> str:
    with _connected(given) as (_, connection):
        if connection is None or revision_of(connection) is None:
            return "nothing yet"
        if revision_of(connection) != revisions()[0]:
            return "not looked at before the tables are this version's"
        if found := problems(connection):
            raise WorkError("; ".join(found))
        rows = counts(connection)
        return f"{counted(rows['runs'], 'run')}, {counted(rows['reports'], 'report')}, nothing contradicts anything"


def _disk(root: str, given: str | sa.URL) -> str:
    url = database_url(given)
    local = url.get_backend_name() == "sqlite"
    place = os.path.dirname(os.path.abspath(url.database or "")) if local else os.path.join(root, STATE_FOLDER)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK):
        raise WorkError(f"{place} cannot be written by this user")
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE:
        raise WorkError(f"{free / 1e9:.1f} GB are free at {place}: less than {LEAST_FREE / 1e9:.1f}")
    return f"{free / 1e9:,.1f} GB free at {short_path(place)}"
