"""Pieces of different length, such as the ids of documents, that lie one after the other in a buffer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...tokenize.compiled import compiled_part

with compiled_part():
    from . import _gather

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


def apart(data: bytes, lengths: Integers) -> list[bytes]:
    """Return the pieces that lie one after the other in `data`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return list(map(data.__getitem__, map(slice, (ends - lengths).tolist(), ends.tolist())))


def in_order(pending: Sequence[Any], lengths: Integers, order: NDArray[np.int64], width: int = 1) -> bytes:
    """Return the pieces that lie in some buffers, one after the other, in another order.

    Args:
        pending: the buffers, of elements of `width` bytes.
        lengths: of all pieces, (n,), in elements.
        order: the number of the piece that comes at each place, (n,).
        width: see above.
    """
    return gathered(b"".join(pending), starts_of(lengths)[order], lengths[order], width)
