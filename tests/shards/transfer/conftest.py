"""Fixtures shared by the tests of transfers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epochal.common.remote import patience
from epochal.shards.carve import carve
from epochal.tests.support.hub import Hub, hub
from epochal.tests.support.stores import moto


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Yield the address of an S3 server; the environment points there."""
    with moto() as address:
        yield address


@pytest.fixture
def the_hub() -> Iterator[Hub]:
    """Yield an empty stand-in of the hub."""
    with hub() as served:
        yield served


@pytest.fixture
def pool(make_pool: Callable[..., Path]) -> str:
    """Return a pool of 1,500 tokens in 12 shards."""
    return str(make_pool(1500))


@pytest.fixture
def view(pool: str) -> str:
    """Return a view of `pool` whose last shard is cut and whose last sample is padded."""
    return carve(pool, 901)[0]
