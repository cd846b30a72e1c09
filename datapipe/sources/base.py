"""What all sources share: a reader that accounts for every row; rows, limits, rejects and damaged files are counted
nowhere else. A row that cannot be used is a reject with a reason, never a silent skip; a file that cannot be read to
its end stops the build or, where that is asked for, is left out whole. What the tasks read together does not depend on
how many of them there are.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

import fsspec
from datatrove.data import Document

from ...common import storage
from ...common.errors import RequestError, WorkError, Written, one_line, without_secrets
from ...common.remote import web
from ...common.rows.fields import MISSING, field_of, inner
from ...common.rows.where import Condition, ConditionError
from ...common.unpack import DamagedError
from ..config import Source
from ..run.datatrove_parts import BaseDiskReader
from ..text.document_key import content_key, normalise
from ..text.filters import REASON_CHARS, nowhere
from .listing import InputFile, Listing

KEPT = "_kept"
"""Where in a document's metadata the values are that `keep` names, as they came."""

_SHOWN_FIELDS = 20

_JUDGED_ROWS, _JUDGED_CHARS = 512, 1 << 22
"""Of the rows that a condition is computed for at once."""


class Dropped(str):
    """Stands for a row that the source's `where` leaves out; the text is the reason.

    Attributes:
        row: of filtered.parquet.
    """

    row: tuple[Any, ...]


@dataclass
class Judged:
    """What became of a source's rows by its `where`.

    Attributes:
        rows: how many were judged.
        false: of how many the condition is false.
        null: of how many it is null.
        absent: for each field that the condition names, how many rows lack it.
        fields: the names that the first rows have.
    """

    rows: int = 0
    false: int = 0
    null: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)


@dataclass
class Intake:
    """What a task has read.

    Attributes:
        rows: by source.
        rejected: rejects by reason.
        rejects: those not yet written to the task's table, each (source, file, row from 0, reason).
        first: the first reject of each reason: (source, file, row, names of the row's fields).
        left_out: damaged files, each (source, file, reason).
        judged: by source, where it has a condition.
        take: where rows of filtered.parquet go, of what a condition leaves out; set before anything is read.
        written: what the configuration has from the environment; reasons show it as it was written.
    """

    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, str, int, str]] = field(default_factory=list)
    first: dict[str, tuple[int, str, int, list[str]]] = field(default_factory=dict)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    judged: dict[int, Judged] = field(default_factory=dict)
    take: Callable[[tuple[Any, ...]], None] = nowhere
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

    def __init__(
        self,
        listing: Listing,
        source: Source,
        intake: Intake,
        skip_damaged: bool = False,
        keep: Sequence[str] = (),
        all_columns: bool = False,
    ) -> None:
        super().__init__(_folder(listing.root), text_key=source.text_key, id_key=source.id_key)
        self._listing, self._source, self.intake = listing, source, intake
        self._skip_damaged, self._keep, self._all_columns = skip_damaged, tuple(keep), all_columns

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
            name, row, n_rows = file.name, -1, 0
            if self._source.where is not None:
                rows = self._judged(itertools.islice(rows, left), file)
            try:
                for row, content in rows:
                    if left is not None:
                        if left == 0:
                            return
                        left -= 1
                    n_rows += 1
                    document = content if isinstance(content, str) else self._document(content, file)
                    if not isinstance(document, str):
                        document.metadata["_row"] = (name, row)
                        yield document
                    elif isinstance(document, Dropped):
                        intake.take(document.row)
                    else:
                        intake.reject(number, name, row, document, self._fields(content))
            except (DamagedError, OSError) as error:
                raise self._failure(file, row, error) from None
            finally:
                if n_rows:
                    intake.rows[number] = intake.rows.get(number, 0) + n_rows
            self._check_unchanged(file)

    @cached_property
    def _condition(self) -> Condition:
        return Condition(str(self._source.where))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_condition"}

    def _judged(self, rows: Iterable[tuple[int, Any]], file: InputFile) -> Iterator[tuple[int, Any]]:
        """Yield rows with a `Dropped` in the place of the content of those for which the condition does not hold."""
        for batch, failure in _batches(rows, self.text_key):
            judged = [(row, content) for row, content in batch if isinstance(content, dict)]
            try:
                answers = iter(self._condition.judge([content for _, content in judged]))
            except ConditionError as error:
                row = judged[error.row or 0][0]
                raise RequestError(
                    f"source '{self._source.name}': where cannot be used on row {row} of {file.name}: {error}"
                ) from None
            self._note([content for _, content in judged])
            for row, content in batch:
                yield row, content if not isinstance(content, dict) else self._verdict(next(answers), content)
            if failure is not None:
                raise failure

    def _verdict(self, answer: bool | None, content: dict[str, Any]) -> dict[str, Any] | Dropped:
        if answer:
            return content
        judged = self.intake.judged[self._listing.source]
        judged.false, judged.null = judged.false + (answer is False), judged.null + (answer is None)
        reason = reason_of(self._condition.text) if answer is False else NULL_CONDITION
        text, _ = _as_text(field_of(content, self.text_key), self.text_key)
        key, (identifier, _) = content_key(normalise(text)), _as_id(field_of(content, self.id_key), self.id_key)
        dropped, name = Dropped(reason), self._source.name
        dropped.row = key, identifier or key.hex(), name, where_name(name), reason
        return dropped

    def _note(self, rows: list[dict[str, Any]]) -> None:
        """Count rows, and those that lack a field of the condition."""
        judged = self.intake.judged.setdefault(self._listing.source, Judged())
        judged.rows += len(rows)
        for column in self._condition.columns:
            n = sum(field_of(content, column) is MISSING for content in rows)
            judged.absent[column] = judged.absent.get(column, 0) + n
        for content in rows[:_SHOWN_FIELDS] if len(judged.fields) < _MOST_FIELDS else ():
            judged.fields |= set(map(str, content))

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
        kept = tuple(field_of(content, name) for name in self._keep) if self._keep else ()
        text, identifier = content.pop(self.text_key, MISSING), content.pop(self.id_key, MISSING)
        if not isinstance(text, str):
            text, problem = _as_text(inner(content, self.text_key) if text is MISSING else text, self.text_key)
            if problem:
                if identifier is not MISSING:
                    content[self.id_key] = identifier  # its name is shown among those of the other fields
                return problem
        if not isinstance(identifier, str):
            given = inner(content, self.id_key) if identifier is MISSING else identifier
            identifier, problem = _as_id(given, self.id_key)
            if problem:
                return problem
        if "\x00" in text:
            return "NUL character"
        content["_source"] = self._listing.source
        if kept:
            content[KEPT] = kept
        return Document(text, identifier, [], content)

    def _fields(self, content: Any) -> Iterable[str]:
        """Return the names of the fields of a row, of whose content the text may have been taken."""
        return map(str, content) if isinstance(content, dict) else ()

    def _rows(self, file: InputFile) -> Generator[tuple[int, Any], None, None]:
        """Yield (row from 0, its content or, as a string, the reason why it has none) for each row of a file.

        Raises:
            DamagedError: where the file cannot be read any further.
        """
        raise NotImplementedError

    def read_file(self, filepath: str) -> Any:
        """Unused: `run` goes through the listing."""
        raise NotImplementedError


