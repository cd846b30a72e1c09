"""A short version of tests/stress/kills.py: servers and runs killed at random moments lose nothing."""

from pathlib import Path

import pytest

from epochal.tests.stress.kills import torture
from epochal.tests.support.servers import DATABASES, postgresql


@pytest.mark.processes
@pytest.mark.parametrize("database", DATABASES)
def test_a_kill_at_any_moment_loses_nothing(database: str, tmp_path: Path):
    if database == "sqlite":
        torture(tmp_path, None, kills=2, seed=1, steps=100)
        return
    with postgresql() as url:
        torture(tmp_path, url, kills=2, seed=2, steps=100)
