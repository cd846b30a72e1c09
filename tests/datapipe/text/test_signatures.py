"""Signatures against rensa's, whose algorithm they are, and against themselves in parts."""

import functools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rensa import RMinHash

from epochal.common.hashing import mix64
from epochal.datapipe.config import NearDuplicates
from epochal.datapipe.text import _minhash, signatures
from epochal.datapipe.text.signatures import buckets_of, minhash, sign
from epochal.datapipe.text.words import Words, split_words, word_ngrams

HASHES = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 255, 256, 2**32 - 1, 2**32, 2**63, 2**64 - 1]))
TEXTS = st.lists(st.lists(HASHES, max_size=40), min_size=1, max_size=6)
SIZES = st.sampled_from([1, 2, 3, 7, 8, 112, 128, 129])
SEEDS = st.one_of(st.integers(0, 50), st.integers(0, 2**63 - 1))


def rensa(words: Words, ngram: int, size: int, seed: int) -> np.ndarray:
    """Return the signatures of texts, zeros for those without a run of so many words."""
    hashes, starts = word_ngrams(words, ngram)
    has = np.flatnonzero(np.diff(starts))
    found = np.zeros((len(starts) - 1, size), np.uint32)
    if len(has):
        some = np.append(starts[has], starts[-1]).astype(np.uint64)
        found[has] = RMinHash.digest_matrix_from_flat_token_hashes(hashes, some, size, seed).to_rows()
    return found


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 7), SIZES, SEEDS)
def test_signatures_are_rensas(texts, ngram, size, seed):
    hashes = np.array([h for some in texts for h in some], np.uint64)
    words = Words(hashes, np.cumsum([0, *map(len, texts)]))
    np.testing.assert_array_equal(minhash(words, ngram, size, seed), rensa(words, ngram, size, seed))


@pytest.mark.parametrize("size", [1, 112, 128])
def test_signatures_of_sets_of_every_length_are_rensas(size):
    """Those that reach no value in the rounds, some, and all; and one whose hashes repeat."""
    starts = np.cumsum([0, *range(1, 400), 5000, 70_000, 3000])
    hashes = np.random.default_rng(size).integers(0, 2**64, starts[-1], dtype=np.uint64)
    hashes[starts[-2] :] = np.resize(hashes[:7], 3000)
    words = Words(hashes, starts)
    np.testing.assert_array_equal(minhash(words, 2, size, 1), rensa(words, 2, size, 1))


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
    ("starts", "ngram", "size", "out"),
    [
        *(([0, 4], 5, 8, 8), ([2, 1], 5, 8, 8), ([-1, 2], 5, 8, 8), ([0, 3], 5, 8, 7), ([0, 3], 5, 0, 0)),
        *(([], 5, 8, 0), ([0, 3], 0, 8, 8)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(starts, ngram, size, out):
    coefficients, words = np.ones(size, np.uint64), np.ones(3, np.uint64)
    with pytest.raises(ValueError, match="do not fit together"):
        _minhash.sign(words, np.array(starts, np.int64), ngram, coefficients, coefficients, np.zeros(out, np.uint32))
    with pytest.raises(ValueError, match="do not fit together"):
        _minhash.fold(np.zeros(7, np.uint32), np.zeros(2, np.uint64))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 6]))
def test_a_bucket_has_the_hash_of_its_values(values, buckets):
    hashed = buckets_of(np.array([values, values[::-1]], np.uint32), buckets)
    for row, some in zip(hashed.tolist(), (values, values[::-1]), strict=True):
        size = len(some) // buckets
        powers = [0x9E3779B97F4A7C15**i for i in range(size)][::-1]
        sums = [sum(map(operator.mul, powers, some[i : i + size])) % 2**64 for i in range(0, len(some), size)]
        assert row == mix64(np.array(sums, np.uint64)).tolist()
