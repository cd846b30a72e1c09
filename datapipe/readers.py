"""Readers: datatrove's, made to account for every row. A row that cannot be used is a reject with a reason, never a
silent skip, and what a reader yields does not depend on how many tasks there are.
"""

import hashlib
import io
import itertools
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec
import orjson
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader
from fsspec.compression import compr
from fsspec.utils import infer_compression

from ..common import storage
from ..common.errors import RequestError
from .config import Source, TokenizerChoice


@dataclass(frozen=True)
class InputFile:
    """One file to read: `path` relative to its listing's root, `name` as it appears in ids and rejects.

    start: where the part that is meant begins, for files that are divided (in bytes; documents for Megatron-LM's).
    """

    path: str
    name: str
    size: int
    start: int = 0


@dataclass(frozen=True)
class Listing:
    """The files of a source below one root (path or URL), in order of name."""

    source: int
    root: str
    files: list[InputFile]


@dataclass
class Intake:
    """What a task has read: rows by source, bytes, rejects by reason, and those not yet written to its table, each
    (source, file, row from 0, reason)."""

    rows: dict[int, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, str, int, str]] = field(default_factory=list)
    bytes_read: int = 0

    def reject(self, source: int, file: str, row: int, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.rejects.append((source, file, row, reason))


def list_source(number: int, source: Source) -> list[Listing]:
    """Return the listings of a source. Raises RequestError when it has no file."""
    if source.tokenized is not None:
        from .tokenized import list_tokenized

        listings = [list_tokenized(number, source)]
    elif source.format == "hub":
        listings = [Listing(number, str(source.path), [InputFile(str(source.path), str(source.path), 0)])]
    elif source.format == "python":
        listings = [_python_listing(number, label, root) for label, root in _python_roots()]
    else:
        listings = [list_files(number, source)]
    chosen = [Listing(item.source, item.root, [f for f in item.files if _chosen(f, source)]) for item in listings]
    if not any(item.files for item in chosen):
        raise RequestError(f"source '{source.name}': no file at {source.path or 'this Python'} (or none is chosen)")
    return chosen


def _chosen(file: InputFile, source: Source) -> bool:
    if source.max_bytes is not None and file.size > source.max_bytes:
        return False
    draw = int.from_bytes(hashlib.blake2b(file.name.encode(), digest_size=8).digest(), "big")
    return draw < source.fraction * 2**64


def list_files(number: int, source: Source) -> Listing:
    """Return the files at a source's path. Raises RequestError when there is none."""
    assert source.path is not None
    if storage.is_url(source.path):
        storage.filesystem(source.path.partition("://")[0].rpartition("::")[2])
    try:
        fs, path = fsspec.core.url_to_fs(os.path.expanduser(source.path))
        base, pattern = _split_glob(path)
        if pattern:
            found = fs.glob(f"{base}/{pattern}", detail=True)
        elif fs.isfile(path):
            base, found = path.rpartition("/")[0], {path: fs.info(path)}
        else:
            found = fs.find(path, detail=True)
    except (ImportError, ValueError) as error:
        raise RequestError(f"source '{source.name}': cannot open {source.path}: {error}") from None
    except FileNotFoundError:
        found = {}
    if not found:
        raise RequestError(f"source '{source.name}': {source.path} does not exist or holds no file")
    names = {p: p.removeprefix(base).lstrip("/") for p, info in found.items() if info["type"] == "file"}
    names = {p: n for p, n in names.items() if not any(part.startswith(".") for part in n.split("/"))}
    files = [InputFile(n, n, int(found[p]["size"] or 0)) for p, n in names.items()]
    return Listing(number, str(fs.unstrip_protocol(base)), sorted(files, key=lambda f: f.name))


def _split_glob(path: str) -> tuple[str, str]:
    """Split `a/b/*.gz` into (`a/b`, `*.gz`); no pattern when there is no wildcard."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
    return (path.rstrip("/"), "") if first is None else ("/".join(parts[:first]), "/".join(parts[first:]))


def _python_roots() -> list[tuple[str, str]]:
    paths = sysconfig.get_paths()
    return [("stdlib", paths["stdlib"]), ("site-packages", paths["purelib"])]


def _python_listing(number: int, label: str, root: str) -> Listing:
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [d for d in folders if d not in ("__pycache__", "site-packages") and not d.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and not os.path.islink(path):
                relative = os.path.relpath(path, root).replace(os.sep, "/")
                files.append(InputFile(relative, f"{label}/{relative}", os.path.getsize(path)))
    return Listing(number, f"file://{root}", sorted(files, key=lambda f: f.name))


class _Reader(BaseDiskReader):
    """Reads a listing. Subclasses yield (row, fields or a reason why there are none) for each row of a file."""

    def __init__(self, listing: Listing, source: Source, intake: Intake) -> None:
        super().__init__(listing.root, text_key=source.text_key, id_key=source.id_key)
        self._listing, self._source, self.intake = listing, source, intake

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield earlier readers' documents, then this rank's share: every world_size-th file, or, with a limit, all of
        them for one rank only, so that the first rows are the same whatever the number of tasks."""
        if data:
            yield from data
        if self._source.limit is None:
            yield from self._documents(self._listing.files[rank::world_size])
        elif rank == self._listing.source % world_size:
            yield from self._documents(self._listing.files)

    def _documents(self, files: list[InputFile]) -> Iterator[Document]:
        intake, number, left = self.intake, self._listing.source, self._source.limit
        for file in files:
            for row, fields in self._rows(file):
                if left is not None:
                    if left == 0:
                        return
                    left -= 1
                intake.rows[number] = intake.rows.get(number, 0) + 1
                document = fields if isinstance(fields, str) else self._document(fields, file)
                if isinstance(document, str):
                    intake.reject(number, file.name, row, document)
                else:
                    yield document

    def _document(self, fields: dict[str, Any], file: InputFile) -> Document | str:
        """Return the document in a row's fields, or the reason why it has none."""
        text, identifier = fields.pop(self.text_key, None), fields.pop(self.id_key, None)
        if text is None:
            return f"no field '{self.text_key}'"
        if not isinstance(text, str):
            return f"'{self.text_key}' is {type(text).__name__}, not text"
        if identifier is not None and not isinstance(identifier, str | int):
            return f"'{self.id_key}' is {type(identifier).__name__}, not text or a number"
        if "\x00" in text:
            return "NUL character"
        metadata = fields | {"_source": self._listing.source}
        return Document(text=text, id="" if identifier is None else str(identifier), metadata=metadata)

    def _rows(self, file: InputFile) -> Iterator[tuple[int, dict[str, Any] | str]]:
        raise NotImplementedError

    def read_file(self, filepath: str) -> Any:
        """Unused: `run` goes through the listing."""
        raise NotImplementedError


class JsonlReader(_Reader):
    """Reads JSON lines, plain or compressed as the file's name says."""

    name = "JSONL"

    def _rows(self, file: InputFile) -> Iterator[tuple[int, dict[str, Any] | str]]:
        before, row = self.intake.bytes_read, 0
        kind = infer_compression(file.path)
        with self.data_folder.open(file.path, "rb") as raw:
            try:
                lines = io.BufferedReader(compr[kind](raw, mode="rb")) if kind else raw
                for line in lines:
                    if row % 64 == 0:  # asking takes as long as reading a short line
                        self.intake.bytes_read = before + raw.tell()
                    if not line.isspace():
                        fields = _parse(line)
                        del line  # it may be long
                        yield row, fields
                        del fields
                    row += 1
            except (OSError, EOFError, ValueError) as error:
                yield row, f"unreadable from here on ({type(error).__name__})"
        self.intake.bytes_read = before + file.size


def _parse(line: bytes) -> dict[str, Any] | str:
    """Return the object in a line, or the reason why there is none."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError:
            return "not UTF-8"
        return "lone surrogate" if "surrogate" in str(error) else "bad JSON"
    return value if isinstance(value, dict) else "not a JSON object"


class ParquetReader(_Reader):
    """Reads Parquet, only the columns that are wanted unless filters may look at others."""

    name = "Parquet"

    def __init__(self, listing: Listing, source: Source, intake: Intake, all_columns: bool) -> None:
        super().__init__(listing, source, intake)
        self._all_columns = all_columns

    def _rows(self, file: InputFile) -> Iterator[tuple[int, dict[str, Any] | str]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        before, row = self.intake.bytes_read, 0
        with self.data_folder.open(file.path, "rb") as f:
            try:
                table = pq.ParquetFile(f)
                wanted = [c for c in table.schema_arrow.names if c in (self.text_key, self.id_key)]
                total = max(table.metadata.num_rows, 1)
                for batch in table.iter_batches(1024, columns=None if self._all_columns else wanted):
                    for fields in _parquet_rows(batch):
                        yield row, fields
                        row += 1
                    self.intake.bytes_read = before + file.size * row // total
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                yield row, f"unreadable from here on ({type(error).__name__})"
        self.intake.bytes_read = before + file.size


def _parquet_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a record batch; where one holds bytes that are no UTF-8, only that one is lost."""
    if not batch.num_columns:
        yield from ({} for _ in range(batch.num_rows))
        return
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not UTF-8"


class TextReader(_Reader):
    """Reads each file as one document whose id is its name."""

    name = "text files"

    def _rows(self, file: InputFile) -> Iterator[tuple[int, dict[str, Any] | str]]:
        try:
            with self.data_folder.open(file.path, "rb", compression=infer_compression(file.path)) as f:
                yield 0, {self.text_key: f.read().decode(), self.id_key: file.name}
        except UnicodeDecodeError:
            yield 0, "not UTF-8"
        except (OSError, EOFError) as error:
            yield 0, f"unreadable ({type(error).__name__})"
        self.intake.bytes_read += file.size


class HubReader(_Reader):
    """Reads a data set by its name, through datatrove's reader: every world_size-th row for each rank."""

    name = "hub"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield earlier readers' documents, then this rank's rows; see `_Reader.run`."""
        from datatrove.pipeline.readers import HuggingFaceDatasetReader

        if data:
            yield from data
        file, source = self._listing.files[0], self._source
        if source.limit is not None:
            if rank != self._listing.source % world_size:
                return
            rank, world_size = 0, 1
        taken: list[Document] = []
        seen = itertools.count()

        def account(reader: Any, fields: dict[str, Any], path: str, number: str) -> dict[str, Any]:
            """Do what `_documents` does; datatrove skips the row that we answer with nothing."""
            row = rank + next(seen) * world_size
            self.intake.rows[self._listing.source] = self.intake.rows.get(self._listing.source, 0) + 1
            document = self._document(fields, file)
            if isinstance(document, str):
                self.intake.reject(self._listing.source, file.name, row, document)
                return {"text": ""}
            taken.append(document)
            return {"text": document.text, "id": document.id}

        options = {"split": source.split} | ({"name": source.subset} if source.subset else {})
        reader = HuggingFaceDatasetReader(str(source.path), options, limit=source.limit or -1, adapter=account)
        for _ in reader.run(rank=rank, world_size=world_size):
            yield from taken
            taken.clear()
        yield from taken


def make_reader(
    listing: Listing, source: Source, intake: Intake, all_columns: bool, tokenizer: TokenizerChoice
) -> _Reader:
    """Return the pipeline step that reads `listing`."""
    if source.tokenized is not None:
        from .tokenized import TokenizedReader

        return TokenizedReader(listing, source, intake, tokenizer)
    if source.format == "hub":
        return HubReader(listing, source, intake)
    if source.format == "parquet":
        return ParquetReader(listing, source, intake, all_columns)
    return (JsonlReader if source.format == "jsonl" else TextReader)(listing, source, intake)
