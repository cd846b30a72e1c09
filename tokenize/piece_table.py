"""A table of what is known of each distinct piece, so that work is done once per distinct piece and not per piece.

Text repeats its pieces: 12 MB of Python have 3 million pieces and 40 thousand distinct ones. `PieceTable` looks pieces
up by value, computes what is missing with plain functions of one piece, and gathers the results for every piece.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..shards.keys import mix64
from .pieces import Pieces

LIMIT = 1 << 18
"""Pieces remembered from group to group; beyond, a piece is worked out anew in every group."""

_SHORT = 7  # bytes of a piece that fit into its key together with its length
_LONG = 31  # bytes of a piece that are compared with those of the known piece of the same key; longer ones are not kept
_WORD_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_MASKS = _WORD_MASKS[[*range(_SHORT + 1), _SHORT]]
_LENGTHS = np.array([n << 56 for n in range(9)], np.uint64)
_HASHED = np.uint64(1 << 63)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)

PieceFunction = Callable[[bytes], Sequence[int]]


@dataclass(frozen=True)
class Gathered:
    """What one function says of a group's texts. values: all pieces in one array; starts: int64 (n_texts + 1,), where
    each text's begin; counts: int64 per piece, how many are its own."""

    values: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class _Column:
    """The values of one function for every row of the table: lists of different lengths in one array."""

    def __init__(self, function: PieceFunction, dtype: type[np.unsignedinteger]) -> None:
        self._function, self._dtype = function, dtype
        self._values: NDArray[np.unsignedinteger] = np.zeros(0, dtype)
        self._starts = np.zeros(2, np.int64)  # row 0 is the empty piece, which has no values

    def add(self, pieces: list[bytes]) -> None:
        lists = list(map(self._function, pieces))
        ends = np.cumsum(list(map(len, lists)), dtype=np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(lists), self._dtype)
        self._starts = np.concatenate([self._starts, self._starts[-1] + ends])
        self._values = np.concatenate([self._values, flat])

    def keep(self, rows: int) -> None:
        self._starts = self._starts[: rows + 1]
        self._values = self._values[: self._starts[-1]]

    def gather(self, rows: NDArray[np.int64], first: NDArray[np.int64]) -> Gathered:
        starts = self._starts[rows]
        counts = self._starts[rows + 1] - starts
        ends = np.cumsum(counts)
        places = np.repeat(starts - ends + counts, counts)
        places += np.arange(len(places))
        return Gathered(self._values[places], np.concatenate([[0], ends])[first], counts)


class PieceTable:
    """Applies functions of a piece's UTF-8 to all pieces of a group. functions: [(function, dtype of its values)]."""

    def __init__(self, functions: Sequence[tuple[PieceFunction, type[np.unsignedinteger]]]) -> None:
        self._columns = [_Column(function, dtype) for function, dtype in functions]
        self._keys = np.zeros(1, np.uint64)
        self._index = _Index()
        self._blocks = np.zeros((1, 4), np.uint64)

    def gather(self, function: int, rows: NDArray[np.int64], pieces: Pieces) -> Gathered:
        """Return the values of a function, by its place in `functions`, for all pieces of the group just looked up."""
        return self._columns[function].gather(rows, pieces.first)

    def look_up(self, pieces: Pieces) -> NDArray[np.int64]:
        """Return the row of every piece; rows are added for those that have none. Good until the next look-up."""
        self._forget()
        keys, hashed, blocks = _keys(pieces)
        rows = self._index.find(keys)
        rows[pieces.lengths > _LONG] = -1
        new = np.flatnonzero((rows < 0) & (pieces.lengths <= _LONG))
        distinct, where, inverse = np.unique(keys[new], return_index=True, return_inverse=True)
        rows[new] = len(self._keys) + inverse
        examples = new[where]
        self._keys = np.concatenate([self._keys, distinct])
        self._blocks = np.concatenate([self._blocks, _blocks(pieces, examples)])
        spelled = pieces.spell(examples)
        # A long piece's key is a hash: a piece that is not the very one that its row stands for gets one of its own.
        rows[hashed[(self._blocks[rows[hashed]] != blocks).any(axis=1)]] = -1
        unkept: dict[bytes, int] = {}
        alone = np.flatnonzero(rows < 0)
        for i, piece in zip(alone.tolist(), pieces.spell(alone), strict=True):
            rows[i] = unkept.setdefault(piece, len(self._keys) + len(unkept))
        for column in self._columns:
            column.add([*spelled, *unkept])
        return rows

    def _forget(self) -> None:
        """Drop the rows beyond those to be kept, and those of pieces that are never kept."""
        kept = min(len(self._keys), LIMIT)
        self._index.add(self._keys[self._index.size : kept])
        self._keys, self._blocks = self._keys[:kept], self._blocks[:kept]
        for column in self._columns:
            column.keep(kept)


