"""Signatures against rensa's, whose algorithm they are, and against themselves in parts."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rensa import RMinHash

from epochal.datapipe.config import NearDuplicates
from epochal.datapipe.text import _minhash, signatures
from epochal.datapipe.text.signatures import minhash, sign
from epochal.datapipe.text.words import Words, split_words

HASHES = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 255, 256, 2**32 - 1, 2**32, 2**63, 2**64 - 1]))
SETS = st.lists(st.lists(HASHES, min_size=1, max_size=40), min_size=1, max_size=6)
SIZES = st.sampled_from([1, 2, 3, 7, 8, 112, 128, 129])
SEEDS = st.one_of(st.integers(0, 50), st.integers(0, 2**63 - 1))


def together(sets: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *map(len, sets)])
    return np.array([h for some in sets for h in some], np.uint64), starts


def rensa(hashes: np.ndarray, starts: np.ndarray, size: int, seed: int) -> np.ndarray:
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), size, seed)
    return np.array(matrix.to_rows(), np.uint32)


@settings(max_examples=200, deadline=None)
@given(SETS, SIZES, SEEDS)
def test_signatures_are_rensas(sets, size, seed):
    hashes, starts = together(sets)
    np.testing.assert_array_equal(minhash(hashes, starts, size, seed), rensa(hashes, starts, size, seed))


@pytest.mark.parametrize("size", [1, 112, 128])
def test_signatures_of_sets_of_every_length_are_rensas(size):
    """Those that reach no value in the rounds, some, and all; and one whose hashes repeat."""
    starts = np.cumsum([0, *range(1, 400), 5000, 70_000, 3000])
    hashes = np.random.default_rng(size).integers(0, 2**64, starts[-1], dtype=np.uint64)
    hashes[starts[-2] :] = np.resize(hashes[:7], 3000)
    np.testing.assert_array_equal(minhash(hashes, starts, size, 1), rensa(hashes, starts, size, 1))


def test_golden_signature():
    words = split_words(["the same few words in a row, which are signed", "漢字とかな", "too short"])
    found, signed = sign(words, NearDuplicates(buckets=2, hashes=4, ngram=5, seed=7))
    assert signed.tolist() == [True, True, False]
    assert found.tolist() == GOLDEN


GOLDEN = [
    [286158509, 1857392610, 3885667, 80189117, 767076610, 2036557586, 1411291821, 1800448619],
    [3484888322, 3545865917, 4083448701, 1372432940, 3902765516, 4031719358, 4061854102, 995167172],
    [0, 0, 0, 0, 0, 0, 0, 0],
]


def test_a_signature_does_not_depend_on_the_windows_that_it_is_made_in(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**63, 3000, dtype=np.uint64)
    words = Words(hashes, np.array([0, 10, 10, 13, 2000, 2010, 3000]))
    whole = sign(words, NearDuplicates())
    monkeypatch.setattr(signatures, "windows", functools.partial(signatures.windows, size=70))
    for a, b in zip(whole, sign(words, NearDuplicates()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole[1].tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize(
    ("hashes", "starts", "size", "out"),
    [(3, [0, 4], 8, 8), (3, [2, 1], 8, 8), (3, [-1, 2], 8, 8), (3, [0, 3], 8, 7), (3, [0, 3], 0, 0), (3, [], 8, 0)],
)
def test_arrays_that_do_not_fit_together_are_refused(hashes, starts, size, out):
    coefficients = np.ones(size, np.uint64)
    with pytest.raises(ValueError, match="do not fit together"):
        _minhash.sign(
            np.ones(hashes, np.uint64), np.array(starts, np.int64), coefficients, coefficients, np.zeros(out, np.uint32)
        )
