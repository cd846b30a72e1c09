"""Fixtures of the service's tests: a root with a pool, a database of each kind, a client of a running service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from epochal.service.client import reporter
from epochal.service.client.client import Client
from epochal.service.database import open_database
from epochal.service.models import Base
from epochal.tests.support.servers import DATABASES, PATIENCE, postgresql, serving


@pytest.fixture
def root(make_pool, tmp_path: Path) -> Path:
    """Return a root with one pool `toy` of 3000 tokens in 188 samples of 16."""
    make_pool(3000)
    return tmp_path / "artifacts"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "ANSWER_SECONDS", PATIENCE)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Return the URL of a database of a PostgreSQL server."""
    with postgresql() as url:
        yield url


@pytest.fixture(params=DATABASES)
def database(request) -> str | None:
    """Return the URL of an empty database; None is the default, SQLite under the root."""
    if request.param == "sqlite":
        return None
    url = request.getfixturevalue("cluster")
    opened = open_database(url)
    Base.metadata.drop_all(opened.engine)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    opened.close()
    return url


@pytest.fixture
def client(root: Path, database: str | None) -> Iterator[Client]:
    """Return a client of a service over `root`."""
    with serving(root, database) as client:
        yield client
