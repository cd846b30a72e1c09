"""What all sources share: a reader that accounts for every row; rows, limits, rejects and damaged files are counted
nowhere else. A row that cannot be used is a reject with a reason, never a silent skip; a file that cannot be read to
its end stops the build or, where that is asked for, is left out whole. What the tasks read together does not depend on
how many of them there are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import fsspec
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from ...common import storage
from ...common.errors import WorkError, Written, one_line, without_secrets
from ...common.remote import web
from ...common.unpack import DamagedError
from ..config import Source
from .listing import InputFile, Listing

_MISSING = object()
_SHOWN_FIELDS = 20


@dataclass
class Intake:
    """What a task has read.

    Attributes:
        rows: by source.
        rejected: rejects by reason.
        rejects: those not yet written to the task's table, each (source, file, row from 0, reason).
        first: the first reject of each reason: (source, file, row, names of the row's fields).
        left_out: damaged files, each (source, file, reason).
        written: what the configuration has from the environment; reasons show it as it was written.
    """

    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, str, int, str]] = field(default_factory=list)
    first: dict[str, tuple[int, str, int, list[str]]] = field(default_factory=dict)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    bytes_read: int = 0
    written: Written = field(default_factory=dict)

    def reject(self, source: int, file: str, row: int, reason: str, fields: Iterable[str] = ()) -> None:
        """Count a row that cannot be used."""
        reason = without_secrets(reason, self.written)
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.rejects.append((source, file, row, reason))
        if reason not in self.first or (source, file, row) < self.first[reason][:3]:
            self.first[reason] = source, file, row, sorted(fields)[:_SHOWN_FIELDS]


class Reader(BaseDiskReader):
    """Reads a listing. Subclasses yield the rows of a file; what is counted, limited and rejected is decided here."""

    def __init__(self, listing: Listing, source: Source, intake: Intake, skip_damaged: bool = False) -> None:
        super().__init__(_folder(listing.root), text_key=source.text_key, id_key=source.id_key)
        self._listing, self._source, self.intake = listing, source, intake
        self._skip_damaged = skip_damaged

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield earlier readers' documents, then those of this rank's share; with a limit one rank reads everything,
        so that the first rows are the same whatever the number of tasks."""
        if data:
            yield from data
        if self._source.limit is not None:
            if rank != self._listing.source % world_size:
                return
            rank, world_size = 0, 1
        yield from self._documents(self._share(rank, world_size))

    def _share(self, rank: int, world_size: int) -> Iterable[tuple[InputFile, Iterable[tuple[int, Any]]]]:
        """Return the files of a rank, every world_size-th, each with its rows."""
        files = self._listing.files[rank::world_size]
        return ((file, self._rows(file)) for file in files if not self._skip_damaged or self._is_whole(file))

    def _documents(self, share: Iterable[tuple[InputFile, Iterable[tuple[int, Any]]]]) -> Iterator[Document]:
        """Yield the documents of some files' rows, up to the limit; count all rows, and reject those without one.

        Raises:
            WorkError: when a file cannot be read to its end.
        """
        intake, number, left = self.intake, self._listing.source, self._source.limit
        for file, rows in share:
            row = -1
            try:
                for row, content in rows:
                    if left is not None:
                        if left == 0:
                            return
                        left -= 1
                    intake.rows[number] = intake.rows.get(number, 0) + 1
                    document = content if isinstance(content, str) else self._document(content, file)
                    if isinstance(document, str):
                        intake.reject(number, file.name, row, document, self._fields(content))
                    else:
                        document.metadata["_row"] = (file.name, row)
                        yield document
            except (DamagedError, OSError) as error:
                raise self._failure(file, row, error) from None
            self._check_unchanged(file)

    def _opened(self, file: InputFile) -> Any:
        """Return a file, opened; a store that fails is asked again."""
        if not storage.is_url(self._listing.root):
            return self.data_folder.open(file.path, "rb")
        root, size = self._listing.root, file.known_size
        return storage.patient(
            lambda: self.data_folder.open(file.path, "rb", **web.checks(root, size)), file.name, size
        )

    def _is_whole(self, file: InputFile) -> bool:
        """Return whether a file can be read to its end, for which it is read; leave it out when it cannot."""
        before = self.intake.bytes_read
        try:
            for _ in self._rows(file):
                pass
        except DamagedError as error:
            reason = without_secrets(str(error), self.intake.written)
            self.intake.left_out.append((self._listing.source, file.name, reason))
            self.intake.bytes_read = before + file.size
            return False
        except OSError as error:
            raise self._failure(file, -1, error) from None
        self.intake.bytes_read = before
        return True

    def _failure(self, file: InputFile, row: int, error: Exception) -> WorkError:
        """Return what to raise when a file could be read only up to some row (-1: none)."""
        until = f" (row {row}, from 0, was the last that could be read)" if row >= 0 else ""
        name = f"source '{self._source.name}': {file.name}"
        if isinstance(error, DamagedError):
            return WorkError(f"{name} {error}{until}: {MEND}")
        reason = "it is gone" if isinstance(error, FileNotFoundError) else one_line(error)
        return WorkError(f"{name} cannot be read{until}: {reason}: run the same command again when it can")

    def _check_unchanged(self, file: InputFile) -> None:
        """Raise WorkError when a file is another one than when the build began."""
        if file.stamp and storage.stamp(storage.join(self._listing.root, file.path)) != file.stamp:
            raise WorkError(
                f"source '{self._source.name}': {file.name} was changed while the build read it: run the same command "
                "again when it stays as it is"
            )

    def _document(self, content: Any, file: InputFile) -> Document | str:
        """Return the document in a row's content, here a mapping of fields, or the reason why it has none."""
        text, identifier = content.pop(self.text_key, _MISSING), content.pop(self.id_key, _MISSING)
        if not isinstance(text, str):
            text, problem = _as_text(_inner(content, self.text_key) if text is _MISSING else text, self.text_key)
            if problem:
                if identifier is not _MISSING:
                    content[self.id_key] = identifier  # its name is shown among those of the other fields
                return problem
        if not isinstance(identifier, str):
            given = _inner(content, self.id_key) if identifier is _MISSING else identifier
            identifier, problem = _as_id(given, self.id_key)
            if problem:
                return problem
        if "\x00" in text:
            return "NUL character"
        metadata = content | {"_source": self._listing.source}
        return Document(text=text, id=identifier, metadata=metadata)

    def _fields(self, content: Any) -> Iterable[str]:
        """Return the names of the fields of a row, of whose content the text may have been taken."""
        return map(str, content) if isinstance(content, dict) else ()

    def _rows(self, file: InputFile) -> Iterator[tuple[int, Any]]:
        """Yield (row from 0, its content or, as a string, the reason why it has none) for each row of a file.

        Raises:
            DamagedError: where the file cannot be read any further.
        """
        raise NotImplementedError

    def read_file(self, filepath: str) -> Any:
        """Unused: `run` goes through the listing."""
        raise NotImplementedError


def _folder(root: str) -> Any:
    """Return a listing's root as datatrove takes it; a local path with its file system, or `::` would divide it."""
    return root if storage.is_url(root) else (storage.local_path(root), fsspec.filesystem("file"))


MEND = "fetch it again or mend it, or leave such files out with on_damaged=skip"


def _inner(content: dict[str, Any], key: str) -> Any:
    """Return the field that a key with dots in it names: one inside another."""
    inner: Any = content
    for name in key.split("."):
        if not isinstance(inner, dict) or name not in inner:
            return _MISSING
        inner = inner[name]
    return inner


def _as_text(value: Any, key: str) -> tuple[str, str]:
    """Return the text in a field, and why there is none, empty where there is one."""
    if isinstance(value, str):
        return value, ""
    if value is _MISSING:
        return "", f"no field '{key}'"
    if value is None:
        return "", f"'{key}' is null"
    if not isinstance(value, bytes):
        return "", f"'{key}' is {type(value).__name__}, not text"
    try:
        return value.decode(), ""  # Parquet of writers that do not mark text as such
    except UnicodeDecodeError:
        return "", "not UTF-8"


def _as_id(value: Any, key: str) -> tuple[str, str]:
    """Return the id in a field, empty where there is none, and why it cannot be one, empty where it can."""
    if value is _MISSING or value is None or value != value:  # pandas writes NaN where there is no id
        return "", ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace"), ""
    if isinstance(value, str | int | float | Decimal | date | time | timedelta | UUID):
        return str(value), ""
    return "", f"'{key}' is {type(value).__name__}, not text or a number"
