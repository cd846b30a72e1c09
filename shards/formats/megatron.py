"""Megatron-LM's indexed dataset: `<prefix>.bin`, the ids of all sequences, and `<prefix>.idx`, where each lies.

    idx   "MMIDIDX\\0\\0" | version 1: u64 | dtype code: u8 | sequences: u64 | document bounds: u64
          | lengths: i32[sequences] | byte offsets: i64[sequences] | document bounds: i64[documents + 1]

A document is the sequences from one bound to the next. Here every document is one sequence, EOD included.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError
from ...common.publish import Sink
from ..manifest import Manifest
from .rows import Block, Part, Rows, Stretch, Tokens

ENDING = ".bin"
PREFIX = "text_document"
MAGIC = b"MMIDIDX\x00\x00"
CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""Megatron's codes of integer types. There is no uint32: larger vocabularies are written as int32."""

HEADER_BYTES = len(MAGIC) + 8 + 1 + 8 + 8
_AT_ONCE = 1 << 16
_MOST_TOKENS = 2**31 - 1


def rows_per_file(subset: Manifest) -> None:
    """Return None: all rows are in one file."""


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
    """Write `rows` as one sequence a document or, by row, one a row. Memory does not grow with the documents."""
    dtype = "uint16" if subset.dtype == "uint16" else "int32"
    with tempfile.TemporaryFile() as lengths:
        with sink.create(f"{PREFIX}.bin") as file:
            open_tokens = 0
            for block in rows:
                tokens = block.flat()
                file.write(np.ascontiguousarray(tokens, np.dtype(dtype).newbyteorder("<")).data)
                if stretch.by_row:
                    lengths.write(block.lengths.astype("<i4").data)
                else:
                    found, open_tokens = _document_lengths(tokens, subset.tokenizer.eod, open_tokens)
                    lengths.write(found.astype("<i4").data)
            if open_tokens:
                lengths.write(np.array([open_tokens], "<i4").data)
        _write_index(sink, lengths, dtype)


def _document_lengths(tokens: Tokens, eod: int, begun: int) -> tuple[NDArray[np.int64], int]:
    """Return the lengths of the documents that end in `tokens`, and how much of the next one is there.

    begun: tokens of the first document that came before. Raises RequestError for one of 2**31 tokens or more.
    """
    ends = np.flatnonzero(tokens == eod) + 1
    rest = len(tokens) - int(ends[-1]) if len(ends) else begun + len(tokens)
    lengths = np.diff(ends, prepend=-begun) if len(ends) else np.zeros(0, np.int64)
    if max(rest, int(lengths.max(initial=0))) > _MOST_TOKENS:
        raise RequestError("a document has more than 2**31 - 1 tokens: Megatron's index cannot hold it")
    return lengths, rest


def _write_index(sink: Sink, lengths: Any, dtype: str) -> None:
    n = lengths.tell() // 4
    code = next(code for code, name in CODES.items() if name == dtype)
    with sink.create(f"{PREFIX}.idx") as file:
        file.write(MAGIC + np.uint64(1).tobytes() + bytes([code]) + np.array([n, n + 1], "<u8").tobytes())
        for part in _parts(lengths):
            file.write(part.data)
        start = 0
        for part in _parts(lengths):
            ends = start + np.cumsum(part, dtype=np.int64) * np.dtype(dtype).itemsize
            file.write(np.concatenate([[start], ends[:-1]]).astype("<i8").data)
            start = int(ends[-1])
        for begin in range(0, n + 1, _AT_ONCE):
            file.write(np.arange(begin, min(begin + _AT_ONCE, n + 1), dtype="<i8").data)


def _parts(lengths: Any) -> Iterator[NDArray[np.int32]]:
    lengths.seek(0)
    while data := lengths.read(_AT_ONCE * 4):
        yield np.frombuffer(data, "<i4")


@dataclass(frozen=True)
class Index:
    """The header of an .idx file: type of the ids, number of sequences and of documents."""

    dtype: str
    sequences: int
    documents: int


def read_index(file: Any) -> Index:
    """Return the header of an opened .idx file.

    Raises:
        ValueError: when it is none.
    """
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:9] != MAGIC or int.from_bytes(head[9:17], "little") != 1:
        raise ValueError("it is no index of Megatron-LM (version 1)")
    if head[17] not in CODES:
        raise ValueError(f"its ids are of type {head[17]}, which is no integer type")
    sequences, bounds = np.frombuffer(head[18:], "<u8").tolist()
    if bounds < 1 or (bounds == 1 and sequences):
        raise ValueError(_NOT_COVERED)
    return Index(CODES[head[17]], sequences, bounds - 1)


def index_path(path: str) -> str:
    """Return where the index of the .bin file at `path` lies."""
    return f"{path.removesuffix(ENDING)}.idx"


def read(path: str, part: Part) -> Iterator[Block]:
    """Yield the ids and lengths of the documents in the .bin file at `path`, some documents at a time.

    Raises:
        ValueError: where it and its index do not fit together: every byte of the .bin must belong to one sequence, in
            order.
    """
    with storage.open_read(path, part.size) as data, storage.open_read(index_path(path)) as index:
        yield from _read(data, index, part.start, part.stop)


def _read(data: Any, index: Any, first: int, stop: int | None) -> Iterator[Block]:
    index.seek(0)
    header = read_index(index)
    stop = header.documents if stop is None else stop
    width = np.dtype(header.dtype).itemsize
    starts_at = HEADER_BYTES + 4 * header.sequences
    bounds_at = starts_at + 8 * header.sequences
    bound = int(_read_array(index, bounds_at + 8 * first, 1, "<i8")[0])
    begins = 0 < bound < header.sequences
    position = int(_read_array(index, starts_at + 8 * bound, 1, "<i8")[0]) if begins else 0
    data.seek(position)
    for begin in range(first, stop, _DOCUMENTS_AT_ONCE):
        n_bounds = min(_DOCUMENTS_AT_ONCE, stop - begin) + 1
        span = _read_array(index, bounds_at + 8 * begin, n_bounds, "<i8")
        if span[0] != bound or (np.diff(span) < 0).any() or (begin == 0 and bound):
            raise ValueError(_NOT_COVERED)
        bound = int(span[-1])
        n = bound - int(span[0])
        lengths = _read_array(index, HEADER_BYTES + 4 * int(span[0]), n, "<i4").astype(np.int64)
        starts = _read_array(index, starts_at + 8 * int(span[0]), n, "<i8")
        ends = position + np.cumsum(lengths) * width
        if (lengths < 0).any() or not np.array_equal(starts, ends - lengths * width):
            raise ValueError("its sequences do not follow each other")
        size = int(lengths.sum()) * width
        chunk = data.read(size)
        if len(chunk) != size:
            raise ValueError("the .bin file is shorter than its index says")
        position += size
        cumulated = np.concatenate([[0], np.cumsum(lengths)])
        yield np.frombuffer(chunk, np.dtype(header.dtype).newbyteorder("<")), np.diff(cumulated[span - span[0]])
    if stop < header.documents:
        return
    if bound != header.sequences:
        raise ValueError(_NOT_COVERED)
    if data.read(1):
        raise ValueError("the .bin file is longer than its index says")


_DOCUMENTS_AT_ONCE = 4096
_NOT_COVERED = "its document bounds do not cover its sequences"


def _read_array(file: Any, offset: int, n: int, dtype: str) -> NDArray[Any]:
    file.seek(offset)
    size = n * np.dtype(dtype).itemsize
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the index is shorter than its header says")
    return np.frombuffer(data, dtype)
