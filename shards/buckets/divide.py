"""Dividing a pool: each bucket becomes a pool of its own, of whole documents in the order of the pool.

A pool holds one document of each cluster of near-duplicates, and none of its validation pool: so no cluster is divided
over buckets, and validation has documents of none of them. The pool's shards are read once; of each bucket a shard and
some rows are held.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError
from ...common.hashing import digest
from ...common.progress import Progress
from ...common.publish import MANIFEST_NAME, Sink, publishing
from .. import arrow, mds
from ..artifact import INDEX_NAME, Artifact, open_artifact, read_manifest
from ..description.describe import describe
from ..description.subject import Subject, kept_of
from ..documents import DOCUMENTS, ROW_GROUP, open_documents, readable, todays_schema
from ..facts import facts_of
from ..loader.sample_reader import read_shard
from ..manifest import Bucket, Content, Manifest, dump_manifest, fingerprint
from ..tables.writing import DividedWriter
from ..tokenizer_file import carry_tokenizer
from .split import OWN_COLUMNS, Division, Split, by_number, by_value


@dataclass(frozen=True)
class Divided:
    """What a pool was divided into.

    Attributes:
        pools: the path of each bucket's pool, and its manifest, in the buckets' order.
        new: how many of them were not there already.
        empty: quantiles without a document.
    """

    pools: tuple[tuple[str, Manifest], ...]
    new: int
    empty: int


def divide(pool: str, split: Split, quiet: bool = True) -> Divided:
    """Divide the pool at `pool` into pools beside it, named `<pool>-<column>-<bucket>`.

    Raises:
        RequestError: when it cannot be divided so, or something else lies where a bucket is to be.
        WorkError: when it is damaged.
    """
    source = open_artifact(pool)
    if source.manifest.kind != "pool":
        raise RequestError(f"{pool} is a subset, not a pool: divide its pool, and carve from the buckets")
    starts, tokens, division = _divided(source, split)
    targets = [_Target(source, split, division, number, tokens) for number in range(len(division.parts))]
    missing = [target for target in targets if not target.is_there()]
    if missing:
        _write(source, starts, tokens, division, missing, quiet)
    found = tuple((target.path, read_manifest(target.path)) for target in targets)
    return Divided(found, len(missing), division.empty)


def _divided(pool: Artifact, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64], Division]:
    """Return start and tokens of each document, and its bucket."""
    known = kept_of(pool.manifest) | OWN_COLUMNS
    kind = known.get(split.by)
    if kind is None:
        raise RequestError(
            f"the documents of pool '{pool.manifest.name}' have no column '{split.by}' to divide by: there are "
            f"{', '.join(known)} (a build keeps more with keep: [{split.by}])"
        )
    if kind in ("date", "timestamp"):
        raise RequestError(f"'{split.by}' is a {kind}: a pool is divided by a number, text, or true and false")
    cut = split.quantiles is not None or split.edges is not None
    if cut and kind not in ("int", "float"):
        raise RequestError(f"'{split.by}' is {kind}, which has no quantiles or edges: leave them out, a value a bucket")
    if not cut and kind == "float":
        raise RequestError(f"'{split.by}' is a fraction: say how it is cut, as in quantiles: 20 or edges: [0.2, 0.5]")
    columns = list(_columns(pool, split.by))
    starts, tokens = (np.concatenate([np.zeros(0, np.int64), *(c[i] for c in columns)]) for i in (0, 1))
    if cut:
        values = [arrow.array(c.cast(pa.float64(), safe=False).fill_null(float("nan"))) for _, _, c in columns]
        return starts, tokens, by_number(split, np.concatenate(values), tokens)
    texts = [None if v is None else _as_text(v) for _, _, chunk in columns for v in chunk.to_pylist()]
    return starts, tokens, by_value(texts, split.by)


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _columns(pool: Artifact, by: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], pa.ChunkedArray]]:
    """Yield start, tokens and the column `by` of a pool's documents, whose table is held against its hash."""
    with open_documents(pool.root, pool.manifest.files) as f:
        for table in f.groups(list(dict.fromkeys(["start", "tokens", by]))):
            with readable(pool.root):
                columns = arrow.integers(table["start"]), arrow.integers(table["tokens"]), table[by]
            yield columns


