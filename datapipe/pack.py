"""Pack: the surviving documents in canonical order, cut into samples and shards.

The order is by place, which parts already hold in sorted runs: a task merges one range of places at a time, so it
holds the tokens of one partition and one shard, whatever the size of the pool. Shards are divided among tasks; each
task starts and ends on a shard's edge and reads whatever partitions its shards need.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ..shards import mds
from ..shards.documents import ROW_GROUP, SCHEMA
from ..tokenize.parts import Documents, Part
from .match import open_parts
from .progress import StageProgress


@dataclass(frozen=True)
class PoolLayout:
    """How a pool's stream is cut. folder: where its files are built. code: its documents' fate. tokens: in each
    partition of places."""

    folder: str
    code: int
    tokens: list[int]
    seq_len: int
    dtype: str
    pad: int
    samples_per_shard: int

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
    """A shard as packed; bytes and xxh64 are the file's."""

    number: int
    samples: int
    bytes: int
    xxh64: str


def auto_samples_per_shard(n_tokens: int, seq_len: int, dtype: str) -> int:
    """Return a power of two that makes about 64 shards, between 16 samples and 64 MiB: small enough to give replicates
    distinct places in small pools, large enough to be few in large ones. Depends on the pool's size alone."""
    most = min((64 << 20) // (seq_len * np.dtype(dtype).itemsize), mds.max_samples_per_shard(seq_len, dtype))
    wanted = max(16, n_tokens // seq_len // 64)
    return max(1, min(1 << (wanted.bit_length() - 1), most))


class Pack(PipelineStep):
    """Writes this rank's share of each pool's shards, and the rows of documents.parquet that begin in them."""

    name = "Pack"
    type = "epochal"

    def __init__(self, work: str, layouts: list[PoolLayout], sources: list[str]) -> None:
        super().__init__()
        self.work, self.layouts, self.sources = work, layouts, sources

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write shards and rows. Yields nothing."""
        parts = open_parts(self.work)
        fates = np.load(os.path.join(self.work, "fates.npy"), mmap_mode="r")
        progress = StageProgress(self.work, "pack", rank)
        done = 0
        for layout in self.layouts:
            first, last = (layout.n_shards * r // world_size for r in (rank, rank + 1))
            share = _Share(layout, parts, fates, first, last)
            written = []
            with _rows_writer(layout.folder, rank) as rows:
                for number, samples in share.shards(rows, self.sources):
                    written.append(_write_shard(layout, number, samples))
                    done += samples.size
                    progress.report(done)
            _publish_list(layout.folder, rank, written)
        yield from ()


class _Share:
    """A task's share of one pool: shards [first, last)."""

    def __init__(self, layout: PoolLayout, parts: list[Part], fates: NDArray[np.uint8], first: int, last: int) -> None:
        self.layout, self.parts, self.fates, self.first, self.last = layout, parts, fates, first, last
        self.base = np.cumsum([0] + [p.n_documents for p in parts])
        per_shard = layout.samples_per_shard * layout.seq_len
        self.start = first * per_shard
        self.stop = min(last * per_shard, layout.n_tokens)

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
            owner, records, starts = owner[inside], records[inside], starts[inside]
            if len(starts):
                begin = starts >= self.start  # the others begin in an earlier task's shards
                self._write_rows(rows, sources, owner[begin], records[begin], starts[begin])
                tokens = self._tokens(owner, records)
                yield tokens[max(0, self.start - starts[0]) : self.stop - starts[0]]

    def _documents(self, partition: int) -> tuple[NDArray[np.int64], Documents]:
        """Return (part, record) of each of the pool's documents in a partition, in canonical order."""
        owners, found = [], []
        for i, part in enumerate(self.parts):
            for run in part.runs:
                first, stop = run.first + run.cuts[partition], run.first + run.cuts[partition + 1]
                fates = self.fates[self.base[i] + first : self.base[i] + stop]
                found.append(part.documents[first:stop][fates == self.layout.code])
                owners.append(np.full(len(found[-1]), i))
        records = np.concatenate(found)
        order = np.lexsort((records["place_lo"], records["place_hi"]))
        return np.concatenate(owners)[order], records[order]

    def _tokens(self, owner: NDArray[np.int64], records: Documents) -> NDArray[Any]:
        spans = zip(owner.tolist(), records["token_start"].tolist(), records["tokens"].tolist(), strict=True)
        return np.concatenate([self.parts[o].tokens[start : start + n] for o, start, n in spans])

    def _write_rows(
        self,
        rows: pq.ParquetWriter,
        sources: list[str],
        owner: NDArray[np.int64],
        records: Documents,
        starts: NDArray[np.int64],
    ) -> None:
        keys = np.stack([records["key_hi"], records["key_lo"]], axis=1).astype(">u8").tobytes()
        spans = zip(owner.tolist(), records["id_start"].tolist(), records["id_bytes"].tolist(), strict=True)
        columns = [
            pa.array([keys[i : i + 16] for i in range(0, len(keys), 16)], pa.binary(16)),
            pa.array([self.parts[o].id_at(start, n) for o, start, n in spans], pa.string()),
            pa.DictionaryArray.from_arrays(pa.array(records["source"].astype(np.int32)), sources),
            pa.array(starts),
            pa.array(records["tokens"].astype(np.int64)),
        ]
        rows.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))


