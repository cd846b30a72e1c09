"""What identifies a document wherever it came from: its normalised text, its key, its place in canonical order.

    text  -> NFC, line ends as \\n, no white space at either end
    key   =  BLAKE2b-128(UTF-8 of the normalised text)
          or BLAKE2b-128(ids as little-endian uint32; personalised "epochal-ids"), where a document came as token ids
             that its tokenizer does not make of their text
    place =  BLAKE2b-128(key; keyed with the pool's seed, 8 bytes little-endian, personalised "epochal-place")

Documents with equal keys are exact duplicates. The pool holds its documents in ascending order of place.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.text import content_key, normalise, text_digest

__all__ = ["content_key", "ids_key", "normalise", "place", "places", "raw_digests", "validation_orders"]

U64 = NDArray[np.uint64]


def ids_key(ids: NDArray[np.integer[Any]]) -> bytes:
    """Return the key of a document that is known by its token ids, EOD not among them."""
    return hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=16, person=b"epochal-ids").digest()


def raw_digests(texts: Iterable[str]) -> U64:
    """Return 64 bits of BLAKE2b over each text as it came: decides between texts of one key, which differ in form."""
    return _numbers([text_digest(text, 8) for text in texts])


def place(key: bytes, seed: int) -> bytes:
    """Return the 16 bytes that the pool's documents are sorted by."""
    return _keyed(key, seed, b"epochal-place")


def places(keys: Iterable[bytes], seed: int) -> U64:
    """Return `place` of each key as two numbers, the first half of it and the second: shape (n, 2)."""
    return _numbers([place(key, seed) for key in keys]).reshape(-1, 2)


def validation_orders(keys: Iterable[bytes], seed: int) -> U64:
    """Return 64 bits for each key, by which clusters, named by their survivor's key, are drawn for validation: lowest
    first."""
    return _numbers([_keyed(key, seed, b"epochal-valid") for key in keys])[::2]


def _numbers(digests: list[bytes]) -> U64:
    """Return the bytes of digests as numbers, eight bytes each, the first the highest."""
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _keyed(key: bytes, seed: int, purpose: bytes) -> bytes:
    hashed = _empty(seed, purpose).copy()
    hashed.update(key)
    return hashed.digest()


@functools.lru_cache(maxsize=16)
def _empty(seed: int, purpose: bytes) -> hashlib.blake2b:
    """Return the hash of nothing under a key, to be copied: the key is taken in once."""
    return hashlib.blake2b(digest_size=16, key=seed.to_bytes(8, "little"), person=purpose)
