"""Match: which documents agree with which. Each task takes one bucket of the signatures (or the keys, for exact
duplicates), brings equal values together and links the documents that have them. It takes n log n time, however many
values are equal, and memory for one range of values (see external_sort.py), or for all documents of one value.

Documents are numbered across parts in order of part and row; the numbers mean nothing outside a build.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.hashing import mix64
from ..external_sort import deal
from .parts import BUILD_AGAIN, Part

Edges = NDArray[np.int64]
"""Shape (n, 2): numbers of two documents that are duplicates of each other."""

VALUE = np.dtype([("value", "<u8"), ("number", "<i8")])
"""What documents are compared by. value: dealt out by its range."""

KEY = np.dtype([("value", "<u8"), ("more", "<u8"), ("number", "<i8"), ("source", "<i4")])
"""What exact duplicates are found by. more: the rest of the key. source: of distinct documents, else -1."""

KEPT_PARTS = 100
"""If there are more parts than this, their files are not kept open."""

EDGES_AT_ONCE = 1 << 22


def open_parts(work: str) -> list[Part]:
    """Return the parts of a build in order of rank."""
    folder = storage.join(work, "parts")
    names = [n for n in storage.names(folder) if n.startswith("part-") and "." not in n]
    return [Part(storage.join(folder, n), len(names) <= KEPT_PARTS) for n in names]


def _keys(part: Part, first: int) -> Iterator[NDArray[np.void]]:
    for row, documents in part.batches():
        records = np.empty(len(documents), KEY)
        records["value"], records["more"] = documents["key_hi"], documents["key_lo"]
        records["number"] = first + row + np.arange(len(documents))
        records["source"] = np.where(documents["distinct"], documents["source"].astype(np.int32), -1)
        yield records


def _bucket(part: Part, bucket: int, first: int) -> Iterator[NDArray[np.void]]:
    for row, documents, hashes in part.bucket(bucket):
        signed = np.flatnonzero(documents["signed"])
        records = np.empty(len(signed), VALUE)
        records["value"], records["number"] = _fold(hashes[signed]), first + row + signed
        yield records


def links(parts: list[Part], comparison: int) -> Iterator[Edges]:
    """Yield the links that a comparison finds: 0 of exact duplicates, 1 + b of documents that agree in bucket b."""
    firsts = np.cumsum([0] + [part.n_documents for part in parts]).tolist()
    batches = (
        records
        for part, first in zip(parts, firsts, strict=False)
        for records in (_bucket(part, comparison - 1, first) if comparison else _keys(part, first))
    )
    for records in deal(batches, "value", firsts[-1], VALUE if comparison else KEY):
        number, same = _by_value(records) if comparison else _by_key(records)
        # Each to the first of its value: chains would be as long as there are copies.
        leader = np.maximum.accumulate(np.where(np.append(True, ~same), np.arange(len(number)), 0))[1:]
        yield np.stack([number[leader[same]], number[1:][same]], axis=1)


def _by_value(records: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return documents in order of value, and which have the same as the one before."""
    value, number = (np.ascontiguousarray(records[name]) for name in ("value", "number"))
    order = np.argsort(value, kind="stable")
    value = value[order]
    return number[order], value[1:] == value[:-1]


def _by_key(records: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return documents in order of key, and which are copies of the one before.

    Distinct documents of one source are none. So the first documents of a key of each source are copies of each other,
    so are the second ones, and so on.
    """
    value, more, number, source = (np.ascontiguousarray(records[name]) for name in KEY.names or ())
    order = np.lexsort((source, more, value))
    value, more, number, source = value[order], more[order], number[order], source[order]
    same = (value[1:] == value[:-1]) & (more[1:] == more[:-1])
    apart = same & (source[1:] == source[:-1]) & (source[1:] >= 0)
    if not apart.any():
        return number, same
    rows = np.arange(len(number))
    nth = rows - np.maximum.accumulate(np.where(np.append(True, ~apart), rows, 0))  # within its key and source
    key = np.cumsum(np.append(True, ~same))
    order = np.lexsort((nth, key))
    key, nth = key[order], nth[order]
    return number[order], (key[1:] == key[:-1]) & (nth[1:] == nth[:-1])


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
        """Write `edges/<number>.bin` for every world_size-th comparison. Yields nothing."""
        parts = open_parts(self.work)
        for number in range(rank, self.count, world_size):
            path = storage.join(self.work, f"edges/{number:05d}.bin")
            with storage.publishing_file(path) as partial, open(partial, "wb") as f:
                for edges in links(parts, number):
                    f.write(edges.tobytes())
        yield from ()


def read_edges(work: str) -> Iterator[Edges]:
    """Yield the links that all match tasks found, some at a time."""
    folder = storage.join(work, "edges")
    for name in (n for n in storage.names(folder) if n.endswith(".bin")):
        with storage.open_read(storage.join(folder, name)) as f:
            while data := f.read(EDGES_AT_ONCE * 16):
                if len(data) % 16:
                    raise WorkError(f"{folder}/{name} is damaged: it was cut; {BUILD_AGAIN}")
                yield np.frombuffer(data, np.int64).reshape(-1, 2)