@contextlib.contextmanager
def _rows_writer(folder: str, rank: int) -> Iterator[pq.ParquetWriter]:
    """Yield a Parquet writer for one task's rows; the file is published when the body succeeds."""
    os.makedirs(os.path.join(folder, "rows"), exist_ok=True)
    path = os.path.join(folder, "rows", f"{rank:05d}.parquet")
    partial = f"{path}.{os.getpid()}.partial"
    with pq.ParquetWriter(partial, SCHEMA) as writer:
        yield writer
    os.replace(partial, path)


def _write_shard(layout: PoolLayout, number: int, samples: mds.Samples) -> WrittenShard:
    data = mds.encode_shard(samples)
    path = os.path.join(layout.folder, mds.shard_name(number))
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as f:
        f.write(data)
    os.replace(partial, path)
    return WrittenShard(number, len(samples), len(data), mds.xxh64(data))


def _publish_list(folder: str, rank: int, written: list[WrittenShard]) -> None:
    path = os.path.join(folder, "rows", f"{rank:05d}.json")
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "w") as f:
        json.dump([asdict(shard) for shard in written], f)
    os.replace(partial, path)


def read_written(folder: str) -> list[WrittenShard]:
    """Return all shards that the tasks wrote, in order."""
    rows = os.path.join(folder, "rows")
    written = []
    for name in sorted(n for n in os.listdir(rows) if n.endswith(".json")):
        with open(os.path.join(rows, name)) as f:
            written += [WrittenShard(**shard) for shard in json.load(f)]
    return sorted(written, key=lambda shard: shard.number)


def join_rows(folder: str, path: str, sources: list[str]) -> int:
    """Join the tasks' rows into one Parquet file whose row groups do not show how many tasks there were.

    Returns the number of rows.
    """
    rows_folder = os.path.join(folder, "rows")
    names = sorted(n for n in os.listdir(rows_folder) if n.endswith(".parquet"))
    waiting: list[pa.RecordBatch] = []
    n_waiting = total = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for name in names:
            for batch in pq.ParquetFile(os.path.join(rows_folder, name)).iter_batches(ROW_GROUP):
                waiting.append(batch)
                n_waiting += batch.num_rows
                total += batch.num_rows
                while n_waiting >= ROW_GROUP:
                    table = _canonical(waiting, sources)
                    writer.write_table(table.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                    rest = table.slice(ROW_GROUP)
                    waiting, n_waiting = rest.to_batches(), rest.num_rows
        if n_waiting:
            writer.write_table(_canonical(waiting, sources), row_group_size=ROW_GROUP)
    return total


def _canonical(batches: list[pa.RecordBatch], sources: list[str]) -> pa.Table:
    """Return the batches as one table of one chunk per column, its dictionary always the sorted list of sources."""
    table = pa.Table.from_batches(batches)
    known = pa.array(sorted(sources))
    at = {name: i for i, name in enumerate(sorted(sources))}
    indices = pa.array([at[name] for name in table["source"].cast(pa.string()).to_pylist()], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, known)
    table = table.set_column(table.schema.get_field_index("source"), SCHEMA.field("source"), column)
    return table.combine_chunks()
