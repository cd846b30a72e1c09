"""What all sources share: how files are listed, and a reader that accounts for every row; rows, limits and rejects are
counted nowhere else. A row that cannot be used is a reject with a reason, never a silent skip, and what the tasks read
together does not depend on how many of them there are.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import fsspec
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

from ...common import storage
from ...common.errors import RequestError
from ..config import Source


@dataclass(frozen=True)
class InputFile:
    """One file to read, or a part of one.

    Attributes:
        path: relative to its listing's root.
        name: as it appears in ids and rejects.
        size: in bytes.
        start: where the part begins, for files that are divided (in bytes; in documents for Megatron-LM's).
    """

    path: str
    name: str
    size: int
    start: int = 0


@dataclass(frozen=True)
class Listing:
    """The files of a source below one root (path or URL), in order of name.

    Attributes:
        left_out: names of other files there, each with the reason why it is not read.
        notes: lines for the user: what was decided, and what is not read.
    """

    source: int
    root: str
    files: list[InputFile]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


@dataclass
class Intake:
    """What a task has read.

    Attributes:
        rows: by source.
        rejected: rejects by reason.
        rejects: those not yet written to the task's table, each (source, file, row from 0, reason).
    """

    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, str, int, str]] = field(default_factory=list)
    bytes_read: int = 0

    def reject(self, source: int, file: str, row: int, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.rejects.append((source, file, row, reason))


def list_files(number: int, source: Source) -> Listing:
    """Return the files at a source's path.

    Raises:
        RequestError: when there is none.
    """
    assert source.path is not None
    path = os.path.expanduser(source.path)
    try:
        if os.path.exists(path):  # as it is written, whatever `[`, `::` or `#` would mean in a pattern or a URL
            base, sizes = _local_files(os.path.abspath(path), source)
            fs = fsspec.filesystem("file")
        else:
            if storage.is_url(path):
                storage.filesystem(path.partition("://")[0].rpartition("::")[2])
            fs, path = fsspec.core.url_to_fs(path)
            base, sizes = _matches(fs, path, source)
    except (ImportError, ValueError) as error:
        raise RequestError(f"source '{source.name}': cannot open {source.path}: {error}") from None
    names = {p: p.removeprefix(base).lstrip("/") for p in sizes}
    names = {p: n for p, n in names.items() if not any(part.startswith(".") for part in n.split("/"))}
    if not sizes:
        raise RequestError(f"source '{source.name}': {source.path} does not exist or holds no file")
    files = [InputFile(n, n, sizes[p]) for p, n in names.items()]
    return Listing(number, str(fs.unstrip_protocol(base)), sorted(files, key=lambda f: f.name))


def _local_files(path: str, source: Source) -> tuple[str, dict[str, int]]:
    """Return the folder of a local file or folder, and the size of each file; links are followed."""
    if os.path.isfile(path):
        return os.path.dirname(path), {path: os.path.getsize(path)}
    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(path, followlinks=True):
        above = {os.path.realpath(folder)}
        above |= {os.path.realpath(folder[:i]) for i, c in enumerate(folder) if c == "/" and i >= len(path)}
        for name in folders:
            if os.path.realpath(os.path.join(folder, name)) in above:
                raise RequestError(f"source '{source.name}': {folder}/{name} links to a folder above it: remove it")
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (os.path.join(folder, name) for name in names if not name.startswith("."))
        sizes |= {file: _size(file, source) for file in shown}
    return path, sizes


def _size(path: str, source: Source) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        raise RequestError(
            f"source '{source.name}': {path} is a link to nothing: restore its file or remove it"
        ) from None


def _matches(fs: Any, path: str, source: Source) -> tuple[str, dict[str, int]]:
    """Return what a path or pattern in a file system begins with, and the size of each file that it names."""
    base, pattern = _split_glob(fs, path)
    try:
        if pattern:
            infos = fs.glob(f"{_escaped(base)}/{pattern}", detail=True)
        elif fs.isfile(path):
            base, infos = path.rpartition("/")[0], {path: fs.info(path)}
        else:
            infos = fs.find(path, detail=True)
    except FileNotFoundError:
        infos = {}
    if "file" in (fs.protocol, *fs.protocol):
        return base, {p: _size(p, source) for p in infos if not os.path.isdir(p)}
    return base, {p: int(info["size"] or 0) for p, info in infos.items() if info["type"] == "file"}


def _split_glob(fs: Any, path: str) -> tuple[str, str]:
    """Split `a/b/*.gz` into (`a/b`, `*.gz`); no pattern where there is no wildcard. A folder that is there is no
    pattern, whatever its name."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(c in part for c in "*?[") and not fs.isdir("/".join(parts[: i + 1])):
            return "/".join(parts[:i]), "/".join(parts[i:])
    return path.rstrip("/"), ""


def _escaped(path: str) -> str:
    """Return a pattern that matches `path` alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


class Reader(BaseDiskReader):
    """Reads a listing. Subclasses yield the rows of a file; what is counted, limited and rejected is decided here."""

    def __init__(self, listing: Listing, source: Source, intake: Intake) -> None:
        super().__init__(_folder(listing.root), text_key=source.text_key, id_key=source.id_key)
        self._listing, self._source, self.intake = listing, source, intake

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
        return ((file, self._rows(file)) for file in self._listing.files[rank::world_size])

    def _documents(self, share: Iterable[tuple[InputFile, Iterable[tuple[int, Any]]]]) -> Iterator[Document]:
        """Yield the documents of some files' rows, up to the limit; count all rows, and reject those without one."""
        intake, number, left = self.intake, self._listing.source, self._source.limit
        for file, rows in share:
            for row, content in rows:
                if left is not None:
                    if left == 0:
                        return
                    left -= 1
                intake.rows[number] = intake.rows.get(number, 0) + 1
                document = content if isinstance(content, str) else self._document(content, file)
                if isinstance(document, str):
                    intake.reject(number, file.name, row, document)
                else:
                    document.metadata["_row"] = (file.name, row)
                    yield document

    def _document(self, content: Any, file: InputFile) -> Document | str:
        """Return the document in a row's content, here a mapping of fields, or the reason why it has none."""
        text, identifier = content.pop(self.text_key, None), content.pop(self.id_key, None)
        if text is None:
            return f"no field '{self.text_key}'"
        if isinstance(text, bytes):  # Parquet of writers that do not mark text as such
            try:
                text = text.decode()
            except UnicodeDecodeError:
                return "not UTF-8"
        if not isinstance(text, str):
            return f"'{self.text_key}' is {type(text).__name__}, not text"
        if isinstance(identifier, bytes):
            identifier = identifier.decode("utf-8", "backslashreplace")
        elif isinstance(identifier, float | Decimal | date | UUID):
            identifier = str(identifier)
        if identifier is not None and not isinstance(identifier, str | int):
            return f"'{self.id_key}' is {type(identifier).__name__}, not text or a number"
        if "\x00" in text:
            return "NUL character"
        metadata = content | {"_source": self._listing.source}
        return Document(text=text, id="" if identifier is None else str(identifier), metadata=metadata)

    def _rows(self, file: InputFile) -> Iterator[tuple[int, Any]]:
        """Yield (row from 0, its content or, as a string, the reason why it has none) for each row of a file."""
        raise NotImplementedError

    def read_file(self, filepath: str) -> Any:
        """Unused: `run` goes through the listing."""
        raise NotImplementedError


def _folder(root: str) -> Any:
    """Return a listing's root as datatrove takes it; a local path with its file system, or `::` would divide it."""
    return root if storage.is_url(root) else (storage.local_path(root), fsspec.filesystem("file"))
