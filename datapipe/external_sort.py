"""Sorting more than memory holds, and by more processes than one. Tasks deal records out into ranges of a value: equal
values are in one range, and each range is for one task, which has one range at a time in memory. Tables of rows are
written in any order and joined in sorted order, with a few thousand rows of each piece in memory."""

import contextlib
import heapq
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import WorkError
from ..shards import arrow
from ..shards.file_array import FileArray
from .arrays.records import joined
from .stages.parts import BUILD_AGAIN

IN_MEMORY = 1 << 26
"""About how many records a range has at most: at 16 or 28 bytes each, up to 1.9 GB."""

DEALT_BYTES = 1 << 25
"""About how much of dealt records is written, or read, at a time."""

WORTH_A_TASK = 1 << 18
"""Records that are worth a range of their own only for the sake of another task."""

Records = NDArray[np.void]


class DealtWriter:
    """Writes records dealt into ranges, for `Dealt` to read by range: `<path>.bin` has batches one after the other,
    each in order of range, `<path>.counts` how many records of each range every batch has, int64 (batches, ranges)
    after the number of ranges. Published when closed, the counts last."""

    def __init__(self, path: str, ranges: int, dtype: Any) -> None:
        self._path, self._ranges, self._dtype = path, ranges, np.dtype(dtype)
        self._counts: list[NDArray[np.int64]] = []
        self._pending: list[tuple[Records, NDArray[np.int64]]] = []
        self._n_pending = 0
        self._closing = contextlib.ExitStack()
        partial = self._closing.enter_context(storage.publishing_file(f"{path}.bin"))
        self._file = self._closing.enter_context(open(partial, "wb"))  # noqa: SIM115

    def __enter__(self) -> Self:
        """Return this, to be closed if the body succeeds."""
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Publish the files, unless there was an error."""
        if kind is not None:
            self._closing.__exit__(kind, error, traceback)
            return
        with self._closing:
            self._flush()
        counts = np.concatenate([np.array([self._ranges]), *self._counts])
        storage.write_atomic(f"{self._path}.counts", counts.astype("<i8").tobytes(), flush=False)

    def add(self, records: Records, ranges: NDArray[np.integer[Any]]) -> None:
        """Add records, each to its range; within a range they stay in order."""
        self._pending.append((records, ranges.astype(np.int64)))
        self._n_pending += len(records)
        if self._n_pending * self._dtype.itemsize >= DEALT_BYTES:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending, self._n_pending = self._pending, [], 0
        if pending:
            records, ranges = (joined(some) for some in zip(*pending, strict=True))
            dealt = records if self._ranges == 1 else records.take(order_of(ranges, self._ranges))
            self.write(dealt, np.bincount(ranges, minlength=self._ranges))

    def write(self, dealt: NDArray[Any], counts: NDArray[np.int64]) -> None:
        """Write a batch that is in order of range; `counts` says how much of each range is in it."""
        self._file.write(np.ascontiguousarray(dealt).data)
        self._counts.append(counts)


def order_of(ranges: NDArray[np.int64], n_ranges: int) -> NDArray[np.int64]:
    """Return the stable order of numbers below `n_ranges`; by radix, where they fit into 16 bits."""
    return np.argsort(ranges.astype(np.uint16) if n_ranges <= 1 << 16 else ranges, kind="stable")


class Dealt:
    """The records that tasks dealt out into a folder; those of a range come in order of task and as they were added.

    What this holds is where they lie: 16 bytes for each batch and each range that is asked for.
    """

    def __init__(self, folder: str, dtype: Any, numbers: range) -> None:
        """Look where the records are.

        Args:
            folder: where they were dealt.
            dtype: of a record.
            numbers: the ranges that will be asked for.
        """
        self._dtype, self._numbers = np.dtype(dtype), numbers
        self._remote = storage.is_url(folder)
        self._files: list[tuple[str, int, NDArray[np.int64], NDArray[np.int64]]] = []
        columns = np.array(numbers, np.int64)
        for name in (n for n in storage.names(folder) if n.endswith(".counts")):
            path = storage.join(folder, name)
            head = np.frombuffer(storage.read_bytes(path), "<i8")
            if not len(head) or (len(head) - 1) % head[0]:
                raise WorkError(f"{path} is damaged: it was cut; {BUILD_AGAIN}")
            counts = head[1:].reshape(-1, int(head[0]))
            ends = np.cumsum(counts.reshape(-1)).reshape(counts.shape)
            if counts.any():
                stops = ends[:, columns]
                here = (f"{path.removesuffix('.counts')}.bin", int(ends[-1, -1]), stops - counts[:, columns], stops)
                self._files.append(here)

    def count(self, number: int) -> int:
        """Return how many records a range has."""
        column = self._numbers.index(number)
        return sum(int((ends[:, column] - starts[:, column]).sum()) for *_, starts, ends in self._files)

    def read(self, number: int) -> Iterator[NDArray[Any]]:
        """Yield the records of a range, some at a time.

        Raises:
            WorkError: when a file ends before.
        """
        waiting: list[NDArray[Any]] = []
        column = self._numbers.index(number)
        for path, n, starts, ends in self._files:
            spans = [(a, b) for a, b in zip(starts[:, column].tolist(), ends[:, column].tolist(), strict=True) if a < b]
            for some in _groups(spans, max(1, DEALT_BYTES // self._dtype.itemsize)):
                waiting += self._pieces(path, some, n)
                if sum(map(len, waiting)) * self._dtype.itemsize >= DEALT_BYTES:
                    yield joined(waiting, self._dtype)
                    waiting = []
        if waiting:
            yield joined(waiting, self._dtype)

    def whole(self, number: int) -> NDArray[Any]:
        """Return all records of a range."""
        return joined([*self.read(number)], self._dtype)

    def _pieces(self, path: str, spans: list[tuple[int, int]], n: int) -> list[NDArray[Any]]:
        size = self._dtype.itemsize
        if self._remote:
            pieces = storage.read_ranges([(path, start * size, stop * size) for start, stop in spans])
            return [np.frombuffer(data, self._dtype) for data in pieces]
        file = FileArray(path, self._dtype, (n,), mend=BUILD_AGAIN)
        return [file[start:stop] for start, stop in spans]


def _groups(spans: list[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """Yield `spans` in groups that hold about `most`; long ones are divided."""
    group: list[tuple[int, int]] = []
    held = 0
    for start, stop in spans:
        for begin in range(start, stop, most):
            group.append((begin, min(begin + most, stop)))
            held += group[-1][1] - begin
            if held >= most:
                yield group
                group, held = [], 0
    if group:
        yield group


def ranges_for(n: int, most: int, tasks: int) -> int:
    """Return into how many ranges, a power of two, `n` records are dealt: of at most about `most` each, and enough for
    all tasks where the records are many."""
    least = min(2 * tasks, n // WORTH_A_TASK)
    return 1 << max((max(n - 1, 0) // most).bit_length(), max(least - 1, 0).bit_length())


def range_of(values: NDArray[np.uint64], ranges: int) -> NDArray[np.int64]:
    """Return in which of `ranges` equal ranges, a power of two, each of 64-bit values is."""
    bits = ranges.bit_length() - 1
    return (values >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(values), np.int64)


TableRow = tuple[Any, ...]

GROUP = 20_000
"""Rows of a row group; each group is sorted."""

MERGED = 128
"""Pieces that are merged at once."""


class TableWriter:
    """Writes rows, without nulls, to a Parquet file in sorted groups, published when closed.

    Attributes:
        n_rows: how many were added.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._schema = schema
        self.n_rows = 0
        self._rows: list[TableRow] = []
        self._publishing = storage.publishing_file(path)
        self._writer = pq.ParquetWriter(self._publishing.__enter__(), schema)

    def add(self, row: TableRow) -> None:
        """Add a row, its values in the order of the schema."""
        self._rows.append(row)
        self.n_rows += 1
        if len(self._rows) >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._rows.sort()
        values = zip(*self._rows, strict=True)
        arrays = [arrow.column(some, field.type) for some, field in zip(values, self._schema, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Write what is left and publish the file."""
        self._flush()
        self._writer.close()
        self._publishing.__exit__(None, None, None)


def join_tables(paths: Sequence[str], target: str, schema: pa.Schema) -> None:
    """Join tables that `TableWriter` wrote (paths or URLs) into one at `target`, sorted by all columns."""
    pieces: list[tuple[str, list[int]]] = [
        (path, [group]) for path in paths for group in range(pq.ParquetFile(storage.open_read(path)).num_row_groups)
    ]
    with tempfile.TemporaryDirectory(prefix="epochal-") as folder:
        names = (os.path.join(folder, str(i)) for i in itertools.count())
        while len(pieces) > MERGED:
            some, pieces = pieces[:MERGED], pieces[MERGED:]
            name = next(names)
            _write(name, schema, _merged(some))
            pieces.append((name, list(range(pq.ParquetFile(name).num_row_groups))))
        _write(target, schema, _merged(pieces))


def _write(path: str, schema: pa.Schema, rows: Iterable[TableRow]) -> None:
    writer = TableWriter(path, schema)
    for row in rows:
        writer.add(row)
    writer.close()


def _merged(pieces: Sequence[tuple[str, list[int]]]) -> Iterator[TableRow]:
    return heapq.merge(*(_rows(path, groups) for path, groups in pieces))


def _rows(path: str, groups: list[int]) -> Iterator[TableRow]:
    for batch in pq.ParquetFile(storage.open_read(path)).iter_batches(1024, row_groups=groups, **arrow.ONE_THREAD):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
