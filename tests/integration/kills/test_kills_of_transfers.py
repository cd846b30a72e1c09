"""A short version of tests/stress/kills_of_transfers.py: push and pull killed at random moments end undisturbed."""

from pathlib import Path

import pytest

from epochal.tests.stress.kills_of_transfers import campaign


@pytest.mark.processes
def test_a_transfer_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    assert [name for name, ends in campaign(tmp_path, kills=1, seed=1, tokens=20_000) if ends] == [
        "push to S3",
        "push of a view to S3",
        "push to the hub",
        "pull from S3",
        "pull from the hub",
    ]
