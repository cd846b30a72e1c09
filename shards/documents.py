"""`documents.parquet` of a pool, or of a subset that stands alone: which document lies where in the token stream.

Columns, in stream order: key (BLAKE2b-128 of the normalised text, 16 bytes), id, source, start (position of the first
token), tokens (EOD included), and what is kept of each document's metadata. Row groups carry the range of `start`, so
a look-up reads one of them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


def check_documents(root: str, info: FileInfo) -> None:
    """Raise WorkError when the table is not what `info` says; one at a URL is held against it when it is fetched."""
    path = storage.join(root, DOCUMENTS_NAME)
    if not storage.is_url(path) and FileInfo.at(storage.regular_path(path)) != info:
        raise WorkError(f"{path} is damaged: it is not what its manifest says; restore it or build again")


class DocumentStarts:
    """Answers which document holds a stream position, reading one row group per question."""

    def __init__(self, root: str, info: FileInfo | None = None) -> None:
        """Open the table; where it lies on this machine, and `info` is given, hold it against that size and hash.

        Raises:
            WorkError: for a damaged one.
            RequestError: when there is none.
        """
        self._root = root
        try:
            if info is not None:
                check_documents(root, info)
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

    def at(self, position: int) -> tuple[int, int]:
        """Return (number of the document that holds stream `position`, its start)."""
        group = int(np.searchsorted(self._first, position, side="right")) - 1
        with readable(self._root):
            starts = arrow.integers(self._file.read_row_group(group, columns=["start"])["start"])
        row = int(np.searchsorted(starts, position, side="right")) - 1
        return int(self._rows[group]) + row, int(starts[row])

    def count(self, start: int, stop: int) -> int:
        """Return how many documents have a token in the stream range [start, stop), which must not be empty."""
        return self.at(stop - 1)[0] - self.at(start)[0] + 1


def iter_documents(root: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the table's columns `names` as numpy arrays, one row group at a time."""
    with open_documents(root) as f:
        for i in range(f.metadata.num_row_groups):
            with readable(root):
                table = f.read_row_group(i, columns=names)
            yield {name: table[name].to_numpy() for name in names}


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


def copy_window(sink: Sink, root: str, info: FileInfo, start: int, stop: int) -> None:
    """Write the documents of the pool at `root` that have a token in the stream range [start, stop) to `sink`.

    In the copy `start` counts from the range's first token, and `tokens` only those in it; other columns are as they
    are. Memory: a row group.

    Raises:
        WorkError: when the table is not what `info` says.
    """
    check_documents(root, info)
    with open_documents(root) as f:
        schema = _readable(f.schema_arrow)
        with sink.create(DOCUMENTS_NAME) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for i in range(f.metadata.num_row_groups):
                with readable(root):
                    table = _clipped(f.read_row_group(i), start, stop)
                if len(table):
                    writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)


def _readable(schema: pa.Schema) -> pa.Schema:
    """Return the schema with keys as they are today: those of earlier pools are binary of fixed size."""
    return schema.set(schema.get_field_index("key"), SCHEMA.field("key")).remove_metadata()


def _clipped(table: pa.Table, start: int, stop: int) -> pa.Table:
    """Return the rows with a token in [start, stop), positions and numbers of tokens as in that range."""
    starts, tokens = arrow.integers(table["start"]), arrow.integers(table["tokens"])
    first, last = np.searchsorted(starts + tokens, start, "right"), np.searchsorted(starts, stop, "left")
    begin, end = starts[first:last].clip(start), (starts + tokens)[first:last].clip(max=stop)
    cut = table.slice(first, max(0, last - first))
    for name, values in (("start", begin - start), ("tokens", end - begin)):
        cut = cut.set_column(cut.schema.get_field_index(name), name, arrow.numbers(values))
    return cut


def rows(root: str, first: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of documents `first` to `stop`, of which only their row groups are read."""
    with open_documents(root) as f:
        at = 0
        for i in range(f.metadata.num_row_groups):
            n = f.metadata.row_group(i).num_rows
            if at < stop and first < at + n:
                yield from f.read_row_group(i).slice(max(0, first - at), stop - max(at, first)).to_pylist()
            at += n
