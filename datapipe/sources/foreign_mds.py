"""MDS shards that others wrote: any columns, one of which holds token ids, and is all that is read of a sample.

streaming's own reader decodes every column of a sample, and one that is encoded as `pkl` runs whatever it holds. Such
shards are refused by what their index says, before one is opened.
"""

import itertools
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError
from ...common.json_text import strict_json

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ARRAY = re.compile(r"ndarray(:u?int(8|16|32|64)(:[1-9][0-9]{0,9})?)?")


@dataclass(frozen=True)
class ForeignShard:
    """What the index says of a shard: its file's name and bytes, its samples, and of each column name, encoding and
    size in bytes, None where it differs by sample."""

    name: str
    bytes: int
    samples: int
    columns: tuple[tuple[str, str, int | None], ...]


def read_index(root: str, source: str, column: str, dtype: str | None) -> list[ForeignShard]:
    """Return the shards of the index.json in the folder `root` (path or URL).

    Args:
        source: names it in messages.
        column: that holds token ids, as arrays of integers, or as bytes of `dtype`.

    Raises:
        RequestError: when there is none, or one that says what is not read: compressed shards, pickles, other columns.
    """
    try:
        entries = strict_json(storage.read_bytes(storage.join(root, "index.json")))["shards"]
        shards = [_shard(entry, source) for entry in entries]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(f"source '{source}': {root} has no index.json of MDS shards") from None
    for shard in shards:
        pickled = next((name for name, encoding, _ in shard.columns if encoding.partition(":")[0] == "pkl"), None)
        if pickled is not None:
            raise RequestError(
                f"source '{source}': column '{pickled}' of {shard.name} holds pickles, which can run code: write the "
                "shards anew without it"
            )
        encoding = _encoding(shard, column)
        if not (_ARRAY.fullmatch(encoding) or (encoding == "bytes" and dtype)):
            raise RequestError(
                f"source '{source}': column '{column}' of {shard.name} holds no arrays of ids (for a column of bytes "
                "say tokenized.dtype)"
            )
    return shards


def _encoding(shard: ForeignShard, column: str) -> str:
    return next((encoding for name, encoding, _ in shard.columns if name == column), "")


def _shard(entry: Any, source: str) -> ForeignShard:
    name, size, samples = entry["raw_data"]["basename"], entry["raw_data"]["bytes"], entry["samples"]
    if entry.get("zip_data") is not None or not _NAME.fullmatch(name):
        shown = name[:100] if name.isprintable() else "a shard"
        raise RequestError(f"source '{source}': {shown} is compressed or lies elsewhere: decompress it there")
    names, encodings, sizes = (entry[f"column_{kind}"] for kind in ("names", "encodings", "sizes"))
    columns = tuple(zip(names, encodings, sizes, strict=True))
    whole = all(type(n) is int and n >= 0 for n in (size, samples))
    if entry["version"] != 2 or entry["format"] != "mds" or not whole or not all(map(_is_column, columns)):
        raise ValueError("not an entry of MDS")
    return ForeignShard(name, size, samples, columns)


def _is_column(column: tuple[Any, Any, Any]) -> bool:
    name, encoding, size = column
    fixed = size is None or (type(size) is int and size >= 0)
    return isinstance(name, str) and isinstance(encoding, str) and fixed


def read_ids(root: str, shard: ForeignShard, column: str, dtype: str | None) -> Iterator[NDArray[Any]]:
    """Yield the ids of each sample of a shard in the local folder `root`; `column` and `dtype` as in `read_index`.

    Raises:
        ValueError: when the file is no whole shard.
    """
    encoding = _encoding(shard, column)
    with open(os.path.join(storage.local_path(root), shard.name), "rb") as file:
        for begin, end in _spans(file, shard.samples):
            file.seek(begin)
            value = _value(file.read(end - begin), shard, column)
            yield _array(encoding, value) if encoding != "bytes" else _plain(value, np.dtype(dtype))


def _plain(value: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the ids in a column of bytes. Raises ValueError when they are of another type."""
    if len(value) % dtype.itemsize:
        raise ValueError(f"a sample in it has {len(value):,} bytes of ids, no multiple of {dtype.itemsize}")
    ids = np.frombuffer(value, dtype.newbyteorder("<"))
    if are_wider(ids):
        raise ValueError(f"a sample in it has 0 as every second id: its ids are wider than {dtype.name}")
    return ids


def are_wider(ids: NDArray[Any]) -> bool:
    """Return whether numbers show that they are halves of wider ones."""
    return len(ids) >= 8 and not ids[1::2].any() and bool(ids.any())


def _spans(file: IO[bytes], samples: int) -> Iterator[tuple[int, int]]:
    """Yield where each sample begins and ends."""
    size = file.seek(0, 2)
    file.seek(0)
    held = int.from_bytes(file.read(4), "little")
    offsets = np.frombuffer(file.read(4 * (held + 1)), "<u4") if 4 * (held + 2) <= size else np.zeros(0, "<u4")
    if samples > held or len(offsets) != held + 1 or offsets[-1] > size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("it is no whole MDS shard")
    bounds = offsets[: samples + 1].tolist()
    yield from itertools.pairwise(bounds)


def _value(sample: bytes, shard: ForeignShard, column: str) -> bytes:
    """Return the bytes of one column of a sample, which begins with the sizes of those that have none in the index."""
    sizes, start = [], 0
    for _, _, size in shard.columns:
        if not size:
            size, start = int.from_bytes(sample[start : start + 4], "little"), start + 4
        sizes.append(size)
    if start + sum(sizes) != len(sample):
        raise ValueError("a sample in it is not as long as it says")
    which = [name for name, _, _ in shard.columns].index(column)
    start += sum(sizes[:which])
    return sample[start : start + sizes[which]]


_CODES = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8"}


def _array(encoding: str, value: bytes) -> NDArray[Any]:
    """Return a list of integers as streaming's `ndarray` encodes it: type and shape come first, as far as the encoding
    does not say them."""
    _, *said = encoding.split(":")
    try:
        dtype = np.dtype(said[0]).newbyteorder("<") if said else np.dtype(_CODES[value[0]])
        value = value if said else value[1:]
        if said[1:]:
            length = int(said[1])
        else:
            dimensions, width = value[0] >> 2, 1 << (value[0] & 3)
            length = struct.unpack_from(f"<{'BHIQ'[value[0] & 3]}", value, 1)[0]
            value = value[1 + dimensions * width :]
            if dimensions != 1:
                raise ValueError("an array in it has more than one dimension")
    except (LookupError, struct.error):
        raise ValueError("an array in it is damaged, or of no integers") from None
    if len(value) != length * dtype.itemsize:
        raise ValueError("an array in it is cut short")
    return np.frombuffer(value, dtype)
