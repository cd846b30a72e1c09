"""The database: migrations, what cannot be opened, and writes that share a transaction."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from epochal.common.errors import RequestError, WorkError
from epochal.service.database import open_database
from epochal.service.models import Base
from epochal.shards.order.plan import Plan


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


def test_a_write_that_fails_takes_no_other_with_it(tmp_path: Path):
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    insert = "INSERT INTO limits (kind, cap, added) VALUES ('tokens', {}, 0)"
    statements = [insert.format(i if i % 3 else "NULL") for i in range(9)]
    futures = [opened.write(lambda c, s=s: c.exec_driver_sql(s) and None) for s in statements]
    assert [f.exception() is None for f in futures] == [bool(i % 3) for i in range(9)]
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM limits").scalar() == 6
    opened.close()
