"""Fixtures shared by the tests of the adapters: three subsets that share no token."""

from epochal.tests.shards.conftest import subsets

__all__ = ["subsets"]
