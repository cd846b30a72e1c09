"""What identifies a document wherever it came from: its normalised text, its key, its place in canonical order.

    text  -> NFC, line ends as \\n, no white space at either end
    key   =  BLAKE2b-128(UTF-8 of the normalised text)
          or BLAKE2b-128(ids as little-endian uint32; personalised "epochal-ids"), where a document came as token ids
             that its tokenizer does not make of their text
    place =  BLAKE2b-128(key; keyed with the pool's seed, 8 bytes little-endian, personalised "epochal-place")

Documents with equal keys are exact duplicates. The pool holds its documents in ascending order of place.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.text import BLOCK_CHARS, content_key, normalise, text_digest
from ...tokenize.compiled import compiled_part

with compiled_part():
    from . import _blake2b

__all__ = ["content_key", "content_keys", "ids_key", "normalise", "places", "raw_digests", "validation_orders"]

U64 = NDArray[np.uint64]
Keys = NDArray[np.uint8]
"""Keys of documents, shape (n, 16)."""


def content_keys(normalised: Sequence[str]) -> Keys:
    """Return `content_key` of each text."""
    return np.frombuffer(_text_digests(normalised, 16), np.uint8).reshape(-1, 16)


def ids_key(ids: NDArray[np.integer[Any]]) -> bytes:
    """Return the key of a document that is known by its token ids, EOD not among them."""
    return hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=16, person=b"epochal-ids").digest()


def raw_digests(texts: Sequence[str]) -> U64:
    """Return 64 bits of BLAKE2b over each text as it came: decides between texts of one key, which differ in form."""
    return _numbers(_text_digests(texts, 8))


def places(keys: Keys, seed: int) -> U64:
    """Return what the pool's documents are sorted by, two numbers each, the first half of it and the second: shape
    (n, 2)."""
    return _numbers(_keyed(keys, seed, b"epochal-place")).reshape(-1, 2)


def validation_orders(keys: Keys, seed: int) -> U64:
    """Return 64 bits for each key, by which clusters, named by their survivor's key, are drawn for validation: lowest
    first."""
    return _numbers(_keyed(keys, seed, b"epochal-valid"))[::2]


def _text_digests(texts: Sequence[str], size: int) -> bytearray:
    if max(map(len, texts), default=0) > BLOCK_CHARS:
        return bytearray().join([text_digest(text, size) for text in texts])
    return _blake2b.texts(list(texts), size)


def _numbers(digests: bytearray) -> U64:
    """Return the bytes of digests as numbers, eight bytes each, the first the highest."""
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _keyed(keys: Keys, seed: int, purpose: bytes) -> bytearray:
    return _blake2b.rows(np.ascontiguousarray(keys), 16, 16, seed.to_bytes(8, "little"), purpose.ljust(16, b"\0"))
