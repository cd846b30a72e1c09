"""Readers of text: JSON lines, Parquet, text files, Python source, data sets of a hub."""

import io
import itertools
from collections.abc import Iterator
from typing import Any

import orjson
from datatrove.data import Document
from fsspec.compression import compr
from fsspec.utils import infer_compression

from ..config import Source
from .base import InputFile, Intake, Listing, Reader


class JsonlReader(Reader):
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


class ParquetReader(Reader):
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


class TextReader(Reader):
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


class HubReader(Reader):
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
