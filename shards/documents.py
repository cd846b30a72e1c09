"""A pool's `documents.parquet`: which document lies where in the token stream.

Columns, in stream order: key (BLAKE2b-128 of the normalised text, 16 bytes), id, source, start (position of the first
token), tokens (EOD included). Row groups carry the range of `start`, so a look-up reads one of them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..common import arrow, storage
from ..common.errors import EpochalError, WorkError, one_line
from ..common.publish import FileInfo

DOCUMENTS_NAME = "documents.parquet"
ROW_GROUP = 65_536
SCHEMA = pa.schema(
    [
        ("key", pa.binary(16)),
        ("id", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
    ]
)


def open_documents(root: str) -> pq.ParquetFile:
    """Return the opened documents.parquet of the pool at `root` (path or URL)."""
    path = storage.join(root, DOCUMENTS_NAME)
    with readable(root):
        return _opened(path)


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


def _opened(path: str) -> pq.ParquetFile:
    if storage.is_url(path):
        return pq.ParquetFile(storage.filesystem(path.split("://", 1)[0]).open(path))
    return pq.ParquetFile(storage.regular_path(path))


class DocumentStarts:
    """Answers which document holds a stream position, reading one row group per question."""

    def __init__(self, root: str, info: FileInfo | None = None) -> None:
        """Open the table; where it lies on this machine, and `info` is given, hold it against that size and hash.

        Raises:
            WorkError: for a damaged one.
        """
        self._root = root
        path = storage.join(root, DOCUMENTS_NAME)
        if info is not None and not storage.is_url(path) and FileInfo.at(storage.regular_path(path)) != info:
            raise WorkError(f"{path} is damaged: it is not what its manifest says; restore it or build again")
        self._file = open_documents(root)
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
