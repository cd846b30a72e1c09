"""A flat file of token ids, as nanoGPT and the like map it: `train.bin`, little-endian uint16 (or uint32)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...common.publish import Sink
from ..manifest import Manifest
from .rows import Rows, Tokens

NAME = "train.bin"

_TOKENS_AT_ONCE = 1 << 22


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest) -> None:
    """Write the tokens of `rows` as the subset's dtype."""
    with sink.create(NAME) as file:
        for block in rows:
            file.write(np.ascontiguousarray(block.flat(), np.dtype(subset.dtype).newbyteorder("<")).data)


def read(file: Any, dtype: str, n_bytes: int | None = None) -> Iterator[Tokens]:
    """Yield the ids in the next `n_bytes` of an opened file (all by default), some millions at a time.

    Raises ValueError when it ends inside an id.
    """
    width = np.dtype(dtype).itemsize
    left = n_bytes if n_bytes is not None else 1 << 62
    while left and (data := file.read(min(left, _TOKENS_AT_ONCE * width))):
        if len(data) % width:
            raise ValueError(f"its size is no multiple of {width} bytes")
        left -= len(data)
        yield np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
