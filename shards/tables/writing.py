"""Writing a table into the files that it has by the rule of names.py, from front to back."""

import contextlib
import io
from collections.abc import Callable
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from . import names

Create = Callable[[str], contextlib.AbstractContextManager[io.RawIOBase]]
"""Opens a new file of a name, which is whole when the body has succeeded: `Sink.create`."""


class DividedWriter:
    """Writes a table whose number of rows is known; its files are whole when the body has succeeded."""

    def __init__(self, create: Create, table: str, schema: pa.Schema, rows: int, **options: Any) -> None:
        """Begin with the first file.

        Args:
            create: see there.
            table: its name.
            schema: its columns.
            rows: how many will be written.
            options: for the Parquet writer.
        """
        self.schema = schema
        self._create, self._options = create, options
        self._names = iter(names.file_names(table, rows))
        self._room = 0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return this, with its first file open: a table without rows is a file too."""
        self._next_file()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """Finish the last file, or discard it when there was an error."""
        return self._open.__exit__(*error)

    def _next_file(self) -> None:
        self._open.close()
        file = self._open.enter_context(self._create(next(self._names)))
        self._writer = self._open.enter_context(pq.ParquetWriter(file, self.schema, **self._options))
        self._room = names.FILE_ROWS

    def write(self, table: pa.Table, group: int) -> None:
        """Write rows, in row groups of `group` that end where a file does."""
        while len(table):
            if not self._room:
                self._next_file()
            self._writer.write_table(table.slice(0, self._room), row_group_size=group)
            table, self._room = table.slice(self._room), max(0, self._room - len(table))
