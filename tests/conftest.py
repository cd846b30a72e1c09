"""Fixtures shared by all tests: small pools written straight from arrays of tokens."""

import collections
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from epochal.tests.support.pools import TINY_RUN, letters, write_pool

# How long an example takes says nothing on a machine that does other work too.
hypothesis.settings.register_profile("epochal", deadline=None)
hypothesis.settings.load_profile("epochal")

# Of the processes that tests start: toys are too small to share out, and with several processes on few cores threads
# would wait for each other longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with tests of several processes first, and then those with the most slow tests: the longest started
    last would be waited for alone."""
    long = {item.path for item in items if item.get_closest_marker("processes")}
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path not in long, -slow[item.path]))


@pytest.fixture
def make_pool(tmp_path: Path) -> Callable[..., Path]:
    """Return `make(tokens, seq_len, samples_per_shard, name, dtype)`: `write_pool` below this test's folder."""

    return functools.partial(write_pool, tmp_path)


@pytest.fixture
def make_plan(make_pool: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Return `make(**changes)`: a crossover grid of two budgets on a toy pool, planned."""
    from epochal.train.crossover.grid import load_grid, plan

    pool = make_pool(letters(1, 4003), 32, name="toy")
    make_pool(letters(2, 999), 32, name="toy-val")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY_RUN))

    def make(**changes: Any) -> Any:
        body = {
            "name": "toy",
            "out": str(tmp_path / "out"),
            "base": str(tmp_path / "base.yaml"),
            "pool": str(pool),
            "unique_tokens": [300, 1003],
            "total_tokens": 6018,
            "objectives": ["ar", "mdm"],
        }
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(body | changes))
        return plan(load_grid(str(tmp_path / "grid.yaml")))

    return make
