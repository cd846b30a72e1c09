"""Backups of the database, while it is written to: one SQLite file, whichever database it came from, and back.

A backup of SQLite is a copy by SQLite's own online backup, of PostgreSQL every row as one transaction sees it. Both are
a database of epochal themselves: they can be opened, migrated and restored into either kind.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Engine

from ...common.errors import RequestError, WorkError
from ..database import POOL, Database, database_url, engine_of, migrate, open_database, opening, revision_of, revisions
from ..models import Base, RunRow
from .audit import by_command, enter
from .consistency import counts, problems

TOGETHER = 5000
"""Rows that PostgreSQL hands over at once."""

LOCK_SECONDS = 60.0
HEAD = b"SQLite format 3\0"


def back_up(url: str | sa.URL, out: str, replace: bool = False, revision: str | None = None) -> dict[str, int]:
    """Write a backup of the database at `url` to the file `out`; return how many rows each table in it has.

    Args:
        url: see above.
        out: see above.
        replace: an existing file may be replaced.
        revision: of the tables in the backup: an earlier one for an earlier version of epochal (default: as they are).

    Raises:
        RequestError: when there is no database, or `out` exists.
        WorkError: when it cannot be read, or its rows contradict each other.
    """
    parsed = database_url(url)
    if os.path.exists(out) and not replace:
        raise RequestError(f"{out} exists: name another file, or replace it with --replace")
    check_there(parsed)
    if revision is not None and revision not in revisions():
        raise RequestError(f"--revision {revision} is none: there are {', '.join(revisions())}")
    with _unfinished(out) as part:
        with opening(parsed):
            if parsed.get_backend_name() == "sqlite":
                _copy(str(parsed.database), part)
            else:
                _dump(parsed, part)
        with _opened(part) as engine:
            if revision is not None:
                migrate(engine, revision)
            found = _checked(engine, out)
        _synced(part)
        os.replace(part, out)
    return found


def check_there(url: str | sa.URL) -> None:
    """Raise RequestError where a database that is a file does not exist."""
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite" and not os.path.isfile(parsed.database or ""):
        raise RequestError(f"there is no database at {parsed.database}: name the root or the database of the service")


def restore(file: str, url: str | sa.URL, replace: bool = False) -> dict[str, int]:
    """Put a backup in the place of what the database at `url` holds; return how many rows each table has then.

    It happens in one transaction, and servers may run meanwhile: runs that report are told that they know more than the
    database, and send the rest again.

    Args:
        file: see above.
        url: see above.
        replace: the database may hold something already.

    Raises:
        RequestError: when `file` is no backup, or the database holds something.
        WorkError: when it cannot be written, or the rows of the backup contradict each other.
    """
    parsed = database_url(url)
    _check_file(file)
    with tempfile.TemporaryDirectory(prefix="epochal-restore-") as folder:
        part = os.path.join(folder, "restored.db")
        shutil.copyfile(file, part)
        with _opened(part) as engine:
            migrate(engine)
            _checked(engine, file)
            with engine.begin() as connection:
                enter(connection, by_command("restore"), "database restored", os.path.basename(file))
                found = counts(connection)
        target = open_database(parsed)
        try:
            _check_empty(target, parsed, replace)
            with opening(parsed):
                if parsed.get_backend_name() == "sqlite":
                    _copy(part, str(parsed.database))
                else:
                    _load(part, target.engine)
        finally:
            target.close()
    return found


def _copy(source: str, target: str) -> None:
    """Copy a SQLite database whole as of one moment, while others read and write it, and into one that others use."""
    with (
        contextlib.closing(sqlite3.connect(source, timeout=LOCK_SECONDS)) as from_,
        contextlib.closing(sqlite3.connect(target, timeout=LOCK_SECONDS)) as to,
    ):
        try:
            from_.backup(to, pages=-1)  # in one step: parts would begin anew at every write of others
        except sqlite3.Error as error:
            raise WorkError(f"{source} cannot be copied to {target}: {error}") from None


def _dump(url: sa.URL, part: str) -> None:
    """Write every row of a PostgreSQL database as one transaction sees it."""
    source = engine_of(url).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with source.connect() as reading:
            found, newest = revision_of(reading), revisions()[0]
            if found != newest:
                raise RequestError(
                    f"the database has tables of revision {found}, not {newest}: start epochal serve once"
                )
            with _opened(part) as target:
                migrate(target)
            driver: Any = reading.connection.driver_connection
            with contextlib.closing(sqlite3.connect(part)) as writing, writing:
                for table in Base.metadata.sorted_tables:
                    with driver.cursor(name="epochal_backup") as cursor:
                        cursor.itersize = TOGETHER
                        cursor.execute(_select(table, "::text"))
                        marks = ", ".join("?" * len(table.c))
                        writing.executemany(f"INSERT INTO {table.name} ({_columns(table)}) VALUES ({marks})", cursor)
    finally:
        source.dispose()


def _load(part: str, engine: Engine) -> None:
    """Replace every row of a PostgreSQL database by those of a backup, in one transaction."""
    tables = Base.metadata.sorted_tables
    with contextlib.closing(sqlite3.connect(part)) as reading, engine.begin() as writing:
        writing.exec_driver_sql(f"TRUNCATE {', '.join(table.name for table in tables)}")
        driver: Any = writing.connection.driver_connection
        for table in tables:
            into = f"COPY {table.name} ({_columns(table)}) FROM STDIN"
            with driver.cursor() as cursor, cursor.copy(into) as copy:
                for row in _rows(reading, table):
                    copy.write_row(row)
            if "id" in table.c:  # numbers go on behind those that are there
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                last = f"SELECT setval({sequence}, coalesce(max(id), 1), max(id) IS NOT NULL) FROM {table.name}"
                writing.exec_driver_sql(last)


def _columns(table: sa.Table) -> str:
    return ", ".join(column.name for column in table.c)


def _select(table: sa.Table, json_as: str = "") -> str:
    """Return the statement for all rows; JSON goes as the text that both databases keep, to the letter."""
    names = [c.name + (json_as if isinstance(c.type, sa.JSON) else "") for c in table.c]
    return f"SELECT {', '.join(names)} FROM {table.name}"


def _rows(reading: sqlite3.Connection, table: sa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield a table's rows; runs after those whose models they continue."""
    rows = reading.execute(_select(table))
    if table is not RunRow.__table__:
        yield from rows
        return
    names = [column.name for column in table.c]
    own, parent = names.index("fingerprint"), names.index("parent")
    waiting = {row[own]: row for row in rows}
    while waiting:
        ready = [row for row in waiting.values() if row[parent] not in waiting]
        if not ready:
            raise WorkError("the backup has runs that continue each other in a circle: it is damaged")
        for row in ready:
            del waiting[row[own]]
        yield from ready


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Engine]:
    """Yield a backup as a database: one file without others beside it, rows in any order."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=file), **POOL)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def _unfinished(out: str) -> Iterator[str]:
    """Yield the name of a file beside `out` that only this process reads, and that is gone afterwards."""
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise RequestError(f"{out}: there is no folder {folder}")
    handle, part = tempfile.mkstemp(prefix=f".{os.path.basename(out)}.", dir=folder)
    os.close(handle)
    try:
        yield part
    finally:
        for name in (part, f"{part}-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _synced(file: str) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def _checked(engine: Engine, file: str) -> dict[str, int]:
    """Return how many rows a backup has. Raises WorkError when they contradict each other (in tables of an earlier
    revision they are only counted)."""
    with engine.connect() as connection:
        if revision_of(connection) != revisions()[0]:
            names = [n for n in sa.inspect(connection).get_table_names() if n != "alembic_version"]
            return {n: connection.exec_driver_sql(f"SELECT count(*) FROM {n}").scalar_one() for n in sorted(names)}
        if found := problems(connection):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise WorkError(f"{file}: what it holds contradicts itself: {found[0]}{more}")
        return counts(connection)


def _check_file(file: str) -> None:
    """Raise RequestError unless `file` is a backup, of this version or an earlier one."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(len(HEAD))
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}") from None
    if head != HEAD:
        raise RequestError(f"{file} is no backup of epochal")
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(os.path.abspath(file))}?mode=ro", uri=True)
        ) as connection:
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError, ValueError):
        raise RequestError(f"{file} is no backup of epochal") from None
    if revision not in revisions():
        raise RequestError(f"{file} was made by a newer epochal (revision {revision}): upgrade this one")


def _check_empty(target: Database, url: sa.URL, replace: bool) -> None:
    """Raise RequestError where something would be overwritten that need not be."""
    with target.reader() as connection:
        held = {name: n for name, n in counts(connection).items() if n and name not in ("audit", "answers")}
    if held and not replace:
        shown, rows = url.render_as_string(hide_password=True), ", ".join(f"{name} {n:,}" for name, n in held.items())
        raise RequestError(f"{shown} is not empty ({rows}): back it up, then replace it with --replace")
