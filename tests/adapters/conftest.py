"""Fixtures shared by the tests of the adapters: three subsets that share no token."""

import sys

from absl import logging

from epochal.tests.shards.conftest import subsets

__all__ = ["subsets"]

# Grain logs to the standard error that it finds, which here is pytest's own for all tests, and closes it when some
# library sets up logging while one test's is in place.
logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
