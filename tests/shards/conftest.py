"""Fixtures shared by the tests of shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from epochal.shards.carve import carve


@pytest.fixture
def subsets(make_pool: Callable[..., Path]) -> dict[str, str]:
    """Three subsets that share no token: two replicates of a pool, and another pool; with their sizes padded."""
    toy = str(make_pool(6000))
    return {
        "a": carve(toy, 901)[0],
        "b": carve(toy, 1500, 1)[0],
        "c": carve(str(make_pool(2000, name="other")), 333)[0],
    }
