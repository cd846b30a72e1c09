"""`documents.parquet` of a pool, or of a subset that stands alone: which document lies where in the token stream.

Columns, in stream order: key (BLAKE2b-128 of the normalised text, 16 bytes), id, source, start (position of the first
token), tokens (EOD included), and what is kept of each document's metadata. Row groups carry the range of `start`, so
a look-up reads one of them.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import EpochalError, RequestError, WorkError, one_line
from ..common.publish import MANIFEST_NAME, FileInfo, Sink, fetched
from . import arrow
from .artifact import read_manifest
from .manifest import Manifest

DOCUMENTS_NAME = "documents.parquet"
ROW_GROUP = 65_536
SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("id", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
    ]
)


Moved = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From positions of a stream to positions of what is copied of it: how many tokens of the copy lie before each."""

KEPT_TYPES = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""Of kept fields, by the name that a configuration has for each."""


def schema_with(kept: Mapping[str, str]) -> pa.Schema:
    """Return the table's schema with kept fields.

    Args:
        kept: the type of each, by name, as a manifest's `statistics["kept"]` has it.
    """
    return pa.schema([*SCHEMA, *((name, KEPT_TYPES[kind]) for name, kind in kept.items())])


def open_documents(root: str) -> pq.ParquetFile:
    """Return the opened documents.parquet of the pool at `root`, a path, or a URL from where it is copied first, since
    only as a whole it can be held against its hash.

    Raises:
        FileNotFoundError: when there is none.
        WorkError: when a store does not send the one that the manifest names.
    """
    path = storage.join(root, DOCUMENTS_NAME)
    with readable(root):
        return _opened(root, path)


@contextlib.contextmanager
def readable(root: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged table of the pool at `root` into WorkError."""
    try:
        yield
    except (EpochalError, FileNotFoundError):
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:  # pyarrow's are of all these kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise
        where = storage.join(root, DOCUMENTS_NAME)
        raise WorkError(f"{where} is damaged: restore it or build again ({one_line(error, 100)})") from None


def _opened(root: str, path: str) -> pq.ParquetFile:
    if not storage.is_url(path):
        return pq.ParquetFile(storage.regular_path(path))
    if not storage.exists(storage.join(root, MANIFEST_NAME)):  # a pool that is being built
        return pq.ParquetFile(storage.open_read(path))
    listed = read_manifest(root).files.get(DOCUMENTS_NAME)
    if listed is None:
        raise FileNotFoundError(path)
    with fetched(path, listed) as copy:
        return pq.ParquetFile(open(copy, "rb"))  # the open file outlives its name