class _Index:
    """Rows by key for many keys at once: a hash table with open addressing, kept from group to group.

    A key lies at most `_reach` places behind its own; key 0 stands for an empty place and for row 0 alike.
    """

    _BITS = LIMIT.bit_length() + 1  # at most a quarter full

    def __init__(self) -> None:
        self.size = 1  # keys held, and so the next row
        self._reach = 0
        self._keys = np.zeros(1 << self._BITS, np.uint64)
        self._rows = np.zeros(1 << self._BITS, np.int32)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each key, -1 where there is none."""
        home = self._home(keys)
        rows = np.where(self._keys[home] == keys, self._rows[home], -1).astype(np.int64)
        left = np.flatnonzero(rows < 0)
        for distance in range(1, self._reach + 1):
            place = (home[left] + distance) & (len(self._keys) - 1)
            here = self._keys[place] == keys[left]
            rows[left[here]] = self._rows[place[here]]
            left = left[~here]
        return rows

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Give the next rows to `keys`, which are distinct, new and not 0."""
        rows = np.arange(self.size, self.size + len(keys), dtype=np.int32)
        self.size += len(keys)
        home, distance = self._home(keys), 0
        while len(rows):
            place = (home + distance) & (len(self._keys) - 1)
            free = np.flatnonzero(self._keys[place] == 0)
            free = free[np.unique(place[free], return_index=True)[1]]  # one key to a place
            free = free[place[free] != 0]  # where key 0 is looked for
            self._keys[place[free]], self._rows[place[free]] = keys[free], rows[free]
            self._reach = max(self._reach, distance)
            left = np.ones(len(rows), np.bool_)
            left[free] = False
            keys, rows, home = keys[left], rows[left], home[left]
            distance += 1

    def _home(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys * _SPREAD >> np.uint64(64 - self._BITS)).astype(np.int64)


def _keys(pieces: Pieces) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
    """Return (a key per piece, the pieces whose key is a hash, their blocks).

    The key of a short piece is its bytes and, above them, its length, and so different for different pieces; that of a
    longer one is a hash of its blocks, with the top bit set.
    """
    lengths = np.minimum(pieces.lengths, _SHORT + 1)
    keys = (_words(pieces.data)[pieces.starts] & _MASKS[lengths]) | _LENGTHS[lengths]
    hashed = np.flatnonzero(pieces.lengths > _SHORT)
    hashed = hashed[pieces.lengths[hashed] <= _LONG]
    blocks = _blocks(pieces, hashed)
    folded = np.zeros(len(hashed), np.uint64)
    for column in blocks.T:
        folded = mix64(folded + column)
    keys[hashed] = folded | _HASHED
    return keys, hashed, blocks


def _blocks(pieces: Pieces, chosen: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the bytes of the chosen pieces, of at most 31 each, zeros behind, the length in the last: (n, 4)."""
    starts, lengths = pieces.starts[chosen], pieces.lengths[chosen]
    words = _words(pieces.data)
    blocks = np.empty((len(chosen), 4), np.uint64)
    for i in range(4):
        inside = np.clip(lengths - 8 * i, 0, 8)
        blocks[:, i] = words[starts + 8 * i] & _WORD_MASKS[inside]
    blocks[:, 3] |= lengths.astype(np.uint64) << np.uint64(56)
    return blocks


def _words(data: bytes) -> NDArray[np.uint64]:
    """Return the eight bytes at every place of `data` as a little-endian number, without a copy."""
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
