from typing import Any

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.datapipe.stages.cluster import REMOVED, TRAIN
from epochal.datapipe.stages.match import DRAWN_BITS, add_drawn, drawn_group
from epochal.datapipe.stages.parts import DOCUMENT
from epochal.datapipe.stages.validation import candidates_of, chosen, draw


def drawn(lengths: list[int], asked: Any, fates: Any = None) -> tuple[int, list[int]]:
    """Return how many tokens are held out, and the documents that hold them; they are drawn in this order."""
    documents = np.zeros(len(lengths), DOCUMENT)
    documents["tokens"] = lengths
    documents["drawn"] = np.arange(len(lengths), dtype=np.uint64) << np.uint64(47)  # two of a group
    documents["key_lo"] = numbers = np.arange(len(lengths))
    left = numbers if fates is None else np.flatnonzero(fates == TRAIN)
    documents = documents[left]
    tokens = np.zeros(1 << DRAWN_BITS, np.int64)
    add_drawn(tokens, documents["drawn"], documents["tokens"])
    place = draw(tokens, asked)
    if place is None:
        return 0, []
    half = len(left) // 2
    halves = [candidates_of(documents[s], left[s], place.last) for s in (slice(half, None), slice(half))]
    inside = chosen(place, halves)
    if inside is None:
        return 0, []
    held_out = sorted([*left[drawn_group(documents["drawn"]) < place.last].tolist(), *inside.tolist()])
    return sum(lengths[i] for i in held_out), held_out


@pytest.mark.parametrize(("length", "tokens"), [(10, 100), (1000, 10_000), (1_000_000, 1_000_000)])
def test_auto_is_one_percent_and_at_most_a_million(length, tokens):
    n, chosen = drawn([length] * 1000, "auto")
    assert n == tokens == length * len(chosen)


@pytest.mark.parametrize(("lengths", "held_out"), [([1], 0), ([50], 0), ([60, 50], 0), ([50, 60], 50), ([5, 5], 5)])
def test_auto_holds_nothing_out_where_one_document_would_be_more_than_half(lengths, held_out):
    assert drawn(lengths, "auto") == (held_out, [0] if held_out else [])


def test_whole_documents_are_drawn_until_there_are_enough():
    lengths = list(range(10, 60))
    n, chosen = drawn(lengths, 100)
    assert n == sum(lengths[i] for i in chosen)
    assert 100 <= n < 160
    assert set(chosen) <= set(drawn(lengths, 300)[1])


def test_removed_documents_stay_removed():
    fates = np.full(100, TRAIN, np.uint8)
    fates[::2] = REMOVED
    _, chosen = drawn([10] * 100, 100, fates)
    assert len(chosen) == 10
    assert all(i % 2 for i in chosen)


@pytest.mark.parametrize(
    ("lengths", "asked", "message"),
    [
        ([10] * 10, 100, "there are only 100 tokens in all"),
        ([10] * 10, 51, "more than half of the 100 tokens"),
        ([70, 60], 50, "takes 70 of 130 tokens, because documents stay whole"),
    ],
)
def test_a_number_that_would_take_most_of_the_pool_is_refused(lengths, asked, message):
    with pytest.raises(RequestError, match=message):
        drawn(lengths, asked)
