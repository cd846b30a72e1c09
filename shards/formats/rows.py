"""The token stream of a subset as rows, in canonical or in plan order: what exports are written and checked from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .. import mds
from ..artifact import Artifact
from ..loader.order_reader import OrderReader
from ..loader.sample_reader import read_shard
from ..order.base import Repetition

Tokens = NDArray[Any]
"""Token ids of shape (n,), any unsigned or signed integer type."""

Block = tuple[Tokens, NDArray[np.int64]]
"""Token ids, and the lengths of the rows that they make up."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rows:
    """Some samples: `tokens` (k, seq_len), of which each row's first `lengths` (k,) are tokens and the rest PAD."""

    tokens: mds.Samples
    lengths: NDArray[np.int64]

    @classmethod
    def whole(cls, samples: mds.Samples) -> "Rows":
        """Return rows of which nothing counts as PAD."""
        return cls(samples, np.full(len(samples), samples.shape[1], np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def flat(self) -> Tokens:
        """Return the tokens of all rows in order, shape (sum of lengths,)."""
        width = self.tokens.shape[1]
        if (self.lengths == width).all():
            return self.tokens.reshape(-1)
        return self.tokens[np.arange(width) < self.lengths[:, None]]

    def part(self, start: int, stop: int) -> "Rows":
        """Return rows `start` to `stop`, not copied."""
        return Rows(self.tokens[start:stop], self.lengths[start:stop])

    def arrays(self) -> Iterator[Tokens]:
        """Yield the tokens of each row."""
        for row, length in zip(self.tokens, self.lengths.tolist(), strict=True):
            yield row[:length]


@dataclass(frozen=True)
class Part:
    """What is read of a file, by default all of it.

    Attributes:
        column: where the ids are, None for the name that exports have.
        dtype: of the ids of a flat file.
        start: of a file that is divided, in bytes, or in documents for Megatron-LM's; stop None: to the end.
        stop: see `start`.
        size: of the whole file in bytes, as its store listed it; None: not known.
    """

    column: str | None = None
    dtype: str = "uint16"
    start: int = 0
    stop: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Stretch:
    """Rows `start` to `stop` of an export of `n_rows`: whole files, which one process writes.

    Attributes:
        by_row: rows are in the order of a plan, so no document goes on from one into the next.
    """

    start: int
    stop: int
    n_rows: int
    by_row: bool

    def files(self, rows_per_file: int) -> range:
        """Return the numbers of its files, of which each but the last of the export holds `rows_per_file`."""
        return range(self.start // rows_per_file, -(-self.stop // rows_per_file))


class TokenDigest:
    """XXH3-128 over a token stream, each id as a little-endian word of `dtype` (`uint16`, `uint32`).

    It does not depend on the format that the ids lie in, nor on how they are cut into rows, documents or files. It
    guards against accidents, not against someone who wants to forge it.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._hash = xxhash.xxh3_128()
        self.tokens = 0

    def add(self, tokens: Tokens) -> None:
        """Add the next ids; they must fit `dtype`."""
        self._hash.update(np.ascontiguousarray(tokens, self._dtype).data)
        self.tokens += len(tokens)

    def hexdigest(self) -> str:
        """Return the digest so far, 32 hexadecimal digits."""
        return self._hash.hexdigest()


def read_rows(artifact: Artifact, plan: Repetition | None = None, wanted: range | None = None) -> Iterator[Rows]:
    """Yield the samples of `artifact` in canonical order or, with a plan for it, of the positions of the plan: all, or
    those of the numbers `wanted`, one after the other.

    Every shard is compared with its hash. Memory: one shard, or the maps of those that a plan reads from.

    Raises:
        WorkError: when one is damaged.
    """
    wanted = wanted or range(plan.positions if plan else artifact.manifest.samples)
    return _canonical(artifact, wanted) if plan is None else _planned(artifact, plan, wanted)


def _canonical(artifact: Artifact, wanted: range) -> Iterator[Rows]:
    m = artifact.manifest
    first = 0
    for shard in artifact.shards:
        begin, end = max(wanted.start - first, 0), min(wanted.stop - first, shard.samples)
        if begin < end:
            samples = read_shard(shard, m)[begin:end]
            lengths = np.full(len(samples), m.seq_len, np.int64)
            lengths[-1] -= max(0, (first + end) * m.seq_len - m.tokens)
            yield Rows(samples, lengths)
        first += shard.samples


def _planned(artifact: Artifact, plan: Repetition, wanted: range) -> Iterator[Rows]:
    m = artifact.manifest
    reader = OrderReader.of(plan, [artifact])
    for start in range(wanted.start, wanted.stop, _ROWS_AT_ONCE):
        positions = range(start, min(start + _ROWS_AT_ONCE, wanted.stop))
        ids = plan.ids(positions)
        yield Rows(reader.read(positions, ids.astype(np.int64)).astype(m.dtype), plan.n_tokens(ids))


def regroup(rows: Iterable[Rows], n: int) -> Iterator[Rows]:
    """Yield the same rows `n` at a time, the last time perhaps fewer."""
    waiting: list[Rows] = []
    n_waiting = 0
    for block in rows:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting < n:
            continue
        joined = _join(waiting)
        whole = n_waiting - n_waiting % n
        for start in range(0, whole, n):
            yield joined.part(start, start + n)
        waiting = [joined.part(whole, n_waiting)] if n_waiting > whole else []
        n_waiting -= whole
    if n_waiting:
        yield _join(waiting)


def _join(blocks: list[Rows]) -> Rows:
    if len(blocks) == 1:
        return blocks[0]
    return Rows(np.concatenate([b.tokens for b in blocks]), np.concatenate([b.lengths for b in blocks]))
