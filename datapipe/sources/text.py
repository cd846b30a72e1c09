"""Readers of text: JSON lines, Parquet, text files, Python source, data sets of a hub."""

import codecs
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
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
                        if row == 0:
                            line = line.removeprefix(codecs.BOM_UTF8)
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
    """Reads Parquet: only the columns of text and id, unless there are filters, which may look at others."""

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
                used = [c for c in table.schema_arrow.names if c in (self.text_key, self.id_key)]
                total = max(table.metadata.num_rows, 1)
                for batch in table.iter_batches(1024, columns=None if self._all_columns else used):
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
                yield 0, {self.text_key: f.read().removeprefix(codecs.BOM_UTF8).decode(), self.id_key: file.name}
        except UnicodeDecodeError:
            yield 0, "not UTF-8"
        except (OSError, EOFError) as error:
            yield 0, f"unreadable ({type(error).__name__})"
        self.intake.bytes_read += file.size


class HubReader(Reader):
    """Reads a data set by its name, through datatrove's reader."""

    name = "hub"

    def _share(self, rank: int, world_size: int) -> Iterable[tuple[InputFile, Iterable[tuple[int, Any]]]]:
        """Return the one file that stands for the data set, with every world_size-th row of it."""
        return [(self._listing.files[0], self._every_nth_row(rank, world_size))]

    def _every_nth_row(self, rank: int, world_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        from datatrove.pipeline.readers import HuggingFaceDatasetReader

        batch: list[dict[str, Any]] = []

        def keep(reader: Any, fields: dict[str, Any], path: str, number: str) -> dict[str, Any]:
            """Set a row aside as it came. The answer has a text because datatrove counts and skips what has none."""
            batch.append(fields)
            return {"text": "a row", "id": ""}

        source, numbers = self._source, itertools.count(rank, world_size)
        options = {"split": source.split} | ({"name": source.subset} if source.subset else {})
        reader = HuggingFaceDatasetReader(str(source.path), options, adapter=keep)
        for _ in reader.run(rank=rank, world_size=world_size):
            for fields, number in zip(batch, numbers, strict=False):  # in this order no number is lost between batches
                yield number, fields
            batch.clear()
