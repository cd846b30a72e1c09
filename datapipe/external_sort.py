"""Sorting more than memory holds. Records are dealt out into ranges of a value: equal values are in one range, and one
range at a time is in memory while the others wait on the scratch disk. Tables of rows are written in any order and
joined in sorted order, with a few thousand rows of each piece in memory."""

import contextlib
import heapq
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import WorkError
from ..shards import arrow

IN_MEMORY = 1 << 26
"""About how many records a range has: at 24 to 56 bytes each, up to 4 GB."""

Records = NDArray[np.void]


def deal(batches: Iterable[Records], field: str, n: int, dtype: np.dtype[Any]) -> Iterator[Records]:
    """Yield all records of `batches`, one range of `field` at a time in rising order; within a range as they came.

    Args:
        field: a uint64, evenly spread over its 2^64 values, as hashes are.
        n: how many records there are at most.
    """
    bits = (max(n - 1, 0) // IN_MEMORY).bit_length()
    if bits == 0:
        yield np.concatenate([np.zeros(0, dtype), *batches])
        return
    with tempfile.TemporaryDirectory(prefix="epochal-") as folder, contextlib.ExitStack() as stack:
        paths = [os.path.join(folder, f"{i:05d}") for i in range(1 << bits)]
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for batch in batches:
            ranges = batch[field] >> np.uint64(64 - bits)
            order = np.argsort(ranges, kind="stable")
            ends = np.cumsum(np.bincount(ranges.astype(np.int64), minlength=1 << bits)).tolist()
            dealt = batch[order]
            for file, start, stop in zip(files, [0, *ends], ends, strict=False):
                file.write(dealt[start:stop].tobytes())
        for file, path in zip(files, paths, strict=True):
            size = file.tell()
            file.close()
            found = np.fromfile(path, dtype)
            if found.nbytes != size:
                raise WorkError(f"{path}, which this build wrote a moment ago, was cut: build again")
            yield found
            os.unlink(path)


def array_on_disk(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array of zeros in a nameless scratch file: only the pages in use take memory."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="epochal-") as f:
        # A page of a map that finds no room on the disk ends the process without a word: room is asked for first.
        os.posix_fallocate(f.fileno(), 0, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(f, dtype, "w+", shape=shape))


TableRow = tuple[Any, ...]

GROUP = 20_000
"""Rows of a row group; each group is sorted."""

MERGED = 128
"""Pieces that are merged at once."""


class TableWriter:
    """Writes rows, without nulls, to a Parquet file in sorted groups, published when closed."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[TableRow] = []
        self._publishing = storage.publishing_file(path)
        self._writer = pq.ParquetWriter(self._publishing.__enter__(), schema)

    def add(self, row: TableRow) -> None:
        """Add a row, its values in the order of the schema."""
        self._rows.append(row)
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
    for batch in pq.ParquetFile(storage.open_read(path)).iter_batches(1024, row_groups=groups):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
