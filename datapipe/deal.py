"""Dealing records out by the range of a value, as sorts larger than memory do: what has equal values meets in one
range, a range fits into memory, and the rest waits on the scratch disk."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 1 << 26
"""Records of a range, about: at 24 to 56 bytes each, up to 4 GB."""

Records = NDArray[np.void]


def deal(batches: Iterable[Records], field: str, n: int, dtype: np.dtype[Any]) -> Iterator[Records]:
    """Yield all records of `batches`, one range of `field` at a time in rising order; within a range as they came.

    field: a uint64, evenly spread over its 2^64 values, as hashes are. n: how many records there are at most.
    """
    bits = (max(n - 1, 0) // IN_MEMORY).bit_length()
    if bits == 0:
        yield np.concatenate([np.zeros(0, dtype), *batches])
        return
    with tempfile.TemporaryDirectory(prefix="epochal-") as folder, contextlib.ExitStack() as stack:
        paths = [os.path.join(folder, f"{i:05d}") for i in range(1 << bits)]
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for batch in batches:
            ranges = batch[field] >> np.uint64(64 - bits)
            order = np.argsort(ranges, kind="stable")
            ends = np.cumsum(np.bincount(ranges.astype(np.int64), minlength=1 << bits)).tolist()
            dealt = batch[order]
            for file, start, stop in zip(files, [0, *ends], ends, strict=False):
                file.write(dealt[start:stop].tobytes())
        for file, path in zip(files, paths, strict=True):
            file.close()
            yield np.fromfile(path, dtype)
            os.unlink(path)


def array_on_disk(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array of zeros that lies in a scratch file without a name: memory holds what is in use."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="epochal-") as f:
        return np.asarray(np.memmap(f, dtype, "w+", shape=shape))
