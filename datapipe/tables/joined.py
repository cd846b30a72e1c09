"""Tables beside a pool, written by tasks: rows that lie in pieces, in order, come into the files that the table has.

What a file holds does not depend on the pieces, and so not on tasks: row i is in file i // FILE_ROWS (see
shards/tables/names.py), and row groups are full but for the last of each file. Memory is two row groups and a batch.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ...common import storage
from ...common.errors import WorkError
from ...common.publish import FileInfo, hashes_of
from ...shards import arrow
from ...shards.documents import SCHEMA
from ...shards.tables import names
from ..external_sort import join_tables
from ..run.stage_progress import StageProgress
from ..stages.division import FileStep, note, noted
from ..stages.losses import table_parts
from ..stages.pack import ROWS_NAME
from ..stages.parts import BUILD_AGAIN

NOTES = f"{ROWS_NAME}/tables"
"""Where in a pool's folder tasks note what the files are that they wrote."""


class Table(Protocol):
    """A table to be written into the folder of a pool."""

    @property
    def folder(self) -> str:
        """The pool's."""

    @property
    def name(self) -> str:
        """Its own."""

    @property
    def files(self) -> list[str]:
        """The names of its files."""

    def write(self, number: int, path: str) -> None:
        """Write file `number` as the local file `path`."""


@dataclass(frozen=True)
class Joined:
    """A table whose rows lie in pieces, in order.

    Attributes:
        folder: of the pool.
        name: of the table.
        schema: its columns.
        group: rows of a row group.
        where: the folder of the pieces.
        pieces: name and number of rows of each, Parquet or Arrow files.
        sources: names of sources, if the pieces do not have the same ones in column `source`, whose dictionary is then
            all of them.
        compression: as Parquet calls it.
    """

    folder: str
    name: str
    schema: pa.Schema
    group: int
    where: str
    pieces: tuple[tuple[str, int], ...]
    sources: tuple[str, ...] = ()
    compression: str = "snappy"

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return names.file_names(self.name, sum(n for _, n in self.pieces))

    def write(self, number: int, path: str) -> None:
        """Write file `number` as the local file `path`."""
        with pq.ParquetWriter(path, self.schema, compression=self.compression) as writer:
            for table in self._groups(number * names.FILE_ROWS, (number + 1) * names.FILE_ROWS):
                writer.write_table(table, row_group_size=self.group)

    def _groups(self, first: int, stop: int) -> Iterator[pa.Table]:
        """Yield the row groups of rows `first` to `stop`."""
        waiting: list[pa.RecordBatch] = []
        n_waiting = 0
        for batch in self._batches(first, stop):
            waiting.append(batch)
            n_waiting += batch.num_rows
            while n_waiting >= self.group:
                table = self._prepared(waiting)
                yield table.slice(0, self.group).combine_chunks()
                rest = table.slice(self.group)
                waiting, n_waiting = rest.to_batches(), rest.num_rows
        if n_waiting:
            yield self._prepared(waiting)

    def _prepared(self, batches: list[pa.RecordBatch]) -> pa.Table:
        table = pa.Table.from_batches(batches)
        return (_canonical(table, self.sources) if self.sources else table).combine_chunks()

    def _batches(self, first: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield rows `first` to `stop` of all pieces, of which only those that hold some are read."""
        at = 0
        for name, n in self.pieces:
            if max(at, first) < min(at + n, stop):
                path = storage.join(self.where, name)
                yield from _some(_read(path, self.group), max(0, first - at), min(n, stop - at), path)
            at += n


def _some(batches: Iterator[pa.RecordBatch], first: int, stop: int, path: str) -> Iterator[pa.RecordBatch]:
    """Yield rows `first` to `stop` of a piece."""
    at = 0
    for batch in batches:
        begin, end = max(0, first - at), min(batch.num_rows, stop - at)
        if begin < end:
            yield batch.slice(begin, end - begin)
        at += batch.num_rows
        if at >= stop:
            return
    raise WorkError(f"{path} is damaged: it was cut; {BUILD_AGAIN}")


def _read(path: str, most: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a piece, at most so many at a time where it is Parquet, else as they were written."""
    with uncut(path), storage.open_read(path) as file:
        if path.endswith(".parquet"):
            yield from pq.ParquetFile(file).iter_batches(most, **arrow.ONE_THREAD)
            return
        with pa.ipc.open_file(file) as reader:
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


@contextlib.contextmanager
def uncut(path: str) -> Iterator[None]:
    """Say in one line that a file of the work folder was cut."""
    try:
        yield
    except pa.ArrowInvalid:
        raise WorkError(f"{path} is damaged: it was cut; {BUILD_AGAIN}") from None


def _canonical(table: pa.Table, sources: Sequence[str]) -> pa.Table:
    """Return the table with all sources, sorted, as the dictionary of its sources."""
    at = {name: i for i, name in enumerate(sorted(sources))}
    chunks = [np.zeros(0, np.int32)]
    for chunk in table["source"].chunks:
        places = np.array([at[name] for name in chunk.dictionary.to_pylist()], np.int32)
        chunks.append(places[arrow.array(chunk.indices)])
    column = arrow.dictionary(np.concatenate(chunks), sorted(sources))
    return table.set_column(table.schema.get_field_index("source"), SCHEMA.field("source"), column)


@dataclass(frozen=True)
class Merged:
    """A table of few rows, which lie in sorted groups and are merged: one file.

    Attributes:
        folder: of the pool.
        name: of the table.
        schema: its columns.
        work: of the build.
    """

    folder: str
    name: str
    schema: pa.Schema
    work: str

    @property
    def files(self) -> list[str]:
        """The name of its file."""
        return names.file_names(self.name, 0)

    def write(self, number: int, path: str) -> None:
        """Write it as the local file `path`."""
        join_tables(table_parts(self.work, self.name), path, self.schema)


class WriteTables(FileStep):
    """Writes every world_size-th of the files of some tables, in so many threads, and notes what each of them is."""

    name = "Tables"

    def __init__(self, work: str, tables: Sequence[Table], threads: int = 1) -> None:
        super().__init__()
        self.work, self.tables, self.threads = work, tables, threads

    @functools.cached_property
    def units(self) -> list[tuple[Table, int]]:
        """Each file of each table."""
        return [(table, number) for table in self.tables for number in range(len(table.files))]

    def do(self, rank: int, world_size: int) -> None:
        """Write this rank's share."""
        progress = StageProgress(self.work, "tables", rank)
        with ThreadPoolExecutor(self.threads) as pool:
            for done, _ in enumerate(pool.map(_write, self.units[rank::world_size])):
                progress.report(done + 1)


def _write(unit: tuple[Table, int]) -> None:
    table, number = unit
    name = table.files[number]
    with storage.publishing_file(storage.join(table.folder, name)) as partial:
        table.write(number, partial)
        info, sha256 = hashes_of(partial)
    said = {"name": name, "bytes": info.bytes, "xxh64": info.xxh64, "sha256": sha256}
    note(storage.join(table.folder, f"{NOTES}/{name}"), said)


def written_files(folder: str) -> tuple[dict[str, FileInfo], dict[str, str]]:
    """Return size and xxh64, and the SHA-256, of each file that tasks wrote of the tables of the pool in `folder`."""
    said = noted(storage.join(folder, NOTES))
    files = {one["name"]: FileInfo(bytes=one["bytes"], xxh64=one["xxh64"]) for one in said}
    return files, {one["name"]: one["sha256"] for one in said}
