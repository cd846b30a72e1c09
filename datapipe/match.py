"""Match: which documents agree with which. Each task takes one bucket of the signatures (or the keys, for exact
duplicates), sorts its values and links neighbours that are equal: time n log n whatever collides, memory one bucket.

Documents are numbered across parts in order of part and row; the numbers mean nothing outside a build.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ..shards import storage
from ..shards.keys import mix64
from ..tokenize.parts import Part

Edges = NDArray[np.int64]
"""Shape (n, 2): numbers of two documents that are duplicates of each other."""


KEPT_PARTS = 100
"""Of more parts than this the maps are not kept open."""


def open_parts(work: str) -> list[Part]:
    """Return the parts of a build in order of rank."""
    folder = storage.join(work, "parts")
    names = [n for n in storage.names(folder) if n.startswith("part-") and "." not in n]
    return [Part(storage.join(folder, n), len(names) <= KEPT_PARTS) for n in names]


def exact_edges(parts: list[Part]) -> Edges:
    """Link documents whose keys are equal."""
    hi = np.concatenate([p.column("key_hi") for p in parts])
    lo = np.concatenate([p.column("key_lo") for p in parts])
    order = np.lexsort((lo, hi))
    same = (hi[order[1:]] == hi[order[:-1]]) & (lo[order[1:]] == lo[order[:-1]])
    return _linked(order, same)


def bucket_edges(parts: list[Part], bucket: int) -> Edges:
    """Link documents whose signatures agree in all hashes of `bucket`."""
    values, numbers = [], []
    first = 0
    for part in parts:
        signed = np.flatnonzero(part.documents["signed"])
        values.append(_fold(part.bucket(bucket)[signed]))
        numbers.append(signed + first)
        first += part.n_documents
    value, number = np.concatenate(values), np.concatenate(numbers)
    order = np.argsort(value, kind="stable")
    return _linked(number[order], value[order[1:]] == value[order[:-1]])


def _linked(numbers: NDArray[np.int64], same: NDArray[np.bool_]) -> Edges:
    return np.stack([numbers[:-1][same], numbers[1:][same]], axis=1).astype(np.int64)


def _fold(hashes: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one 64-bit value per row; rows that differ collide with probability 2^-64."""
    folded = np.zeros(len(hashes), np.uint64)
    for column in hashes.T:
        folded = mix64(folded * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1))
    return folded


class Match(PipelineStep):
    """Shares `count` comparisons out among tasks: 0 links exact duplicates, 1 + b those that agree in bucket b."""

    name = "Match"
    type = "epochal"

    def __init__(self, work: str, count: int) -> None:
        super().__init__()
        self.work, self.count = work, count

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write `edges/<number>.npy` for every world_size-th comparison. Yields nothing."""
        parts = open_parts(self.work)
        for number in range(rank, self.count, world_size):
            edges = exact_edges(parts) if number == 0 else bucket_edges(parts, number - 1)
            path = storage.join(self.work, f"edges/{number:05d}.npy")
            with storage.publishing_file(path) as partial, open(partial, "wb") as f:
                np.save(f, edges)
        yield from ()
