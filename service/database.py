"""The database: SQLite in the service's folder, or PostgreSQL by URL; the same tables, migrated under a lock at start.

Reads come from a pool of connections. Writes go through one thread (`Writer`), which puts what is waiting into one
transaction and answers when it is on the disk: many reports share one flush.
"""

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError

from ..common.errors import RequestError, WorkError, one_line
from .errors import UnreachableError

T = TypeVar("T")

MIGRATION_LOCK = 0x65706F63
"""Key of PostgreSQL's advisory lock that migrations are run under ("epoc")."""

MOST_TOGETHER = 256
"""Writes that share a transaction at most."""

MOST_ROWS = 500
"""Rows of one INSERT."""

POOL: dict[str, Any] = {"pool_size": 20, "max_overflow": 40}
"""Connections for reading: more than there are threads that ask."""

MAY_BE_TRIED_AGAIN = ("40P01", "40001")
"""SQLSTATEs of a deadlock and of a transaction that came in another's way."""

MOST_ATTEMPTS = 5

TOO_LARGE = "54"
"""Class of the SQLSTATEs that say that a limit of PostgreSQL is exceeded, as the length of what an index holds."""


@dataclass(frozen=True)
class Database:
    """An opened database. `reader` hands out connections for reading; `write` runs a function in a transaction."""

    engine: Engine
    writer: "Writer"

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database.

        Raises:
            UnreachableError: when the database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except OperationalError as error:
            raise UnreachableError(f"the database cannot be reached: {_reason(error)}") from None

    def write(self, job: Callable[[Connection], T], lock: str | None = None) -> "Future[T]":
        """Run `job(connection)` in the next transaction; the future has its result once that is committed.

        Args:
            lock: the lease that it locks before all else, by the run's name: such jobs share transactions.
        """
        return self.writer.submit(job, lock)

    def close(self) -> None:
        """Finish what is waiting and let go of all connections."""
        self.writer.close()
        self.engine.dispose()


def open_database(url: str | sa.URL) -> Database:
    """Open (and create or migrate) the database at `url`.

    Raises:
        RequestError: for a wrong URL.
        WorkError: when the work failed.
    """
    parsed = database_url(url)
    with opening(parsed):
        if parsed.get_backend_name() == "sqlite":
            assert parsed.database, "it was checked"
            os.makedirs(os.path.dirname(os.path.abspath(parsed.database)), exist_ok=True)
            engine = engine_of(parsed)
            with FileLock(parsed.database + ".lock"):
                migrate(engine)
        else:
            engine = engine_of(parsed)
            with engine.connect() as held:  # a connection of its own: the lock outlives the migration's transactions
                held.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
                try:
                    migrate(engine)
                finally:
                    held.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    return Database(engine, Writer(engine))


def database_url(url: str | sa.URL) -> sa.URL:
    """Return the URL of a database that we can open.

    Raises:
        RequestError: for any other.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RequestError(f"--database {url} is no URL: write postgresql://user@host/name or sqlite:///file") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RequestError(f"--database: {parsed.get_backend_name()} is not supported: use postgresql:// or sqlite:///")
    if parsed.get_backend_name() == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise RequestError("--database sqlite:// needs a file: write sqlite:///folder/epochal.db")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


@contextmanager
def opening(url: sa.URL) -> Iterator[None]:
    """Turn what a database says when it cannot be opened into a WorkError that names it without its password."""
    try:
        yield
    except DBAPIError as error:
        shown = url.render_as_string(hide_password=True)
        raise WorkError(f"the database {shown} cannot be opened: {_reason(error)}") from None


def engine_of(url: sa.URL) -> Engine:
    """Return connections to a database as it is, neither made nor migrated."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    return sa.create_engine(url, pool_pre_ping=True, **POOL)


def _sqlite(url: sa.URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 60, "check_same_thread": False}, **POOL)

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late for what is read first
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to this version's, or back to those of an earlier revision.

    Raises:
        RequestError: when a newer epochal made them, or when an earlier revision has no room for what they hold.
    """
    with engine.connect().execution_options(writes=True) as connection, _unreferenced(connection), connection.begin():
        config = alembic_config(connection)
        try:
            if revision == "head" or _comes_after(config, revision, revision_of(connection)):
                command.upgrade(config, revision)
            else:
                command.downgrade(config, revision)
        except CommandError as error:
            raise RequestError(f"the database was made by a newer epochal ({error}): upgrade this one") from None


@contextmanager
def _unreferenced(connection: Connection) -> Iterator[None]:
    """Let SQLite's tables be replaced although others refer to them: that is how it changes one, and no row goes."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection  # the setting is ignored within a transaction
    (kept,) = driver.execute("PRAGMA foreign_keys").fetchone()
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA foreign_keys={kept}")


def alembic_config(connection: Connection | None = None) -> Config:
    """Return alembic's configuration for our migrations, over a connection where they are to be run."""
    config = Config()
    config.set_main_option("script_location", "epochal.service:migrations")
    config.attributes["connection"] = connection
    return config


def revision_of(connection: Connection) -> str | None:
    """Return the revision of a database's tables; None where there are none of ours."""
    return MigrationContext.configure(connection).get_current_revision()


