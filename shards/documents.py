"""The table of documents of a pool, or of a subset that stands alone: which document lies where in the token stream.

It is `documents.parquet`, or several files where it is long (see tables/names.py). Columns, in stream order: key
(BLAKE2b-128 of the normalised text, 16 bytes), id, source, start (position of the first token), tokens (EOD included),
and what is kept of each document's metadata. Row groups carry the range of `start`, so a look-up reads one of them.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import RequestError, WorkError
from ..common.publish import MANIFEST_NAME, FileInfo, Sink
from . import arrow
from .artifact import read_manifest
from .manifest import Manifest
from .tables.names import names_in
from .tables.table import Table
from .tables.table import readable as _readable
from .tables.writing import DividedWriter

DOCUMENTS = "documents"
"""The table's name, of which the names of its files are made."""

DOCUMENTS_NAME = "documents.parquet"
"""What messages call it, and its file, where that is one."""

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


def table_files(files: Mapping[str, FileInfo]) -> dict[str, FileInfo]:
    """Return what each file of the table of documents must be, of all files of an artifact; none where it has none."""
    return {name: files[name] for name in names_in(files, DOCUMENTS)}


def has_documents(files: Collection[str]) -> bool:
    """Return whether there is a table of documents among the files of an artifact."""
    return bool(names_in(files, DOCUMENTS))


def open_documents(root: str, files: Mapping[str, FileInfo] | None = None, keep: int | None = None) -> Table:
    """Return the opened table of documents of the pool at `root`, a path or a URL.

    Args:
        root: see above.
        files: of its manifest: each file of the table is held against that before it is read. Without, what lies at a
            URL is held against the manifest there, and what lies on this machine is taken as it is.
        keep: see `Table`.

    Raises:
        FileNotFoundError: when there is none.
        WorkError: when it is damaged, or a store does not send what the manifest names.
    """
    if files and has_documents(files):
        return Table(root, names_in(files, DOCUMENTS), files, keep)
    path = storage.join(root, DOCUMENTS_NAME)
    remote = storage.is_url(root)
    if not remote and storage.exists(path):
        return Table(root, [DOCUMENTS_NAME], None, keep)
    listed = None
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        listed = read_manifest(root).files
    names = names_in(storage.names(root) if listed is None else listed, DOCUMENTS)  # the former: it is being built
    if not names:
        raise FileNotFoundError(path)
    return Table(root, names, listed if remote else None, keep)


@contextlib.contextmanager
def readable(root: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged table of the pool at `root` into WorkError."""
    with _readable(storage.join(root, DOCUMENTS_NAME)):
        yield


class DocumentStarts:
    """Answers which documents hold which stream positions, reading the row groups that are asked about."""

    def __init__(self, root: str, files: Mapping[str, FileInfo] | None = None) -> None:
        """Open the table; `files` as `open_documents` takes them.

        Raises:
            WorkError: for a damaged one.
            RequestError: when there is none.
        """
        self._root = root
        try:
            self._file = open_documents(root, files)
        except FileNotFoundError:
            raise RequestError(
                f"{root} has no {DOCUMENTS_NAME}, which says where documents begin: restore it"
            ) from None
        self._first, self._rows = self._file.starts, self._file.edges
        self._group = lru_cache(maxsize=2)(self._read_group)

    def edges(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return where the documents with a token in the stream range [start, stop) begin, and its end, counted from
        `start`, int64 (documents + 1,): 0 first, though the first document may begin before the range.

        Raises:
            WorkError: when the table is damaged.
        """
        parts = []
        for group in self._groups(start, stop):
            with readable(self._root):
                parts.append(arrow.integers(self._file.read(group, ["start"])["start"]))
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
            starts = arrow.integers(self._file.read(group, ["start"])["start"])
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
        schema = todays_schema(self._file.schema)
        n = self.count(start, stop) if moved is None else self.count_moved(start, stop, moved)
        moved = moved or (lambda at: at.clip(start, stop) - start)
        with DividedWriter(sink.create, DOCUMENTS, schema, n, compression="zstd") as writer:
            for group in self._groups(start, stop):
                with readable(self._root):
                    rows = _moved(self._file.read(group), moved)
                if len(rows):
                    writer.write(rows.cast(schema), ROW_GROUP)

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
        with readable(self._root):
            table = self._file.read(group, ["key", "id", "source", "start", "tokens"])
            return table, arrow.integers(table["start"])

    def count(self, start: int, stop: int) -> int:
        """Return how many documents have a token in the stream range [start, stop), which must not be empty."""
        return self.at(stop - 1)[0] - self.at(start)[0] + 1


def iter_documents(
    root: str, names: list[str], files: Mapping[str, FileInfo] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the table's columns `names` as numpy arrays, one row group at a time; `files` as in `open_documents`."""
    with open_documents(root, files) as f:
        for group in f.groups(names):
            with readable(root):
                columns = {name: _column(group[name]) for name in names}
            yield columns


def _column(column: pa.ChunkedArray) -> NDArray[Any]:
    return arrow.array(column) if pa.types.is_integer(column.type) else column.to_numpy()


def find_documents(root: str, m: Manifest) -> tuple[str, dict[str, FileInfo], int] | None:
    """Return whose table of documents tells of the tokens of the artifact at `root`, what its files must be, and at
    which position of its stream the artifact begins; None where there is none (subsets that stood alone had none
    once)."""
    if own := table_files(m.files):
        return root, own, 0
    if m.parent is None or m.materialized:
        return None
    pool = storage.join(root, m.parent.path)
    listed = table_files(read_manifest(pool).files)
    return (pool, listed, m.parent.start_sample * m.seq_len) if listed else None


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
        begin, end = np.searchsorted(f.edges, first, side="right") - 1, np.searchsorted(f.edges, stop)
        for group in range(int(begin), min(int(end), f.n_groups)):
            at = int(f.edges[group])
            yield from f.read(group).slice(max(0, first - at), stop - max(at, first)).to_pylist()
