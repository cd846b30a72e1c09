"""A flat file of token ids, as nanoGPT and the like map it: `train.bin`, little-endian uint16 (or uint32)."""

from collections.abc import Iterable, Iterator

import numpy as np

from ...common import storage
from ...common.publish import Sink
from ..manifest import Manifest
from .rows import Block, Part, Rows, Stretch

ENDING = ".bin"
NAME = "train.bin"

_TOKENS_AT_ONCE = 1 << 22


def rows_per_file(subset: Manifest) -> None:
    """Return None: all rows are in one file."""


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
    """Write the tokens of `rows` as the subset's dtype."""
    with sink.create(NAME) as file:
        for block in rows:
            file.write(np.ascontiguousarray(block.flat(), np.dtype(subset.dtype).newbyteorder("<")).data)


def read(path: str, part: Part) -> Iterator[Block]:
    """Yield the ids in a file, some millions at a time.

    Raises:
        ValueError: when it ends inside an id.
    """
    width = np.dtype(part.dtype).itemsize
    left = 1 << 62 if part.stop is None else part.stop - part.start
    with storage.open_read(path, part.size) as file:
        file.seek(part.start)
        while left and (data := file.read(min(left, _TOKENS_AT_ONCE * width))):
            if len(data) % width:
                raise ValueError(f"its size is no multiple of {width} bytes")
            left -= len(data)
            ids = np.frombuffer(data, np.dtype(part.dtype).newbyteorder("<"))
            yield ids, np.array([len(ids)])
    if part.stop is not None and left:
        raise ValueError(f"it ends {left:,} bytes before the part that follows")
