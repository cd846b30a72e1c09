"""Pieces of different length, such as the ids of documents, that lie one after the other in a buffer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...tokenize.compiled import compiled_part

with compiled_part():
    from . import _gather

AT_ONCE = 1 << 24

Integers = NDArray[np.integer[Any]]


def starts_of(lengths: Integers) -> NDArray[np.int64]:
    """Return where each of some pieces begins that lie one after the other, (n,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths.astype(np.int64)


def gathered(data: Any, starts: Integers, lengths: Integers, width: int = 1) -> bytes:
    """Return pieces of a buffer one after the other.

    Args:
        data: elements of `width` bytes.
        starts: where each piece begins, (n,), in elements.
        lengths: of the pieces, (n,), in elements.
        width: see above.

    Raises:
        ValueError: when one is not within the buffer.
    """
    return _gather.gather(data, np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(lengths, np.int64), width)


def apart(data: Any, lengths: Integers) -> list[Any]:
    """Return the pieces that lie one after the other in `data`, bytes or an array."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return list(map(data.__getitem__, map(slice, (ends - lengths).tolist(), ends.tolist())))


def together(pieces: Sequence[NDArray[Any]], dtype: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return some arrays, of type `dtype`, one after the other, and how long each is."""
    return np.concatenate([np.zeros(0, dtype), *pieces]), np.array(list(map(len, pieces)), np.int64)


def in_order(data: Any, lengths: Integers, order: NDArray[np.int64], width: int = 1) -> Iterator[bytes]:
    """Yield the pieces that lie one after the other in a buffer in another order, about `AT_ONCE` bytes at a time.

    Args:
        data: elements of `width` bytes.
        lengths: of all pieces, (n,), in elements.
        order: the number of the piece that comes at each place.
        width: see above.
    """
    starts, lengths = starts_of(lengths)[order], lengths[order]
    group = np.cumsum(lengths, dtype=np.int64) * width // AT_ONCE
    edges = (np.flatnonzero(group[1:] != group[:-1]) + 1).tolist()
    for begin, end in zip([0, *edges], [*edges, len(order)], strict=True):
        yield gathered(data, starts[begin:end], lengths[begin:end], width)
