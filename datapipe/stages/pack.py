"""Pack: the surviving documents in canonical order, cut into samples and shards.

The order is by place, and parts are runs that are sorted by place already. A task merges one range of places, a
partition, at a time, so that it holds the tokens of one partition and one shard, whatever the size of the pool. Shards
are divided among tasks; each task begins and ends at the edge of a shard and reads the partitions that its shards need.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.hashing import xxh64
from ...shards import arrow, mds
from ...shards.documents import ROW_GROUP, SCHEMA, schema_with
from ..arrays.gather import apart, gathered, starts_of
from ..arrays.ordering import order_by
from ..arrays.records import joined
from ..run.stage_progress import StageProgress
from . import kept
from .division import FileStep, note, noted, open_parts
from .fates import Fates
from .parts import BUILD_AGAIN, Documents, Part, read_spans

CUTS_AT_ONCE = 1 << 26
CUTS_OF_A_FILE, MOST_CUT_FILES = 1 << 22, 64
"""Numbers in a file of cuts, about, where these are not more files."""

ROWS_NAME = "rows"
"""Where in a pool's folder its tasks leave rows and lists of shards until it is finished."""


@dataclass(frozen=True)
class PoolLayout:
    """How a pool's stream is cut.

    Attributes:
        folder: where its files are built.
        code: the fate of its documents.
        tokens: how many are in each partition.
        kept: the types of kept fields, by name.
        row_group: rows of documents.parquet that lie together.
    """

    folder: str
    code: int
    tokens: list[int]
    seq_len: int
    dtype: str
    pad: int
    samples_per_shard: int
    kept: dict[str, str] = field(default_factory=dict)
    row_group: int = ROW_GROUP

    @property
    def n_tokens(self) -> int:
        """Tokens in the pool."""
        return sum(self.tokens)

    @property
    def n_samples(self) -> int:
        """Samples in the pool, the last one padded if need be."""
        return -(-self.n_tokens // self.seq_len)

    @property
    def n_shards(self) -> int:
        """Shards in the pool."""
        return -(-self.n_samples // self.samples_per_shard)


@dataclass(frozen=True)
class WrittenShard:
    """A shard as packed; bytes, xxh64 and sha256 are the file's."""

    number: int
    samples: int
    bytes: int
    xxh64: str
    sha256: str


@dataclass(frozen=True)
class Packed:
    """What the tasks wrote of a pool.

    Attributes:
        shards: in order of number.
        pieces: of the table of documents: name and number of rows of each file in `rows`, in order.
    """

    shards: list[WrittenShard]
    pieces: list[tuple[str, int]]

    @property
    def n_rows(self) -> int:
        """Documents of the pool."""
        return sum(n for _, n in self.pieces)


def auto_samples_per_shard(n_tokens: int, seq_len: int, dtype: str) -> int:
    """Return a power of two that makes about 64 shards, between 16 samples and 64 MiB: small enough to give replicates
    distinct places in small pools, large enough to be few in large ones. Depends on the pool's size alone."""
    most = min((64 << 20) // (seq_len * np.dtype(dtype).itemsize), mds.max_samples_per_shard(seq_len, dtype))
    samples = max(16, n_tokens // seq_len // 64)
    return max(1, min(1 << (samples.bit_length() - 1), most))


class Pack(PipelineStep):
    """Writes this rank's share of each pool's shards, and the rows of documents.parquet that begin in them.

    Attributes:
        width: documents of a file of fates.
    """

    name = "Pack"
    type = "epochal"

    def __init__(self, work: str, layouts: list[PoolLayout], sources: list[str], width: int) -> None:
        super().__init__()
        self.work, self.layouts, self.sources, self.width = work, layouts, sources, width

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write shards and rows. Yields nothing."""
        parts, fates = open_parts(self.work), Fates(self.work, self.width)
        progress = StageProgress(self.work, "pack", rank)
        done = 0
        for layout in self.layouts:
            first, last = (layout.n_shards * r // world_size for r in (rank, rank + 1))
            share = _Share(layout, parts, fates, self.work, first, last)
            written = []
            with _rows_writer(layout, rank) as rows:
                for number, samples in share.shards(rows, self.sources):
                    written.append(_write_shard(layout, number, samples))
                    done += samples.size
                    progress.report(done)
            _publish_list(layout.folder, rank, written, share.n_rows)
        yield from ()


class _Share:
    """A task's share of one pool: shards [first, last)."""

    def __init__(self, layout: PoolLayout, parts: list[Part], fates: Fates, work: str, first: int, last: int) -> None:
        self.layout, self.first, self.last = layout, first, last
        self.fates, self.cuts = fates, Cuts(work, parts)
        base = np.cumsum([0] + [p.n_documents for p in parts]).tolist()
        self.runs = [(part, run, base[i] + run.first) for i, part in enumerate(parts) for run in part.runs]
        per_shard = layout.samples_per_shard * layout.seq_len
        self.start = first * per_shard
        self.stop = min(last * per_shard, layout.n_tokens)
        self.n_rows = 0

    def shards(self, rows: pq.ParquetWriter, sources: list[str]) -> Iterator[tuple[int, mds.Samples]]:
        """Yield (number, samples) of each shard; write the rows of documents that begin in them."""
        layout = self.layout
        per_shard = layout.samples_per_shard * layout.seq_len
        waiting = np.zeros(0, layout.dtype)
        number = self.first
        for tokens in self._stream(rows, sources):
            waiting = np.concatenate([waiting, tokens])
            while len(waiting) >= per_shard:
                yield number, waiting[:per_shard].reshape(-1, layout.seq_len)
                number, waiting = number + 1, waiting[per_shard:]
        if len(waiting):
            missing = -len(waiting) % layout.seq_len
            padded = np.concatenate([waiting, np.full(missing, layout.pad, layout.dtype)])
            yield number, padded.reshape(-1, layout.seq_len)

    def _stream(self, rows: pq.ParquetWriter, sources: list[str]) -> Iterator[NDArray[Any]]:
        """Yield the pool's tokens from `start` to `stop`, a partition at a time."""
        begins = np.cumsum([0, *self.layout.tokens])
        for partition in range(len(self.layout.tokens)):
            if begins[partition + 1] <= self.start or begins[partition] >= self.stop:
                continue
            owner, records = self._documents(partition)
            lengths = records["tokens"].astype(np.int64)
            starts = begins[partition] + np.cumsum(lengths) - lengths
            inside = (starts + lengths > self.start) & (starts < self.stop)
            owner, records, starts = owner[inside], records.compress(inside), starts[inside]
            if len(starts):
                begin = starts >= self.start  # the others begin in an earlier task's shards
                self._write_rows(rows, sources, owner[begin], records.compress(begin), starts[begin])
                tokens = self._tokens(owner, records)
                yield tokens[max(0, self.start - starts[0]) : self.stop - starts[0]]

    def _documents(self, partition: int) -> tuple[NDArray[np.int64], Documents]:
        """Return (run, record) of each of the pool's documents in a partition, in canonical order."""
        cuts = self.cuts.read(partition)
        fates = self.fates.read([(base + a, base + b) for (_, _, base), (a, b) in zip(self.runs, cuts, strict=True)])
        spans = [(part, run.first + a, run.first + b) for (part, run, _), (a, b) in zip(self.runs, cuts, strict=True)]
        kept = [d.compress(f == self.layout.code) for d, f in zip(read_spans("documents", spans), fates, strict=True)]
        records = joined(kept)
        owners = np.repeat(np.arange(len(kept)), [len(some) for some in kept])
        order = order_by(records["place_hi"], records["place_lo"])
        return owners[order], records.take(order)

    def _cut_out(self, name: str, owner: NDArray[np.int64], starts: NDArray[np.uint64], lengths: NDArray[Any]) -> bytes:
        """Return the documents' pieces of `<name>.bin`, one after the other. The documents of a run's partition lie
        side by side there, so that one range of each run holds all that is needed."""
        lo = np.full(len(self.runs), np.iinfo(np.int64).max)
        hi = np.zeros(len(self.runs), np.int64)
        begin = starts.astype(np.int64)
        np.minimum.at(lo, owner, begin)
        np.maximum.at(hi, owner, begin + lengths)
        lo = np.minimum(lo, hi)
        spans = [(part, a, b) for (part, _, _), a, b in zip(self.runs, lo.tolist(), hi.tolist(), strict=True)]
        ranges = read_spans(name, spans)
        moved = starts_of(hi - lo) - lo  # by so much, when they lie one after the other
        together = joined(ranges)
        del ranges  # or they would be held beside what is gathered
        return gathered(together, begin + moved[owner], lengths, together.itemsize)

    def _tokens(self, owner: NDArray[np.int64], records: Documents) -> NDArray[Any]:
        found = self._cut_out("tokens", owner, records["token_start"], records["tokens"])
        return np.frombuffer(found, self.layout.dtype)

    def _write_rows(
        self,
        rows: pq.ParquetWriter,
        sources: list[str],
        owner: NDArray[np.int64],
        records: Documents,
        starts: NDArray[np.int64],
    ) -> None:
        self.n_rows += len(records)
        ids = self._cut_out("ids", owner, records["id_start"], records["id_bytes"])
        arrays = [
            arrow.binary(arrow.keys(records["key_hi"], records["key_lo"])),
            arrow.joined_strings(ids, records["id_bytes"]),
            arrow.dictionary(records["source"], sources),
            arrow.numbers(starts),
            arrow.numbers(records["tokens"].astype(np.int64)),
        ]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        if self.layout.kept:
            values = self._cut_out("kept", owner, records["kept_start"], records["kept_bytes"])
            self._write_kept(rows, table, apart(values, records["kept_bytes"]))
        else:
            rows.write_table(table)

    def _write_kept(self, rows: pq.ParquetWriter, table: pa.Table, values: list[bytes]) -> None:
        """Write the rows of some documents with what they keep, so many at once as fit into an Arrow column."""
        size, schema = self.layout.row_group, schema_with(self.layout.kept)
        for start in range(0, len(values), size):
            columns = kept.columns(self.layout.kept, values[start : start + size])
            arrays = [*table.slice(start, size).combine_chunks().columns, *columns]
            rows.write_table(pa.Table.from_arrays(arrays, schema=schema))


def cut_groups(parts: list[Part]) -> list[tuple[int, int]]:
    """Return which parts, first and last + 1, have their cuts in a file together: few files, each the work of a task,
    as each packing task reads from all of them for each of its partitions."""
    numbers = sum(len(part.runs) for part in parts) * (parts[0].partitions + 1)
    n = max(1, min(numbers // CUTS_OF_A_FILE, MOST_CUT_FILES, len(parts)))
    return [(len(parts) * i // n, len(parts) * (i + 1) // n) for i in range(n)]


class Cuts:
    """Where each partition begins in each run of all parts, in `<work>/cuts`: for each group of parts uint32
    (partitions + 1, runs), so that a task reads just its partitions' rows."""

    def __init__(self, work: str, parts: list[Part]) -> None:
        self._remote = storage.is_url(work)
        runs = [sum(len(part.runs) for part in parts[first:last]) for first, last in cut_groups(parts)]
        self._files = [(_cuts_path(work, number), n) for number, n in enumerate(runs)]

    def read(self, partition: int) -> list[list[int]]:
        """Return [first row, last row + 1] of a partition within each run."""
        spans = [(path, partition * runs * 4, (partition + 2) * runs * 4) for path, runs in self._files]
        read = storage.read_ranges(spans) if self._remote else [_read_span(*span) for span in spans]
        for (path, start, stop), data in zip(spans, read, strict=True):
            if len(data) < stop - start:
                raise WorkError(f"{path} is damaged: it was cut; {BUILD_AGAIN}")
        both = np.concatenate([np.frombuffer(data, np.uint32).reshape(2, -1) for data in read], axis=1)
        rows: list[list[int]] = both.T.tolist()
        return rows


def _cuts_path(work: str, number: int) -> str:
    return storage.join(work, f"cuts/{number:05d}.bin")


def _read_span(path: str, start: int, stop: int) -> bytes:
    with storage.open_read(path) as file:
        file.seek(start)
        data: bytes = file.read(stop - start)
    return data


class WriteCuts(FileStep):
    """Writes every world_size-th file of what `Cuts` reads, from the parts' own cuts."""

    name = "Cuts"

    def __init__(self, work: str, groups: list[tuple[int, int]]) -> None:
        super().__init__()
        self.work, self.groups = work, groups

    def do(self, rank: int, world_size: int) -> None:
        """Write this rank's files."""
        for number in range(rank, len(self.groups), world_size):
            _write_cuts(_cuts_path(self.work, number), open_parts(self.work, *self.groups[number]))


def _write_cuts(path: str, parts: list[Part]) -> None:
    shape = (parts[0].partitions + 1, sum(len(part.runs) for part in parts))
    with storage.publishing_file(path) as partial, open(partial, "wb") as f:
        waiting: list[NDArray[np.uint32]] = []
        column = n_waiting = 0
        for part in parts:
            waiting.append(part.cuts())
            n_waiting += len(waiting[-1])
            if part is parts[-1] or n_waiting * shape[0] >= CUTS_AT_ONCE:
                for partition, firsts in enumerate(np.ascontiguousarray(np.concatenate(waiting).T)):
                    f.seek(4 * (partition * shape[1] + column))
                    f.write(firsts.data)
                column, n_waiting, waiting = column + n_waiting, 0, []


@contextlib.contextmanager
def _rows_writer(layout: PoolLayout, rank: int) -> Iterator[pq.ParquetWriter]:
    """Yield a Parquet writer for one task's rows; the file is published when the body succeeds."""
    path = storage.join(layout.folder, f"{ROWS_NAME}/{_piece(rank)}")
    schema = schema_with(layout.kept)
    quickly: dict[str, Any] = {"compression": "none", "use_dictionary": ["source"], "write_statistics": False}
    with storage.publishing_file(path) as partial, pq.ParquetWriter(partial, schema, **quickly) as writer:
        yield writer


def _write_shard(layout: PoolLayout, number: int, samples: mds.Samples) -> WrittenShard:
    data = mds.encode_shard(samples)
    storage.write_atomic(storage.join(layout.folder, mds.shard_name(number)), data, flush=False)
    return WrittenShard(number, len(samples), len(data), xxh64(data), hashlib.sha256(data).hexdigest())


def _piece(rank: int) -> str:
    """Return the name of the file of a task's rows."""
    return f"{rank:05d}.parquet"


def _publish_list(folder: str, rank: int, written: list[WrittenShard], n_rows: int) -> None:
    counts = {"rows": [rank, n_rows], "shards": [asdict(shard) for shard in written]}
    note(storage.join(folder, f"{ROWS_NAME}/{rank:05d}"), counts)


def read_packed(folder: str) -> Packed:
    """Return what the tasks wrote of the pool in `folder`; nothing when it has been published since."""
    lists = noted(storage.join(folder, ROWS_NAME))
    shards = [WrittenShard(**shard) for one in lists for shard in one["shards"]]
    pieces = [(_piece(rank), n) for rank, n in sorted(one["rows"] for one in lists)]
    return Packed(sorted(shards, key=lambda shard: shard.number), pieces)