def reason_of(condition: str) -> str:
    """Return the reason that is given for rows of which a condition is false: the condition, in a line."""
    return one_line(" ".join(condition.split()), REASON_CHARS)


def where_name(source: str) -> str:
    """Return what tables and the report call the condition of a source."""
    return f"where of {source}"


def check_conditions(sources: Sequence[Source]) -> None:
    """Raise RequestError for a `where` that is none."""
    for number, source in enumerate(sources):
        try:
            if source.where is not None:
                Condition(source.where)
        except ConditionError as error:
            raise RequestError(f"sources.{number}.where: {error}") from None


def _folder(root: str) -> Any:
    """Return a listing's root as datatrove takes it; a local path with its file system, or `::` would divide it."""
    return root if storage.is_url(root) else (storage.local_path(root), fsspec.filesystem("file"))


MEND = "fetch it again or mend it, or leave such files out with on_damaged=skip"


NULL_CONDITION = "the condition is null"
"""The reason of rows that a condition leaves out because a field that it needs is null or not there."""

_MOST_FIELDS = 1000


def _batches(
    rows: Iterable[tuple[int, Any]], text_key: str
) -> Iterator[tuple[list[tuple[int, Any]], Exception | None]]:
    """Yield rows, some at a time, fewer where texts are long; and what ended them, if they could not be read on."""
    batch: list[tuple[int, Any]] = []
    chars, failure = 0, None
    try:
        for row, content in rows:
            batch.append((row, content))
            chars += len(content.get(text_key) or "") if isinstance(content, dict) and _sized(content, text_key) else 0
            if len(batch) >= _JUDGED_ROWS or chars >= _JUDGED_CHARS:
                yield batch, None
                batch, chars = [], 0
    except (DamagedError, OSError) as error:
        failure = error
    yield batch, failure


def _sized(content: dict[str, Any], key: str) -> bool:
    return isinstance(content.get(key), str | bytes)


def _as_text(value: Any, key: str) -> tuple[str, str]:
    """Return the text in a field, and why there is none, empty where there is one."""
    if isinstance(value, str):
        return value, ""
    if value is MISSING:
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
    if value is MISSING or value is None or value != value:  # pandas writes NaN where there is no id
        return "", ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace"), ""
    if isinstance(value, str | int | float | Decimal | date | time | timedelta | UUID):
        return str(value), ""
    return "", f"'{key}' is {type(value).__name__}, not text or a number"
