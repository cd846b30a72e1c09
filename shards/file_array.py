"""Arrays in files that are read where they are asked, and not mapped into memory: a mapped file that is cut while it is
read ends the process (SIGBUS), without a word. What is read here and not there is an error that names the file.
"""

import os
import weakref
from collections.abc import Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..common.errors import WorkError

GAP_BYTES = 1 << 13
"""Items that lie no farther apart are read together: to copy so much takes as long as to ask once more."""

BLOCK_BYTES = 1 << 22
"""About how much is read together at most."""


class FileArray:
    """The array of `shape` that begins at byte `offset` of the file at `path`, read-only. Safe to share among threads
    and with forked processes; the file may be removed meanwhile.

    Attributes:
        what: the file in messages, as `shard /a/b.mds`.
        mend: what to do about a damaged one, for messages.
    """

    def __init__(
        self,
        path: str,
        dtype: Any,
        shape: tuple[int, ...],
        offset: int = 0,
        what: str = "",
        mend: str = "restore it",
    ) -> None:
        self.dtype, self.shape, self.what, self.mend = np.dtype(dtype), shape, what or path, mend
        self._offset = offset
        self._width = int(np.prod(shape[1:])) * self.dtype.itemsize
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        """Return how many items there are along the first axis."""
        return self.shape[0]

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> NDArray[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        """Return an item, or items that follow each other, as a new array.

        Raises:
            WorkError: when the file ends before.
        """
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            assert step == 1, "items follow each other"
            out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
            self.read_into(out, start)
            return out
        out = np.empty((1, *self.shape[1:]), self.dtype)
        self.read_into(out, range(len(self))[at])
        return out[0]

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return the items at `rows`, in any order and as often as they are named, as a new array.

        Raises:
            WorkError: when the file ends before.
        """
        ordered, back = np.unique(rows, return_inverse=True)
        out = np.empty((len(ordered), *self.shape[1:]), self.dtype)
        for begin, end in self.near(ordered, ordered + 1):
            first, stop = int(ordered[begin]), int(ordered[end - 1]) + 1
            if stop - first == end - begin:
                self.read_into(out[begin:end], first)
            else:
                out[begin:end] = self[first:stop].take(ordered[begin:end] - first, axis=0)
        return out.take(back, axis=0)

    def near(self, starts: NDArray[Any], stops: NDArray[Any]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of rising `starts` that are read together."""
        if not len(starts):
            return
        far = starts[1:] - stops[:-1] > GAP_BYTES // max(1, self._width)
        block = starts * self._width // BLOCK_BYTES
        edges = np.flatnonzero(far | (block[1:] != block[:-1])) + 1
        yield from zip([0, *edges.tolist()], [*edges.tolist(), len(starts)], strict=True)

    def read_into(self, out: NDArray[Any], start: int) -> None:
        """Fill `out`, contiguous and of this array's type, with the items from `start` on.

        Raises:
            WorkError: when the file ends before.
        """
        at = self._offset + start * self._width
        left: Any = out
        size = out.nbytes
        while size:
            try:
                n = os.preadv(self._file, [left], at)
            except OSError as error:
                raise WorkError(f"{self.what} cannot be read: {error.strerror}") from None
            if n == size:
                return
            if n == 0:
                raise WorkError(f"{self.what} is damaged: it was cut while it was read; {self.mend}")
            left = out.reshape(-1).view(np.uint8)[out.nbytes - size + n :]
            size, at = size - n, at + n
