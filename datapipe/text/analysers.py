"""One analyser of texts for all tasks of a process, so that it learns a piece once and not once for each task."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ...tokenize.tokenizer import Tokenizer
from .words import Analyser


@lru_cache(maxsize=1)
def analyser_of(tokenizer: Tokenizer, dtype: type[np.unsignedinteger]) -> Analyser:
    """Return what finds the words of texts and their ids by `tokenizer`; the same one until it is given up."""
    return Analyser(tokenizer.encode_pieces, tokenizer.info.eod, dtype)


@contextlib.contextmanager
def given_up_on_failure() -> Iterator[None]:
    """Give the analyser up when the body fails: it may have learnt half of something."""
    try:
        yield
    except BaseException:
        give_up()
        raise


def give_up() -> None:
    """Give the analyser up: what it has learnt takes up to some 100 MB."""
    analyser_of.cache_clear()
