"""What identifies a document wherever it came from: its normalised text, its key, its place in canonical order.

    text  -> NFC, line ends as \\n, no white space at either end
    key   =  BLAKE2b-128(UTF-8 of the normalised text)
          or BLAKE2b-128(ids as little-endian uint32; personalised "epochal-ids"), where a document came as token ids
             that its tokenizer does not make of their text
    place =  BLAKE2b-128(key; keyed with the pool's seed, 8 bytes little-endian, personalised "epochal-place")

Documents with equal keys are exact duplicates. The pool holds its documents in ascending order of place.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.text import content_key, normalise, text_digest

__all__ = ["content_key", "ids_key", "normalise", "place", "raw_digest", "validation_order"]


def ids_key(ids: NDArray[np.integer[Any]]) -> bytes:
    """Return the key of a document that is known by its token ids, EOD not among them."""
    return hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=16, person=b"epochal-ids").digest()


def raw_digest(text: str) -> int:
    """Return 64 bits of BLAKE2b over the text as it came: decides between texts of one key, which differ in form."""
    return int.from_bytes(text_digest(text, 8), "big")


def place(key: bytes, seed: int) -> bytes:
    """Return the 16 bytes that the pool's documents are sorted by."""
    return _keyed(key, seed, b"epochal-place")


def validation_order(key: bytes, seed: int) -> int:
    """Return the 64 bits by which clusters, named by their survivor's key, are drawn for validation: lowest first."""
    return int.from_bytes(_keyed(key, seed, b"epochal-valid")[:8], "big")


def _keyed(key: bytes, seed: int, purpose: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16, key=seed.to_bytes(8, "little"), person=purpose).digest()
