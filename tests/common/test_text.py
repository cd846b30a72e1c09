import hashlib
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe.text.document_key import (
    content_key,
    content_keys,
    ids_key,
    normalise,
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
    keys = content_keys(["Hello world"] * 2)
    assert keys.tobytes() == 2 * key
    assert places(keys, 0).tolist() == [[0xF818CC6930DA2BAF, 0x596A3F524045CBF4]] * 2
    assert validation_orders(keys[:1], 0).tolist() == [0xB499E0DD6AC87B2]
    assert raw_digests(["Hello world", ""]).tolist() == [0xD641D955D12C936F, 0xE4A6A0577479B2B4]
    assert places(keys, 1).tolist() == [[0x17044104845FE9B0, 0x65D2F5B343263520]] * 2
    assert ids_key(np.array([15496, 995, 70_000], np.uint32)).hex() == "f5c0f953d51af140f8c733dab9151828"