class _Target:
    """A bucket's pool: where it is to be and what it is; then what is written of it."""

    def __init__(
        self, pool: Artifact, split: Split, division: Division, number: int, tokens: NDArray[np.int64]
    ) -> None:
        m, part = pool.manifest, division.parts[number]
        self.pool, self.number = pool, number
        mine = tokens[division.of == number]
        self.documents, self.tokens = len(mine), int(mine.sum())
        self.bucket = Bucket(
            pool=m.name,
            fingerprint=m.fingerprint,
            by=split.by,
            number=number,
            buckets=len(division.parts),
            **asdict(part),
        )
        parent, _, name = pool.root.rpartition("/")
        column = "".join(c if c.isalnum() or c in "._-" else "-" for c in split.by)
        self.name = f"{name}-{column}-{part.name}"
        self.path = f"{parent}/{self.name}"
        self.per_shard = min(pool.shards[0].samples, auto_samples(self.tokens, m.seq_len))

    def is_there(self) -> bool:
        """Return whether this very bucket is there already.

        Raises:
            RequestError: when something else is.
        """
        if not storage.exists(self.path):
            return False
        if storage.exists(storage.join(self.path, MANIFEST_NAME)):
            if read_manifest(self.path).bucket == self.bucket:
                return True
        elif storage.is_url(self.path):
            return False  # being written when the command was stopped
        raise RequestError(f"{self.path} exists and holds something else: remove it, or divide by another column")

    def request(self) -> str:
        """Return what names it while it is being written."""
        return digest([self.bucket.model_dump()])

    def manifest(self, shards: list[dict[str, Any]], content: list[Content]) -> Manifest:
        """Return what it is, without the list of its files."""
        m = self.pool.manifest
        carried = {key: m.statistics[key] for key in ("kept", "evaluation") if m.statistics.get(key)}
        made = Manifest(
            kind="pool",
            name=self.name,
            fingerprint="",
            documents=self.documents,
            tokens=self.tokens,
            samples=-(-self.tokens // m.seq_len),
            shards=len(shards),
            seq_len=m.seq_len,
            dtype=m.dtype,
            seed=m.seed,
            tokenizer=m.tokenizer,
            content=content,
            bucket=self.bucket,
            config=m.config,
            statistics=carried,
            versions=m.versions,
        )
        return made.model_copy(update={"fingerprint": fingerprint(made)})


def auto_samples(tokens: int, seq_len: int) -> int:
    """Return a power of two that makes about 64 shards, at least 16 samples each."""
    samples = max(16, tokens // seq_len // 64)
    return 1 << (samples.bit_length() - 1)


def _write(
    pool: Artifact,
    starts: NDArray[np.int64],
    tokens: NDArray[np.int64],
    division: Division,
    targets: list[_Target],
    quiet: bool,
) -> None:
    """Write the pools of some buckets, each whole or not at all."""
    with contextlib.ExitStack() as stack, Progress("split", pool.manifest.tokens, "tokens", quiet) as shown:
        writers = [
            stack.enter_context(_writing(target, stack.enter_context(publishing(target.path, target.request()))))
            for target in targets
        ]
        position = 0
        for shard in pool.shards:
            flat = read_shard(shard, pool.manifest).reshape(-1)[: pool.manifest.tokens - position]
            _deal(flat, position, starts, tokens, division, writers)
            position += len(flat)
            shown.update(position)
        _deal_rows(pool, division, writers)


def _deal(
    flat: mds.Samples,
    position: int,
    starts: NDArray[np.int64],
    tokens: NDArray[np.int64],
    division: Division,
    writers: "list[_Writer]",
) -> None:
    """Give each writer its documents' tokens of a stretch of the pool's stream that begins at `position`."""
    first = int(np.searchsorted(starts, position, side="right")) - 1
    last = int(np.searchsorted(starts, position + len(flat), side="left"))
    begin = np.maximum(starts[first:last] - position, 0)
    end = np.minimum(starts[first:last] + tokens[first:last] - position, len(flat))
    of = division.of[first:last]
    for writer in writers:
        rows = np.flatnonzero(of == writer.target.number)
        if len(rows):
            pieces = zip(begin[rows].tolist(), end[rows].tolist(), strict=True)
            writer.add(np.concatenate([flat[a:b] for a, b in pieces]))


def _deal_rows(pool: Artifact, division: Division, writers: "list[_Writer]") -> None:
    """Give each writer its documents' rows."""
    at = 0
    with open_documents(pool.root) as f:
        for table in f.groups():
            of = division.of[at : at + len(table)]
            at += len(table)
            for writer in writers:
                writer.add_rows(table.take(arrow.numbers(np.flatnonzero(of == writer.target.number))))


@contextlib.contextmanager
def _writing(target: _Target, sink: Sink) -> "Iterator[_Writer]":
    """Yield what takes a bucket's tokens and rows; when the body succeeds, its pool is whole, manifest last."""
    with open_documents(target.pool.root) as f:
        schema = todays_schema(f.schema)
    with DividedWriter(sink.create, DOCUMENTS, schema, target.documents, compression="zstd") as rows:
        writer = _Writer(target, sink, rows)
        yield writer
        writer.finish()
    manifest = target.manifest(writer.entries, writer.content)
    subject = Subject(manifest, sink.files, sink.sha256, facts_of(manifest.config), kept_of(manifest))
    describe(subject, sink.write)
    whole = manifest.model_copy(update={"files": dict(sorted(sink.files.items()))})
    sink.write(MANIFEST_NAME, dump_manifest(whole).encode())


class _Writer:
    """Writes a bucket's pool."""

    def __init__(self, target: _Target, sink: Sink, rows: DividedWriter) -> None:
        self.target, self.sink, self._rows = target, sink, rows
        self._waiting: list[NDArray[Any]] = []
        self._n_waiting = self._next_start = 0
        self._tables: list[pa.Table] = []
        self.entries: list[dict[str, Any]] = []
        self.content: list[Content] = []

    def add(self, tokens: NDArray[Any]) -> None:
        """Take tokens of the stream; write the shards that are full."""
        m, per_shard = self.target.pool.manifest, self.target.per_shard
        self._waiting.append(tokens)
        self._n_waiting += len(tokens)
        size = per_shard * m.seq_len
        if self._n_waiting < size:
            return
        joined = np.concatenate(self._waiting)
        full = len(joined) // size * size
        for start in range(0, full, size):
            self._write_shard(joined[start : start + size])
        self._waiting, self._n_waiting = [joined[full:]], len(joined) - full

    def _write_shard(self, tokens: NDArray[Any]) -> None:
        m, name = self.target.pool.manifest, mds.shard_name(len(self.entries))
        data = mds.encode_shard(tokens.reshape(-1, m.seq_len))
        self.sink.write(name, data)
        samples, file_hash = len(tokens) // m.seq_len, self.sink.files[name].xxh64
        self.entries.append(mds.index_entry(name, samples, len(data), file_hash, m.seq_len, m.dtype))
        self.content.append(Content(xxh64=file_hash, samples=samples))

    def add_rows(self, table: pa.Table) -> None:
        """Take rows of documents, in order; write those that fill a row group."""
        tokens = arrow.integers(table["tokens"])
        starts = self._next_start + np.cumsum(tokens) - tokens
        self._next_start += int(tokens.sum())
        self._tables.append(table.set_column(table.schema.get_field_index("start"), "start", arrow.numbers(starts)))
        if sum(map(len, self._tables)) >= ROW_GROUP:
            self._write_rows()

    def _write_rows(self) -> None:
        joined = pa.concat_tables(self._tables).unify_dictionaries().cast(self._rows.schema).combine_chunks()
        full = len(joined) // ROW_GROUP * ROW_GROUP
        if full:
            self._rows.write(joined.slice(0, full), ROW_GROUP)
        self._tables = [joined.slice(full)]

    def finish(self) -> None:
        """Write what is left of the stream and of the rows."""
        m = self.target.pool.manifest
        if self._n_waiting:
            rest = np.full(-self._n_waiting % m.seq_len, m.tokenizer.pad, m.dtype)
            self._write_shard(np.concatenate([*self._waiting, rest]))
        if sum(map(len, self._tables)):
            self._rows.write(pa.concat_tables(self._tables).unify_dictionaries().cast(self._rows.schema), ROW_GROUP)
        self.sink.write(INDEX_NAME, mds.dump_index(self.entries).encode())
        carry_tokenizer(self.sink, self.target.pool.root, m)
