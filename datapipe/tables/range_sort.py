"""Tables of what ingest left out: sorted by all columns, by tasks where there are many rows.

Ingest leaves each in sorted groups. A short table is merged from them by the one task that writes its file. Of a long
one a sample says where it is cut into ranges: tasks deal the rows out by range, then sort one range after the other.
The ranges are the pieces of the table (see joined.py).
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ...common import storage
from ...shards import arrow
from ..deduplicate import Run
from ..external_sort import GROUP, TableRow
from ..stages.division import FileStep, note, noted
from ..stages.losses import TABLES, table_parts
from ..stages.parts import Part
from .joined import Joined, Merged, Table, uncut

RANGE_ROWS = 1 << 20
"""About how many rows a range has; a table of no more is merged."""

DEAL_ROWS = 1 << 18
"""About how many rows are dealt out at a time."""

SAMPLED_GROUPS, SAMPLED_EVERY = 64, 16
"""How many groups the sample is of, at even distances of rows, and that it has each 16th of their rows."""


def left_out_tables(folder: str, work: str, parts: Sequence[Part], run: Run, tasks: int) -> list[Table]:
    """Return the tables of what was left out of the build in `work`; long ones are sorted first.

    Args:
        folder: of the pool beside which they lie.
        work: of the build.
        parts: of the build.
        run: runs a stage.
        tasks: of which it has so many.
    """
    rows = {name: [part.counts["left_out_rows"][name] for part in parts] for name in TABLES}
    long = [name for name in TABLES if sum(rows[name]) > RANGE_ROWS]
    if long:
        sorts = [RangeSort(work, name, tuple(_bounds(table_parts(work, name), rows[name]))) for name in long]
        run("left-out-deal", [DealRows(sorts)], tasks)
        run("left-out-sort", [SortRanges(sorts)], tasks)
        for sort in sorts:
            storage.remove(sort.path("dealt"))
    return [
        Joined(folder, name, schema, GROUP, _path(work, name, "sorted"), _pieces(work, name))
        if name in long
        else Merged(folder, name, schema, work)
        for name, schema in TABLES.items()
    ]


def _path(work: str, table: str, what: str) -> str:
    return storage.join(work, f"left-out/{table}/{what}")


def _pieces(work: str, table: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (_piece(number), n) for number, n in sorted(one["rows"] for one in noted(_path(work, table, "sorted")))
    )


def _piece(number: int) -> str:
    return f"{number:05d}.arrow"


@dataclass(frozen=True)
class RangeSort:
    """How a table is sorted by ranges.

    Attributes:
        work: the build's work folder.
        table: its name.
        bounds: the least row that each range but the first may hold.
    """

    work: str
    table: str
    bounds: tuple[TableRow, ...]

    def path(self, what: str) -> str:
        """Return where its rows lie, `dealt` or `sorted`."""
        return _path(self.work, self.table, what)


def _bounds(paths: Sequence[str], rows: Sequence[int]) -> list[TableRow]:
    """Return where a table is cut into ranges of about RANGE_ROWS rows; `rows`: how many each of its parts has."""
    ends = np.cumsum(rows)
    total = int(ends[-1])
    sample: set[TableRow] = set()
    for row in range(total // SAMPLED_GROUPS // 2, total, max(1, total // SAMPLED_GROUPS)):
        number = int(np.searchsorted(ends, row, side="right"))
        file = pq.ParquetFile(storage.open_read(paths[number]))
        group = file.read_row_group((row - int(ends[number]) + rows[number]) // GROUP, **arrow.ONE_THREAD)
        some = group.take(arrow.numbers(np.arange(0, len(group), SAMPLED_EVERY)))
        sample.update(zip(*(column.to_pylist() for column in some.columns), strict=True))
    ordered, n = sorted(sample), -(-total // RANGE_ROWS)
    return sorted({ordered[len(ordered) * i // n] for i in range(1, n)})


def _ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables, sorted by all columns."""
    whole = pa.concat_tables(tables)
    return whole.sort_by([(name, "ascending") for name in whole.column_names]).combine_chunks()


class _SortStep(FileStep):
    """A step of the sorting of some tables."""

    def __init__(self, sorts: Sequence[RangeSort]) -> None:
        super().__init__()
        self.sorts = sorts


class DealRows(_SortStep):
    """Deals the rows of every world_size-th part out by range."""

    name = "Deal rows"

    def do(self, rank: int, world_size: int) -> None:
        """Write `dealt/<rank>.arrow`, and note the range of each of its batches."""
        for sort in self.sorts:
            paths = table_parts(sort.work, sort.table)[rank::world_size]
            path, schema, ranges = sort.path(f"dealt/{_piece(rank)}"), TABLES[sort.table], []
            with storage.publishing_file(path) as partial, pa.ipc.new_file(partial, schema) as writer:
                for table in _some_rows(paths):
                    for number, batch in _cut(table, sort.bounds):
                        ranges.append(number)
                        writer.write_batch(batch)
            note(sort.path(f"dealt/{rank:05d}"), {"file": _piece(rank), "ranges": ranges})


def _some_rows(paths: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of some parts, about DEAL_ROWS at a time, each time in order."""
    waiting: list[pa.Table] = []
    for path in paths:
        with storage.open_read(path) as raw:
            file = pq.ParquetFile(raw)
            for group in range(file.num_row_groups):
                waiting.append(file.read_row_group(group, **arrow.ONE_THREAD))
                if sum(map(len, waiting)) >= DEAL_ROWS:
                    yield _ordered(waiting)
                    waiting = []
    if waiting:
        yield _ordered(waiting)


def _cut(table: pa.Table, bounds: Sequence[TableRow]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (range, rows) of a sorted table, for each range of which it has some."""

    def row(i: int) -> TableRow:
        return tuple(column[i].as_py() for column in table.columns)

    edges = [0, *(bisect.bisect_left(range(len(table)), bound, key=row) for bound in bounds), len(table)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        yield from ((number, batch) for batch in table.slice(start, stop - start).to_batches() if batch.num_rows)


class SortRanges(_SortStep):
    """Sorts every world_size-th range."""

    name = "Sort ranges"

    def do(self, rank: int, world_size: int) -> None:
        """Write `sorted/<range>.arrow`, and note how many rows each has."""
        for sort in self.sorts:
            dealt = noted(sort.path("dealt"))
            for number in range(rank, len(sort.bounds) + 1, world_size):
                schema = TABLES[sort.table]
                batches = [
                    batch
                    for one in dealt
                    if number in one["ranges"]
                    for batch in _of_range(sort.path(f"dealt/{one['file']}"), one["ranges"], number)
                ]
                table = _ordered([pa.Table.from_batches(batches, schema)])
                path = sort.path(f"sorted/{_piece(number)}")
                with storage.publishing_file(path) as partial, pa.ipc.new_file(partial, schema) as writer:
                    writer.write_table(table, max_chunksize=GROUP)
                note(sort.path(f"sorted/{number:05d}"), {"rows": [number, len(table)]})


def _of_range(path: str, ranges: Sequence[int], number: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a range in a file of dealt rows; `ranges`: that of each batch."""
    with uncut(path), storage.open_read(path) as raw, pa.ipc.open_file(raw) as reader:
        for i, of in enumerate(ranges):
            if of == number:
                yield reader.get_batch(i)
