"""Migrations up and down, on the database that version 0.1.0 wrote."""

import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from epochal.common.errors import RequestError
from epochal.service.database import engine_of, migrate, open_database, revisions
from epochal.service.models import Base
from epochal.service.operations.backup import back_up, restore
from epochal.service.optouts import lists
from epochal.shards.order.plan import Plan

ARCHIVE = Path(__file__).parents[2] / "integration" / "v0_1_0" / "v0_1_0.tar.gz"
OLD = "0002"
"""The revision that 0.1.0 made."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a database as 0.1.0 left it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("artifacts/.service/epochal.db", tmp_path, filter="data")
    return tmp_path / "artifacts" / ".service" / "epochal.db"


def content(path: Path) -> dict[str, Any]:
    """Return the columns and rows of each table."""
    connection = sqlite3.connect(path)
    names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {}
    for name in sorted(n for n in names if not n.startswith("sqlite_")):
        columns = sorted(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))
        found[name] = columns, sorted(map(repr, connection.execute(f"SELECT {', '.join(columns)} FROM {name}")))
    connection.close()
    return found


def test_up_and_down_again_leaves_what_it_wrote(old: Path):
    before = content(old)
    assert before["alembic_version"][1] == [f"('{OLD}',)"]
    assert len(before["reports"][1]) == 28
    engine = engine_of(sa.make_url(f"sqlite:///{old}"))
    migrate(engine)
    after = content(old)
    for table, (columns, rows) in before.items():
        if table not in ("alembic_version", "leases", "runs"):
            assert after[table] == (columns, rows)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT DISTINCT thinned FROM runs").scalars().all() == [0]
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    for revision in [*revisions()[1:], *reversed(revisions())]:  # down to the first, and up again
        migrate(engine, revision)
    migrate(engine, OLD)
    assert content(old) == before
    migrate(engine)
    assert content(old) == after
    engine.dispose()


def test_the_same_on_postgresql(old: Path, cluster: str, database: str | None, tmp_path: Path):
    if database is None:
        pytest.skip("needs PostgreSQL")
    restore(str(old), database)
    engine = engine_of(sa.make_url(database).set(drivername="postgresql+psycopg"))
    first = str(tmp_path / "first.db")
    rows = back_up(database, first)
    assert rows["reports"] == 28
    for revision in [*revisions()[1:], *reversed(revisions())]:
        migrate(engine, revision)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    second = str(tmp_path / "second.db")
    assert back_up(database, second) == rows | {"audit": 0}  # the log has no place in the tables of before
    kept = [{t: c for t, c in content(Path(f)).items() if t != "audit"} for f in (first, second)]
    assert kept[0] == kept[1]


def test_a_backup_for_an_earlier_version_is_what_that_one_reads(old: Path, tmp_path: Path):
    before = content(old)
    open_database(f"sqlite:///{old}").close()
    file = tmp_path / "for-0.1.0.db"
    back_up(f"sqlite:///{old}", str(file), revision=OLD)
    assert content(file) == before
    assert "audit" in content(old)  # the database itself is as it was
    with pytest.raises(RequestError, match=r"--revision 0\.1\.0 is none: there are 0007, 0006, 0005, 0004, 000"):
        back_up(f"sqlite:///{old}", str(tmp_path / "x.db"), revision="0.1.0")


def test_what_an_earlier_revision_has_no_room_for_is_refused(old: Path):
    opened = open_database(f"sqlite:///{old}")
    plan = Plan("a" * 32, 10, 100, 10, 200)

    def add(connection: sa.Connection) -> None:
        row = {"f": plan.fingerprint}
        connection.execute(sa.text("INSERT INTO plans (fingerprint, plan, added) VALUES (:f, '{}', 0)"), row)
        for letter in "ab":
            connection.execute(
                sa.text("INSERT INTO plan_subsets (plan, subset) VALUES (:f, :s)"), row | {"s": letter * 32}
            )

    opened.write(add).result()
    before = content(old)
    opened.write(lambda c: lists.add(c, "asked", [(None, "doc1")])).result()
    with pytest.raises(RequestError, match="1 versions of opt-out lists: the tables of revision 0004 have no room"):
        migrate(opened.engine, "0003")
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM optouts")
    with pytest.raises(
        RequestError, match="1 plans have several subsets: the tables of revision 0001 have room for one"
    ):
        migrate(opened.engine, "0001")
    opened.write(lambda c: c.exec_driver_sql(f"UPDATE leases SET holder = '{'h' * 100}'") and None).result()
    with pytest.raises(RequestError, match="1 leases have holders or sessions of more than 64 characters"):
        migrate(opened.engine, "0002")
    opened.close()
    assert content(old)["plans"] == before["plans"]
    assert content(old)["alembic_version"] == before["alembic_version"]