def revisions() -> list[str]:
    """Return the revisions of this version's tables, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]


def _comes_after(config: Config, revision: str, current: str | None) -> bool:
    """Return whether a revision is one that `current` has not reached."""
    passed = [script.revision for script in ScriptDirectory.from_config(config).iterate_revisions(current, "base")]
    return revision not in passed


def now(connection: Connection) -> float:
    """Return the time in seconds since 1970 by the clock that all servers of this database share."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


class Place(NamedTuple):
    """Where a row stands in a list that has the newest first: its time, and its fingerprint among equal times."""

    at: float
    key: str


def after(at: Any, key: Any, place: Place) -> sa.ColumnElement[bool]:
    """Return the condition that a row, by its columns, comes after `place` in such a list."""
    return sa.or_(at < place.at, sa.and_(at == place.at, key > place.key))


def insert(connection: Connection, model: type, **values: Any) -> bool:
    """Insert a row unless one with its key is there; return whether it is new."""
    return insert_all(connection, model, [values]) == 1


def insert_all(connection: Connection, model: type, rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose keys are not there yet; return how many that are."""
    make: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    new = 0
    for begin in range(0, len(rows), MOST_ROWS):
        values = make(model).values(rows[begin : begin + MOST_ROWS])
        new += len(connection.execute(values.on_conflict_do_nothing().returning(sa.literal(1))).all())
    return new


@dataclass(frozen=True)
class _Job:
    run: Callable[[Connection], Any]
    lock: str | None
    future: "Future[Any]"


class Writer:
    """One thread that writes. Jobs under leases that wait together are committed together, each in a savepoint.

    Several servers may write to one PostgreSQL. They never wait for each other in a circle: within a transaction leases
    are locked in the order of their names, and a job that names no lease has a transaction of its own.

    Attributes:
        committed: called with the seconds that a transaction took and how many jobs were in it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(writes=True)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.committed: Callable[[float, int], None] = lambda seconds, jobs: None
        self._thread = threading.Thread(target=self._run, name="epochal-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait, about."""
        return self._jobs.qsize()

    @property
    def alive(self) -> bool:
        """Whether jobs are still worked at."""
        return self._thread.is_alive()

    def submit(self, job: Callable[[Connection], T], lock: str | None = None) -> "Future[T]":
        """Queue a job; see `Database.write`."""
        future: Future[T] = Future()
        self._jobs.put(_Job(job, lock, future))
        return future

    def close(self) -> None:
        """Commit what is queued and stop."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch = [self._jobs.get()]
            while len(batch) < MOST_TOGETHER and not self._jobs.empty():
                batch.append(self._jobs.get())
            for jobs in transactions([job for job in batch if job is not None], self._engine.dialect.name):
                self._commit(jobs)
            if None in batch:
                return

    def _commit(self, batch: list[_Job], attempt: int = 1) -> None:
        outcomes: list[tuple[_Job, Any, Exception | None]] = []
        began = time.perf_counter()
        try:
            with self._engine.connect() as connection, connection.begin():
                for job in batch:
                    outcomes.append((job, *_attempt(connection, job.run)))
            self.committed(time.perf_counter() - began, len(batch))
        except DBAPIError as error:
            if _state(error) in MAY_BE_TRIED_AGAIN and (len(batch) > 1 or attempt < MOST_ATTEMPTS):
                for job in batch:
                    self._commit([job], attempt + (len(batch) == 1))
                return
            failed = UnreachableError(f"the database cannot be written: {_reason(error)}")
            outcomes = [(job, None, failed) for job in batch]
        except Exception as error:  # a defect must not end the thread that everything waits for
            outcomes = [(job, None, error) for job in batch]
        for job, result, problem in outcomes:
            if not job.future.set_running_or_notify_cancel():
                continue
            if problem is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(problem)


def transactions(jobs: list[_Job], dialect: str) -> list[list[_Job]]:
    """Return the jobs in the transactions that they are run in."""
    if dialect == "sqlite":  # one transaction writes at a time: the order of locks is no matter
        return [jobs] if jobs else []
    shared = sorted((job for job in jobs if job.lock is not None), key=lambda job: str(job.lock))
    return [[job] for job in jobs if job.lock is None] + ([shared] if shared else [])


def _state(error: DBAPIError) -> str:
    """Return the SQLSTATE of PostgreSQL's refusal, empty for others."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def _reason(error: DBAPIError) -> str:
    """Return what a database refused; SQLite says the same of a full disk and of one that fails.

    A full disk ends SQLite's transaction, so that going back to a savepoint fails next: what came before is looked at.
    """
    text, before, chain = one_line(error), error.__context__, [str(error)]
    while before is not None:
        chain, before = [*chain, str(before)], before.__context__
    return next((words for said, words in _NO_ROOM.items() if said in " ".join(chain).lower()), text)


_NO_ROOM = {
    "disk is full": "no space left on its disk: free some",
    "no space left": "no space left on its disk: free some",
    "disk i/o error": "its disk fails, or has no space left: free some",
}
"""By what a database says: what is said of it here."""


def _attempt(connection: Connection, job: Callable[[Connection], Any]) -> tuple[Any, Exception | None]:
    """Run one job in a savepoint; return (result, None) or (None, what it raised, undone)."""
    try:
        with connection.begin_nested():
            return job(connection), None
    except DBAPIError as error:
        if isinstance(error, DataError) or _state(error).startswith(TOO_LARGE):
            return None, RequestError(f"the database does not take it: {one_line(error)}")
        if isinstance(error, OperationalError):
            raise  # the whole transaction is lost
        return None, error
    except Exception as error:
        return None, error
