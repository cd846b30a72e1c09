"""The shards that a subset is made of: those of its pool, whole or in part, and those of its own, and how they are
written: as a view of the pool, as a copy, as rows for other formats."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..common.hashing import xxh64
from ..common.publish import Sink
from . import mds
from .artifact import INDEX_NAME, Artifact, Shard
from .formats.rows import Rows
from .loader.sample_reader import read_checked, read_shard
from .manifest import Manifest
from .without.cut import Anew, Cut


@dataclass(frozen=True)
class Piece:
    """A shard of a subset.

    Attributes:
        samples: leading ones of the file that belong to the subset.
        n_bytes: of the file.
        xxh64: of the file.
        read: returns the file's bytes, and raises WorkError when they are not those.
        shard: the shard of the pool that it is; None: it is the subset's own.
    """

    samples: int
    n_bytes: int
    xxh64: str
    read: Callable[[], bytes]
    shard: Shard | None = None

    @classmethod
    def of(cls, shard: Shard, samples: int, own: bool = False) -> "Piece":
        """Return that of a shard that lies somewhere, of the pool or the subset's `own`."""
        return cls(samples, shard.bytes, shard.xxh64, partial(read_checked, shard), None if own else shard)


def pieces_of(pool: Artifact, cut: Cut, tokens: int) -> tuple[list[Piece], bytes | None]:
    """Return the shards of the first `tokens` tokens of what is left of a pool and, when a last sample is cut short,
    the shard file that holds it. Shards of its own are made here, for their hashes, and again when they are read.

    Raises:
        WorkError: when a shard is damaged.
    """
    full, rest = divmod(tokens, cut.seq_len)
    left = _Left(pool, cut)
    found = []
    for place in cut.pieces(full):
        if isinstance(place, Anew):
            data = left.file(place)
            found.append(Piece(place.samples, len(data), xxh64(data), partial(left.file, place)))
        else:
            found.append(Piece.of(pool.shards[place.shard], place.samples))
    if not rest:
        return found, None
    place = cut.sample(full)
    if isinstance(place, Anew):
        sample = left.tokens(place.start, place.skip, rest)
    else:
        sample = read_shard(pool.shards[place.shard], pool.manifest)[place.samples - 1][:rest]
    last = np.full((1, cut.seq_len), pool.manifest.tokenizer.pad, pool.manifest.dtype)
    last[0, :rest] = sample
    return found, mds.encode_shard(last)


class _Left:
    """Reads what is left of a pool's stream; of the pool one shard is held."""

    def __init__(self, pool: Artifact, cut: Cut) -> None:
        self._pool, self._cut = pool, cut
        self._held: tuple[int, mds.Samples] | None = None

    def file(self, place: Anew) -> bytes:
        """Return the shard file of a place."""
        tokens = self.tokens(place.start, place.skip, place.samples * self._cut.seq_len)
        return mds.encode_shard(tokens.reshape(place.samples, -1))

    def tokens(self, start: int, skip: int, n: int) -> mds.Samples:
        """Return `n` tokens that stay, beginning `skip` of them after position `start`."""
        parts = [part for span in self._cut.removed.left_tokens(start, skip, n) for part in self._span(*span)]
        return np.concatenate(parts)  # type: ignore[return-value]  # it does not see that both kinds stay what they are

    def _span(self, start: int, stop: int) -> Iterator[mds.Samples]:
        """Yield the pool's tokens from `start` to `stop`, a shard's at a time."""
        width = self._cut.per_shard * self._cut.seq_len
        for number in range(start // width, -(-stop // width)):
            low = number * width
            yield self._shard(number).reshape(-1)[max(start - low, 0) : stop - low]

    def _shard(self, number: int) -> mds.Samples:
        if self._held is None or self._held[0] != number:
            self._held = number, read_shard(self._pool.shards[number], self._pool.manifest)
        return self._held[1]


Entries = list[dict[str, object]]


def write_mds(sink: Sink, pieces: Sequence[Piece], tail: bytes | None, m: Manifest) -> None:
    """Write index.json and the shards that are the subset's own: all of a copy, else those that its pool does not have.

    Args:
        sink: where to.
        pieces: see there.
        tail: the shard file with the last sample, where that is cut short.
        m: the subset; it decides between a view and a copy.

    Raises:
        WorkError: when a shard is damaged.
    """
    entries: Entries = []
    own = 0
    for piece in pieces:
        if piece.shard is not None and not m.materialized:
            assert m.parent is not None, "a view has a pool"
            name = f"{m.parent.path}/{os.path.basename(piece.shard.path)}"
            entries.append(_entry(name, piece.samples, piece.n_bytes, piece.xxh64, m))
        else:
            entries.append(_write_shard(sink, mds.shard_name(own), _leading(piece, m), piece.samples, m))
            own += 1
    if tail is not None:
        entries.append(_write_shard(sink, mds.shard_name(own), tail, 1, m))
    sink.write(INDEX_NAME, mds.dump_index(entries).encode())


def rows(pieces: Sequence[Piece], tail: bytes | None, m: Manifest) -> Iterator[Rows]:
    """Yield the subset's samples, the PAD of the last one as if it were tokens."""
    for piece in pieces:
        yield Rows.whole(mds.decode_shard(piece.read(), m.seq_len, m.dtype)[: piece.samples])
    if tail is not None:
        yield Rows.whole(mds.decode_shard(tail, m.seq_len, m.dtype))


def _leading(piece: Piece, m: Manifest) -> bytes:
    """Return the file of a piece, cut to its samples."""
    data = piece.read()
    samples = mds.decode_shard(data, m.seq_len, m.dtype)
    return data if piece.samples == len(samples) else mds.encode_shard(samples[: piece.samples])


def _write_shard(sink: Sink, name: str, data: bytes, samples: int, m: Manifest) -> dict[str, object]:
    sink.write(name, data)
    return _entry(name, samples, len(data), sink.files[name].xxh64, m)


def _entry(basename: str, samples: int, n_bytes: int, file_hash: str, m: Manifest) -> dict[str, object]:
    return mds.index_entry(basename, samples, n_bytes, file_hash, m.seq_len, m.dtype)
