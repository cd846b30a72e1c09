"""The reader of Parquet files of text."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from ...common.unpack import MOST_BYTES, DamagedError, foreign
from ...shards.arrow import ONE_THREAD
from .base import Reader
from .listing import InputFile

BATCH_ROWS, BATCH_BYTES = 64, 64 << 20
"""Rows read at once, and about how many bytes of them."""


class ParquetReader(Reader):
    """Reads Parquet: only the columns of text and id and those that are kept or that a condition names, unless there
    are filters, which may look at others."""

    name = "Parquet"

    _columns: Sequence[str] = ()

    def _rows(self, file: InputFile) -> Generator[tuple[int, dict[str, Any] | str], None, None]:
        import pyarrow as pa

        before, row = self.intake.bytes_read, 0
        with self._opened(file) as f:
            try:
                table = _opened(f)
                self._columns = table.schema_arrow.names
                total = max(table.metadata.num_rows, 1)
                for batch in _batches(table, f, self._used(table)):
                    try:
                        for fields in _batch_rows(batch):
                            row += 1
                            yield row - 1, fields
                    finally:  # also where only the first rows are asked for
                        self.intake.bytes_read = before + file.size * row // total
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # of the disk or the network
                    raise
                raise DamagedError("is damaged or encrypted: its columns cannot be read") from None
        self.intake.bytes_read = before + file.size

    def _used(self, table: Any) -> list[str] | None:
        """Return the columns to read, None for all."""
        if self._all_columns:
            return None
        names = self._columns
        paths = {key: key if key in names else key.partition(".")[0] for key in self._keys}
        twice = next((key for key in self._keys if names.count(paths[key]) > 1), None)
        if twice is not None:
            raise DamagedError(f"has two columns named '{paths[twice]}': give each its own name")
        return [key for key in self._keys if paths[key] in names]

    @property
    def _keys(self) -> list[str]:
        named = self._condition.columns if self._source.where is not None else []
        return list(dict.fromkeys([self.text_key, self.id_key, *self._keep, *named]))

    def _fields(self, content: Any) -> Iterable[str]:
        return self._columns


def _opened(file: Any) -> Any:
    """Return the table in a file. Raises DamagedError when there is none."""
    import pyarrow.parquet as pq

    head = file.read(512)
    what = foreign(head, markup=True)
    if not head.startswith((b"PAR1", b"PARE")):
        raise DamagedError(f"is {what}" if what else "is no Parquet file" if head else "holds 0 bytes")
    file.seek(-4, 2)
    end = file.read(4)
    if end not in (b"PAR1", b"PARE"):
        raise DamagedError("ends early")
    if b"PARE" in (head[:4], end):
        raise DamagedError("is encrypted")
    file.seek(0)
    return pq.ParquetFile(file)


def _batches(table: Any, file: Any, columns: list[str] | None) -> Iterator[Any]:
    """Yield the rows of a table, few at once where they are long: a small file may stand for very much text."""
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        used = [c for c in chunks if columns is None or _belongs(c.path_in_schema, columns)]
        longest = sum(c.total_uncompressed_size for c in used) // max(group.num_rows, 1)
        longest = max([longest, *(_dictionary_bytes(file, c) for c in used)])
        if longest > MOST_BYTES:
            raise DamagedError(f"has values of more than {MOST_BYTES >> 20:,} MiB")
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(longest, 1)))
        yield from table.iter_batches(rows, row_groups=[number], columns=columns, **ONE_THREAD)


def _belongs(path: str, columns: list[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def _dictionary_bytes(file: Any, chunk: Any) -> int:
    """Return the size of a column chunk's dictionary, unpacked: each row may stand for the longest value in it."""
    if "BYTE_ARRAY" not in chunk.physical_type:
        return 0
    file.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
    kind, size = _page_header(file.read(32))
    return size if kind == _DICTIONARY_PAGE else 0


_DICTIONARY_PAGE = 2


def _page_header(data: bytes) -> tuple[int, int]:
    """Return type and unpacked size of a page, the first two fields of its header (Thrift's compact protocol: a byte
    for the field, then a zigzag number of 7 bits a byte)."""
    numbers, at = [], 0
    for _ in range(2):
        value = shift = 0
        at += 1
        while at < len(data) and data[at] >= 128:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
        if at >= len(data):
            raise DamagedError("is damaged: a page has no header")
        numbers.append((value | data[at] << shift) >> 1)
        at += 1
    return numbers[0], numbers[1]


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a record batch; where one holds what Python cannot hold, only that one is lost."""
    if not batch.num_columns:
        yield from ({} for _ in range(batch.num_rows))
        return
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not UTF-8"
            except (ValueError, OverflowError):
                yield "a time or number that Python cannot hold"
