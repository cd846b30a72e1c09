"""A table of an artifact, read a row group at a time, whether it is one file or several."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import EpochalError, WorkError, one_line
from ...common.publish import FileInfo, fetched
from .. import arrow

KEPT_OPEN = 8
"""Files of a table on this machine that are open at a time."""

COPIES = 100
"""Files of a table at a URL of which copies are kept."""

_AT_ONCE = 16
"""Files whose ends are read at a time."""


class _Footer(NamedTuple):
    """What the end of a file says of it: its schema; of each row group, how many rows, and the least `start`, None
    where it does not say."""

    schema: pa.Schema
    rows: list[int]
    starts: list[Any]

    @classmethod
    def of(cls, file: pq.ParquetFile) -> "_Footer":
        """Return that of an open file."""
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        at = file.schema_arrow.get_field_index("start")
        said = [group.column(at).statistics if at >= 0 else None for group in groups]
        starts = [None if statistics is None else statistics.min for statistics in said]
        return cls(file.schema_arrow, [group.num_rows for group in groups], starts)


class Table:
    """A table in one file or several. Threads may share it.

    A table of one file is opened at once. Of several, the ends alone are read until rows are asked for: then the file
    that holds them is opened, from a URL copied first, and held against what it must be.
    """

    def __init__(
        self, root: str, names: Sequence[str], files: Mapping[str, FileInfo] | None = None, keep: int | None = None
    ) -> None:
        """Open the table.

        Args:
            root: the artifact's folder, path or URL.
            names: of the table's files, in the order of its rows; at least one.
            files: what each file must be, by name; where nothing is said, files are taken as they are.
            keep: how many files are kept open; by default, a few.

        Raises:
            FileNotFoundError: when it is one file, which is not there.
            WorkError: for a damaged one.
        """
        self._root, self._names, self._files = root, list(names), files or {}
        self._keep = (COPIES if storage.is_url(root) else KEPT_OPEN) if keep is None else keep
        self._threads = arrow.ONE_THREAD if storage.is_url(root) else {}  # local files are opened by their paths
        self._kept: dict[int, pq.ParquetFile] = {}
        self._checked: set[int] = set()
        self._lock = threading.RLock()
        if len(self._names) == 1:
            self._footers  # noqa: B018  (says now what is wrong)

    def __enter__(self) -> Self:
        """Return this, whose files are closed after the body."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close its files."""
        with self._lock:
            self._kept.clear()

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._footers[0].schema

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """The number of each row group's first row, and how many rows there are: int64 (groups + 1,)."""
        return np.cumsum([0] + [n for footer in self._footers for n in footer.rows], dtype=np.int64)

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return int(self.edges[-1])

    @property
    def n_groups(self) -> int:
        """How many row groups it has."""
        return len(self.edges) - 1

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The least `start` of each row group, int64 (groups,).

        Raises:
            WorkError: when a file does not say it.
        """
        with readable(storage.join(self._root, self._names[0])):
            return np.array([start for footer in self._footers for start in footer.starts], np.int64)

    def read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a row group, or some of its columns.

        Raises:
            WorkError: when its file is missing or damaged.
        """
        number = int(np.searchsorted(self._firsts, group, side="right")) - 1
        with self._lock, readable(storage.join(self._root, self._names[number])):
            its = int(group - self._firsts[number])
            return self._file(number).read_row_group(its, _listed(columns), **self._threads)

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield all row groups, or some of their columns, in order; no more than one file is opened for it at a time.

        Raises:
            WorkError: when a file is missing or damaged.
        """
        for number, name in enumerate(self._names):
            with self._lock:
                file = self._kept.get(number) or self._opened(number)
            for group in range(file.num_row_groups):
                with self._lock, readable(storage.join(self._root, name)):
                    table = file.read_row_group(group, _listed(columns), **self._threads)
                yield table

    @cached_property
    def _footers(self) -> list[_Footer]:
        if len(self._names) == 1:
            with self._lock, readable(storage.join(self._root, self._names[0])):
                return [_Footer.of(self._file(0))]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._peek, range(len(self._names))))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """The number of each file's first row group, int64 (files,)."""
        return np.cumsum([0] + [len(footer.rows) for footer in self._footers], dtype=np.int64)[:-1]

    def _peek(self, number: int) -> _Footer:
        """Return the end of a file, which is not held against anything before rows of it are asked for."""
        name = self._names[number]
        path, listed = storage.join(self._root, name), self._files.get(name)
        with _there(path), readable(path), storage.open_read(path, listed.bytes if listed else None) as raw:
            return _Footer.of(pq.ParquetFile(raw))

    def _file(self, number: int) -> pq.ParquetFile:
        file = self._kept.pop(number, None) or self._opened(number)
        self._kept[number] = file
        while len(self._kept) > self._keep:
            self._kept.pop(next(iter(self._kept)))
        return file

    def _opened(self, number: int) -> pq.ParquetFile:
        """Return a file opened, and held against what it must be."""
        path = storage.join(self._root, self._names[number])
        if len(self._names) == 1:
            return self._checked_file(number, path)
        with _there(path), readable(path):
            file = self._checked_file(number, path)
            if "_footers" in self.__dict__ and _Footer.of(file) != self._footers[number]:
                raise WorkError(f"{path} is damaged: it changed while it was read; restore it or build again")
            return file

    def _checked_file(self, number: int, path: str) -> pq.ParquetFile:
        listed = self._files.get(self._names[number])
        if storage.is_url(path) and listed is not None:
            with fetched(path, listed) as copy:
                return pq.ParquetFile(open(copy, "rb"))  # the open file outlives its name
        if listed is not None and number not in self._checked:
            if FileInfo.at(storage.regular_path(path)) != listed:
                raise WorkError(f"{path} is damaged: it is not what its manifest says; restore it or build again")
            self._checked.add(number)
        return pq.ParquetFile(storage.open_read(path) if storage.is_url(path) else storage.regular_path(path))


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


@contextlib.contextmanager
def _there(path: str) -> Iterator[None]:
    """Say in one line that one of a table's files is missing."""
    try:
        yield
    except FileNotFoundError:
        raise WorkError(f"{path} is missing: restore it or build again") from None


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what pyarrow raises for the damaged table at `path` into WorkError."""
    try:
        yield
    except (EpochalError, FileNotFoundError):
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:  # pyarrow's are of all these kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise WorkError(f"{path} is damaged: restore it or build again ({one_line(error, 100)})") from None