class DocumentStarts:
    """Answers which documents hold which stream positions, reading the row groups that are asked about."""

    def __init__(self, root: str, info: FileInfo | None = None) -> None:
        """Open the table; where it lies on this machine, and `info` is given, hold it against that size and hash.

        Raises:
            WorkError: for a damaged one.
            RequestError: when there is none.
        """
        self._root = root
        path = storage.join(root, DOCUMENTS_NAME)
        try:
            if info is not None and not storage.is_url(path) and FileInfo.at(storage.regular_path(path)) != info:
                raise WorkError(f"{path} is damaged: it is not what its manifest says; restore it or build again")
            self._file = open_documents(root)
        except FileNotFoundError:
            raise RequestError(
                f"{root} has no {DOCUMENTS_NAME}, which says where documents begin: restore it"
            ) from None
        with readable(root):
            self._look()

    def _look(self) -> None:
        metadata = self._file.metadata
        column = self._file.schema_arrow.get_field_index("start")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self._first = np.array([g.column(column).statistics.min for g in groups], np.int64)
        self._rows = np.cumsum([0] + [g.num_rows for g in groups])
        self._group, self._reading = lru_cache(maxsize=2)(self._read_group), threading.Lock()

    def edges(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return where the documents with a token in the stream range [start, stop) begin, and its end, counted from
        `start`, int64 (documents + 1,): 0 first, though the first document may begin before the range.

        Raises:
            WorkError: when the table is damaged.
        """
        parts = []
        for group in self._groups(start, stop):
            with readable(self._root):
                parts.append(arrow.integers(self._file.read_row_group(group, columns=["start"])["start"]))
        starts = np.concatenate(parts)
        begin, end = np.searchsorted(starts, start, side="right") - 1, np.searchsorted(starts, stop)
        edges = np.append(np.maximum(starts[begin:end] - start, 0), stop - start)
        if begin < 0 or (np.diff(edges) < 1).any():
            where = storage.join(self._root, DOCUMENTS_NAME)
            raise WorkError(f"{where} is damaged: documents do not follow each other; restore it or build again")
        return edges

    def at(self, position: int) -> tuple[int, int]:
        """Return (number of the document that holds stream `position`, its start)."""
        group = int(np.searchsorted(self._first, position, side="right")) - 1
        with readable(self._root):
            starts = arrow.integers(self._file.read_row_group(group, columns=["start"])["start"])
        row = int(np.searchsorted(starts, position, side="right")) - 1
        return int(self._rows[group]) + row, int(starts[row])

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return the documents with a token in the stream range [start, stop), which must not be empty: the columns of
        their rows, and their `number`. Ranges that are asked for in order read each row group once."""
        found = []
        for group in self._groups(start, stop):
            table, starts = self._group(group)
            begin = max(0, int(np.searchsorted(starts, start, side="right")) - 1)
            end = int(np.searchsorted(starts, stop, side="left"))
            rows = table.slice(begin, end - begin).to_pylist()
            found += [{"number": int(self._rows[group]) + begin + i} | row for i, row in enumerate(rows)]
        return found

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of the documents whose id is `name`, or whose key is, in hexadecimal digits: the whole table
        is read for it."""
        key = bytes.fromhex(name) if re.fullmatch("[0-9a-fA-F]{32}", name) else None
        found = []
        for group in range(len(self._first)):
            table, _ = self._group(group)
            rows = [i for i, id_ in enumerate(table["id"].to_pylist()) if id_ == name]
            rows += [i for i, one in enumerate(table["key"].to_pylist()) if one == key] if key else []
            numbered = ((int(self._rows[group]) + i, table.slice(i, 1).to_pylist()[0]) for i in sorted(set(rows)))
            found += [{"number": number} | row for number, row in numbered]
        return found

    def copy_window(self, sink: Sink, start: int, stop: int, moved: Moved | None = None) -> None:
        """Write the documents with a token in the stream range [start, stop), which must not be empty, to `sink`.

        In the copy `start` counts from the range's first token, and `tokens` only those in it; other columns are as
        they are. Memory: a row group.

        Args:
            sink: where to.
            start: of the range.
            stop: of the range.
            moved: where in the copy the tokens before a position end, where it is not all of the range.
        """
        schema = todays_schema(self._file.schema_arrow)
        moved = moved or (lambda at: at.clip(start, stop) - start)
        with sink.create(DOCUMENTS_NAME) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in self._groups(start, stop):
                with readable(self._root):
                    table = _moved(self._file.read_row_group(group), moved)
                if len(table):
                    writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)

    def count_moved(self, start: int, stop: int, moved: Moved) -> int:
        """Return how many documents `copy_window` writes."""
        found = 0
        for group in self._groups(start, stop):
            table, starts = self._group(group)
            found += int((moved(starts + arrow.integers(table["tokens"])) > moved(starts)).sum())
        return found

    def _groups(self, start: int, stop: int) -> range:
        """Return the row groups that hold the stream range [start, stop)."""
        first, last = (int(np.searchsorted(self._first, at, side="right")) - 1 for at in (start, stop - 1))
        return range(first, last + 1)

    def _read_group(self, group: int) -> tuple[pa.Table, NDArray[np.int64]]:
        with readable(self._root), self._reading:
            table = self._file.read_row_group(group, columns=["key", "id", "source", "start", "tokens"])
            return table, arrow.integers(table["start"])

    def count(self, start: int, stop: int) -> int:
        """Return how many documents have a token in the stream range [start, stop), which must not be empty."""
        return self.at(stop - 1)[0] - self.at(start)[0] + 1


def iter_documents(root: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the table's columns `names` as numpy arrays, one row group at a time."""
    with open_documents(root) as f:
        for i in range(f.metadata.num_row_groups):
            with readable(root):
                table = f.read_row_group(i, columns=names)
                columns = {name: _column(table[name]) for name in names}
            yield columns


def _column(column: pa.ChunkedArray) -> NDArray[Any]:
    return arrow.array(column) if pa.types.is_integer(column.type) else column.to_numpy()


def find_documents(root: str, m: Manifest) -> tuple[str, FileInfo, int] | None:
    """Return whose documents.parquet tells of the tokens of the artifact at `root`, what the file must be, and at which
    position of its stream the artifact begins; None where there is none (subsets that stood alone had none once)."""
    own = m.files.get(DOCUMENTS_NAME)
    if own is not None:
        return root, own, 0
    if m.parent is None or m.materialized:
        return None
    pool = storage.join(root, m.parent.path)
    listed = read_manifest(pool).files.get(DOCUMENTS_NAME)
    return None if listed is None else (pool, listed, m.parent.start_sample * m.seq_len)


def todays_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with keys as they are today: those of earlier pools are binary of fixed size."""
    return schema.set(schema.get_field_index("key"), SCHEMA.field("key")).remove_metadata()


def _moved(table: pa.Table, moved: Moved) -> pa.Table:
    """Return the rows with a token in what is copied, positions and numbers of tokens as there."""
    starts, tokens = arrow.integers(table["start"]), arrow.integers(table["tokens"])
    begin, end = moved(starts), moved(starts + tokens)
    rows = np.flatnonzero(end > begin)
    chosen = table.take(arrow.numbers(rows))
    for name, values in (("start", begin[rows]), ("tokens", (end - begin)[rows])):
        chosen = chosen.set_column(chosen.schema.get_field_index(name), name, arrow.numbers(values))
    return chosen


def rows(root: str, first: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of documents `first` to `stop`, of which only their row groups are read."""
    with open_documents(root) as f:
        at = 0
        for i in range(f.metadata.num_row_groups):
            n = f.metadata.row_group(i).num_rows
            if at < stop and first < at + n:
                yield from f.read_row_group(i).slice(max(0, first - at), stop - max(at, first)).to_pylist()
            at += n
