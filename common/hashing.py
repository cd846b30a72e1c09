"""Hashes: the keys of everything that is random in a run, digests of values, and the xxh64 of bytes and files.

Keys are hashed from (seed, number, purpose), never added together. Sums of seeds and counters collide (`seed + epoch`
makes the runs (1, 2) and (2, 1) the same one); hashes do not.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .errors import RequestError

MAX_SEED = 2**63 - 1


def check_seed(seed: int) -> int:
    """Return `seed` if it is an integer from 0 to 2**63 - 1.

    Raises:
        RequestError: otherwise.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise RequestError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
    return seed


def derive_key(purpose: str, seed: int, number: int, n_bytes: int) -> bytes:
    """Return `n_bytes` of key for `purpose`: SHAKE-256 of the ASCII text `epochal/<purpose>/<seed>/<number>`.

    `number` tells the keys of one purpose apart, such as the pass.
    """
    return hashlib.shake_256(f"epochal/{purpose}/{seed}/{number}".encode("ascii")).digest(n_bytes)


def derive_words(purpose: str, seed: int, number: int, n_words: int) -> NDArray[np.uint64]:
    """Return a key of `derive_key` as `n_words` little-endian 64-bit words, shape (n_words,)."""
    return np.frombuffer(derive_key(purpose, seed, number, 8 * n_words), "<u8").astype(np.uint64)


def mix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's output function (Steele, Lea & Flood 2014) of each element: a bijection of 64-bit words."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def canonical_json(value: object) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, UTF-8 characters as they are."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Return BLAKE2b-128 of the canonical JSON of `value`, 32 hexadecimal digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


def items_digest(rows: Iterable[bytes]) -> str:
    """Return the digest of an evaluation file: BLAKE2b-128 over its rows that are not empty, each stripped of white
    space, joined by line ends. A pool's manifest names what it was cleaned against by it, evaluations look it up."""
    lines = [row.strip() for row in rows]
    return hashlib.blake2b(b"\n".join(line for line in lines if line), digest_size=16).hexdigest()


# -- bytes and files ------------------------------------------------------------------------------------------------

_PIECE = 1 << 22


class FileHash:
    """Size in `bytes` and xxh64 of a file that comes in pieces."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hash = xxhash.xxh64()

    def add(self, piece: Any) -> int:
        """Add the next piece, bytes or what has a buffer of them; return its size in bytes."""
        self._hash.update(piece)
        size = memoryview(piece).nbytes
        self.bytes += size
        return size

    def hexdigest(self) -> str:
        """Return the xxh64 so far, 16 hexadecimal digits."""
        return self._hash.hexdigest()


def xxh64(data: bytes) -> str:
    """Return the xxh64 of `data`, 16 hexadecimal digits."""
    return xxhash.xxh64_hexdigest(data)


def stream_hash(file: Any, most: int | None = None) -> FileHash:
    """Return the hash of an opened file, or of its next `most` bytes, read in pieces."""
    hashed = FileHash()
    while piece := file.read(_PIECE if most is None else min(_PIECE, most - hashed.bytes)):
        hashed.add(piece)
    return hashed


def xxh64_file(path: str) -> str:
    """Return the xxh64 of the local file at `path`, read in pieces.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    with open(path, "rb", buffering=0) as f:
        return stream_hash(f).hexdigest()
