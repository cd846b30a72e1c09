"""Hashes of many texts and keys at once against those of hashlib; tests/common/test_text.py has golden vectors."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe.text import _blake2b, document_key
from epochal.datapipe.text.document_key import content_keys, raw_digests

SIZES = st.integers(1, 64)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.text("aé漢", min_size=120))), SIZES)
def test_texts_have_the_hashes_of_hashlib(texts, size):
    expected = [hashlib.blake2b(text.encode(), digest_size=size).digest() for text in texts]
    assert _blake2b.texts(texts, size) == b"".join(expected)


@given(st.integers(1, 300), st.integers(0, 3), SIZES, st.binary(max_size=64), st.binary(min_size=16, max_size=16))
def test_rows_have_the_hashes_of_hashlib(width, n, size, key, person):
    data = np.random.default_rng(width).bytes(n * width)
    rows = [data[i * width : (i + 1) * width] for i in range(n)]
    expected = [hashlib.blake2b(row, digest_size=size, key=key, person=person).digest() for row in rows]
    assert _blake2b.rows(data, width, size, key, person) == b"".join(expected)


def test_inputs_of_every_length_around_a_block_have_the_hashes_of_hashlib():
    texts = ["x" * n for n in (0, 1, 127, 128, 129, 255, 256, 257, 1000)]
    expected = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    assert _blake2b.texts(texts, 16) == b"".join(expected)


def test_a_batch_with_a_long_text_has_the_same_hashes(monkeypatch):
    texts = ["short", "é" * 100, ""]
    keys, raw = content_keys(texts), raw_digests(texts)
    monkeypatch.setattr(document_key, "BLOCK_CHARS", 10)
    assert content_keys(texts).tolist() == keys.tolist()
    assert raw_digests(texts).tolist() == raw.tolist()


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(UnicodeEncodeError):
        _blake2b.texts(["fine", "\ud800"], 16)
    with pytest.raises(TypeError):
        _blake2b.texts([b"bytes"], 16)  # type: ignore[list-item]
    for size in (0, 65, -1):
        with pytest.raises(ValueError, match="no such BLAKE2b"):
            _blake2b.texts([], size)
    for width, key, person in ((0, b"", bytes(16)), (3, b"", bytes(16)), (8, bytes(65), bytes(16)), (8, b"", b"short")):
        with pytest.raises(ValueError, match=r"not rows|no such BLAKE2b"):
            _blake2b.rows(bytes(16), width, 16, key, person)
