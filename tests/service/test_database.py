"""The database: migrations, what cannot be opened, and writes that share a transaction."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from epochal.common.errors import RequestError, WorkError
from epochal.service.database import Database, open_database
from epochal.service.errors import UnreachableError
from epochal.service.models import Base
from epochal.shards.order.plan import Plan
from epochal.tests.support.servers import POSTGRES


def test_plans_of_the_first_version_keep_their_subset(tmp_path: Path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
    config = Config()
    config.set_main_option("script_location", "epochal.service:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        plan = Plan("a" * 32, 10, 100, 10, 200)
        values = {"f": plan.fingerprint, "s": plan.subset, "p": json.dumps(plan.to_dict())}
        connection.execute(
            sa.text("INSERT INTO plans (fingerprint, subset, plan, added) VALUES (:f, :s, :p, 0)"), values
        )
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT plan, subset FROM plan_subsets").all() == [(values["f"], "a" * 32)]
    opened.close()


def test_migrations_make_the_tables_of_the_models(database: str | None, tmp_path: Path):
    opened = open_database(database or f"sqlite:///{tmp_path}/x.db")
    with opened.engine.connect() as connection:
        newest = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    with opened.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RequestError, match="made by a newer epochal"):
        open_database(database or f"sqlite:///{tmp_path}/x.db")
    with opened.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{newest}'")
    opened.close()


def test_a_database_that_cannot_be_opened_is_one_line():
    with pytest.raises(WorkError, match="cannot be opened") as caught:
        open_database("postgresql://nobody:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path: Path):
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    opened.write(lambda c: c.exec_driver_sql("CREATE TABLE t (x)")).result()
    pages = opened.write(lambda c: int(c.exec_driver_sql("PRAGMA page_count").scalar_one())).result()

    def fill(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            f"PRAGMA max_page_count={pages + 2}"
        )  # what SQLite says then, it says of a full disk
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")

    with pytest.raises(UnreachableError, match=r"cannot be written: no space left on its disk: free some$"):
        opened.write(fill).result()
    opened.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES (1)")).result()
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT x FROM t").all() == [(1,)]
    opened.close()


def test_a_write_that_fails_takes_no_other_with_it(tmp_path: Path):
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    insert = "INSERT INTO limits (kind, cap, added) VALUES ('tokens', {}, 0)"
    statements = [insert.format(i if i % 3 else "NULL") for i in range(9)]
    futures = [opened.write(lambda c, s=s: c.exec_driver_sql(s) and None) for s in statements]
    assert [f.exception() is None for f in futures] == [bool(i % 3) for i in range(9)]
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM limits").scalar() == 6
    opened.close()


@pytest.fixture
def servers(cluster: str) -> Iterator[tuple[Database, Database]]:
    """Return two servers' views of one PostgreSQL, which has a table of things to lock."""
    first, second = open_database(cluster), open_database(cluster)
    with first.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE locks (name VARCHAR(3) PRIMARY KEY, n INTEGER)")
        connection.exec_driver_sql("INSERT INTO locks VALUES ('a', 0), ('b', 0)")
    yield first, second
    with first.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE locks")
    first.close()
    second.close()


def lock(names: str) -> Callable[[sa.Connection], None]:
    """Return a job that locks rows one after the other."""

    def job(connection: sa.Connection) -> None:
        for name in names:
            connection.execute(sa.text("UPDATE locks SET n = n + 1 WHERE name = :name"), {"name": name})
            time.sleep(0.2)

    return job


@pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed: apt-get install postgresql")
@pytest.mark.parametrize("named", [True, False])  # jobs that name no lease have transactions of their own
def test_servers_that_write_about_the_same_runs_never_lock_each_other_out(
    named: bool, servers: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("epochal.service.database.MAY_BE_TRIED_AGAIN", ())
    futures = []
    for server, names in zip(servers, ("ab", "ba"), strict=True):
        server.write(lambda _: time.sleep(0.2))  # the next two wait together
        futures += [server.write(lock(name), name if named else None) for name in names]
    assert [future.exception() for future in futures] == [None] * 4


@pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed: apt-get install postgresql")
def test_a_deadlock_is_tried_again_and_what_does_not_fit_is_the_requests_fault(servers: tuple[Database, Database]):
    futures = [server.write(lock(names)) for server, names in zip(servers, ("ab", "ba"), strict=True)]
    assert [future.exception() for future in futures] == [None, None]
    long = "INSERT INTO locks VALUES ('long', 0)"
    assert isinstance(servers[0].write(lambda c: c.exec_driver_sql(long) and None).exception(), RequestError)
    with servers[0].reader() as connection:
        assert connection.exec_driver_sql("SELECT name, n FROM locks ORDER BY name").all() == [("a", 2), ("b", 2)]
