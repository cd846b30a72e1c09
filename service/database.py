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
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError

from ..common.errors import RequestError, WorkError, one_line
from .errors import UnreachableError

T = TypeVar("T")

MIGRATION_LOCK = 0x65706F63
"""Key of PostgreSQL's advisory lock that migrations are run under ("epoc")."""

MOST_TOGETHER = 256
"""Writes that share a transaction at most."""

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
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise RequestError(f"--database {url} is no URL: write postgresql://user@host/name or sqlite:///file") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise RequestError(f"--database: {parsed.get_backend_name()} is not supported: use postgresql:// or sqlite:///")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise RequestError("--database sqlite:// needs a file: write sqlite:///folder/epochal.db")
            os.makedirs(os.path.dirname(os.path.abspath(parsed.database)), exist_ok=True)
            engine = _sqlite(parsed)
            with FileLock(parsed.database + ".lock"):
                migrate(engine)
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True, **POOL)
            with engine.connect() as held:  # a connection of its own: the lock outlives the migration's transactions
                held.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
                try:
                    migrate(engine)
                finally:
                    held.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    except DBAPIError as error:
        shown = parsed.render_as_string(hide_password=True)
        raise WorkError(f"the database {shown} cannot be opened: {_reason(error)}") from None
    return Database(engine, Writer(engine))


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


def migrate(engine: Engine) -> None:
    """Bring the tables to this version's.

    Raises:
        RequestError: when a newer epochal made them.
    """
    config = Config()
    config.set_main_option("script_location", "epochal.service:migrations")
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise RequestError(f"the database was made by a newer epochal ({error}): upgrade this one") from None


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
