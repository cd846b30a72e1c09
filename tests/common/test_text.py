import hashlib
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe.text.document_key import (
    content_key,
    ids_key,
    normalise,
    place,
    places,
    raw_digests,
    validation_orders,
)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [("  a\r\nb\rc \n", "a\nb\nc"), ("e\u0301", "é"), ("\u3000x\u00a0", "x"), (" \n\t", ""), ("1  2", "1  2")],
)
def test_normalised_text(text, normalised):
    assert normalise(text) == normalised
    assert normalise(normalised) == normalised


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ae\u0301\u0316\u0300é\n\u1100\u1161\u11a8漢🙂 "), max_size=60), st.integers(1, 8))
def test_a_long_text_is_normalised_and_hashed_block_by_block_as_a_whole(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epochal.common.text.BLOCK_CHARS", size)
        assert normalise(text) == unicodedata.normalize("NFC", text).strip()
        assert content_key(text) == hashlib.blake2b(text.encode(), digest_size=16).digest()


def test_golden_vectors():
    """Others must be able to reimplement these; a change here is a change of format."""
    key = content_key("Hello world")
    assert key.hex() == "ff734a0b6c5d9e0f3900c2422d8cc5e1"
    assert place(key, 0).hex() == "f818cc6930da2baf596a3f524045cbf4"
    assert place(key, 1).hex() == "17044104845fe9b065d2f5b343263520"
    assert validation_orders([key], 0).tolist() == [0xB499E0DD6AC87B2]
    assert raw_digests(["Hello world", ""]).tolist() == [0xD641D955D12C936F, 0xE4A6A0577479B2B4]
    assert places([key, key], 1).tolist() == [[0x17044104845FE9B0, 0x65D2F5B343263520]] * 2
    assert ids_key(np.array([15496, 995, 70_000], np.uint32)).hex() == "f5c0f953d51af140f8c733dab9151828"
