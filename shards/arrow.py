"""Arrow columns from plain values, and back, without `pyarrow.array` and `to_numpy`: they import pandas, which takes a
quarter of a second in every process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ONE_THREAD: dict[str, Any] = {"use_threads": False}
"""For what is read through a file of Python's: where one of Arrow's threads still holds it as the process ends, the
process is aborted, its work done (seen once; apache/arrow issue 34314)."""


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column of `values`, none of them null: strings, bytes, or numbers."""
    if pa.types.is_string(kind):
        return strings(values)
    if pa.types.is_binary(kind):
        return _of_bytes(values, kind)
    return numbers(np.array(values, kind.to_pandas_dtype()))


def numbers(values: NDArray[Any]) -> pa.Array:
    """Return a column of the numbers of a one-dimensional array."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values).data)]
    )


def nullable(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column of `values`, None for null: strings, true and false, floats, or integers, which a date or a time
    is counted in."""
    there = np.array([value is not None for value in values], np.bool_)
    validity = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little").data)
    if pa.types.is_string(kind):
        data = strings(["" if value is None else value for value in values]).buffers()[1:]
    else:
        dtype = (
            "?" if pa.types.is_boolean(kind) else f"{'f' if pa.types.is_floating(kind) else 'i'}{kind.bit_width // 8}"
        )
        filled = np.array([0 if value is None else value for value in values], dtype)
        data = [pa.py_buffer((np.packbits(filled, bitorder="little") if dtype == "?" else filled).data)]
    return pa.Array.from_buffers(kind, len(values), [validity, *data])


def keys(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 16-byte keys, big-endian uint64 (n, 2), from their halves."""
    return np.stack([hi, lo], axis=1).astype(">u8")


def binary(rows: NDArray[Any]) -> pa.Array:
    """Return a column of the bytes of each row of a two-dimensional array; together less than 2 GB. Not of fixed size,
    though all are as long: `datasets` does not read that type."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1] * rows.itemsize)
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(rows.tobytes())])


def strings(values: Sequence[str | bytes]) -> pa.Array:
    """Return a column of strings, given as such or in UTF-8; together less than 2 GB."""
    return _of_bytes([value.encode() if isinstance(value, str) else value for value in values], pa.string())


def _of_bytes(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """Return a column of type `kind` (string, binary) of bytes."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.data), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def joined_strings(data: bytes, lengths: NDArray[np.integer[Any]]) -> pa.Array:
    """Return a column of strings whose UTF-8 lies one after the other in `data`, less than 2 GB."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.string(), len(lengths), [None, pa.py_buffer(offsets.data), pa.py_buffer(data)])


def chosen(indices: NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    """Return a column of `names[i]` for each i of `indices`, as plain strings."""
    texts = [name.encode() for name in names]
    data = np.array(texts, object)[indices.astype(np.int64)]
    return joined_strings(b"".join(data), np.array(list(map(len, texts)))[indices.astype(np.int64)])


def dictionary(indices: NDArray[Any], names: Sequence[str]) -> pa.Array:
    """Return a column of `names[i]` for each i of `indices`, each name stored once: dictionary-encoded, int32."""
    return pa.DictionaryArray.from_arrays(numbers(indices.astype(np.int32)), strings(names))


def integers(chunked: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return an int64 column without nulls as an array."""
    return array(chunked).astype(np.int64, copy=False)


def array(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of integers or floats as an array of its type; of one that is in chunks it is a copy.

    Raises:
        ValueError: for a column with nulls.
    """
    if column.null_count:
        raise ValueError(f"a column of {column.type} holds {column.null_count:,} nulls")
    dtype = np.dtype(column.type.to_pandas_dtype())
    if isinstance(column, pa.ChunkedArray):
        return np.concatenate([np.zeros(0, dtype), *map(array, column.chunks)])
    if not len(column):
        return np.zeros(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, len(column), dtype.itemsize * column.offset)
