"""Fates: what becomes of every document, a byte each, in order of number. They lie in the folder `fates` of the work
folder, a file for each stretch of numbers, beside what tasks counted of the documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...shards.file_array import FileArray
from ..external_sort import Dealt, range_of
from .cluster import NUMBER, REMOVED, TRAIN, VALIDATION, histogram
from .division import Division, Step
from .match import drawn_group
from .parts import BUILD_AGAIN, Documents

KEPT_OPEN = 100
"""Of so many files of fates at most, all are kept open."""


@dataclass(frozen=True)
class DocumentCounts:
    """What became of documents.

    Attributes:
        documents: int64 (3, sources), by fate.
        tokens: int64 (3, sources), by fate.
        lengths: documents that stay, as `histogram` counts them.
        partitions: int64 (3, partitions), tokens by fate and range of place.
    """

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    partitions: NDArray[np.int64]

    @classmethod
    def none(cls, sources: int, partitions: int) -> "DocumentCounts":
        """Return the counts of no documents."""
        shapes = [(3, sources), (3, sources), (64,), (3, partitions)]
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def _arrays(self) -> list[NDArray[np.int64]]:
        return [self.documents, self.tokens, self.lengths, self.partitions]

    def to_bytes(self) -> bytes:
        """Return what `add` reads."""
        return np.concatenate([array.reshape(-1) for array in self._arrays()]).tobytes()

    def add(self, data: bytes, where: str) -> None:
        """Add what `to_bytes` wrote to the file `where`."""
        if len(data) != sum(array.nbytes for array in self._arrays()):
            raise WorkError(f"{where} is damaged: it was cut; {BUILD_AGAIN}")
        values = np.frombuffer(data, np.int64)
        for array in self._arrays():
            array.reshape(-1)[:] += values[: array.size]
            values = values[array.size :]

    def count(self, documents: Documents, fates: NDArray[np.uint8]) -> None:
        """Count documents, whose fates are `fates`."""
        source, tokens = documents["source"], documents["tokens"].astype(np.int64)
        place = range_of(documents["place_hi"], self.partitions.shape[1])
        np.add.at(self.documents, (fates, source), 1)
        np.add.at(self.tokens, (fates, source), tokens)
        np.add.at(self.partitions, (fates, place), tokens)
        self.lengths[:] += histogram(tokens[fates != REMOVED])


class Decide(Step):
    """Writes the fates of every world_size-th stretch of documents, and counts the documents.

    Attributes:
        last: the group of `drawn` up to which, itself left out, all documents are held out.
        held_out: numbers of those of group `last` that are, sorted.
    """

    name = "Decide"

    def __init__(self, division: Division, last: int, held_out: NDArray[np.int64]) -> None:
        super().__init__(division)
        self.last, self.held_out = last, held_out

    def do(self, rank: int, world_size: int) -> None:
        """Write `fates/<stretch>.bin`, and `counts/<rank>.bin`."""
        d, corpus = self.division, self.division.corpus()
        counts = DocumentCounts.none(len(d.sources), corpus.parts[0].partitions)
        removed = Dealt(d.path("removed"), NUMBER, d.mine(rank, world_size))
        for stretch, documents in d.some(rank, world_size):
            first, last = d.span(stretch)
            fates = np.full(last - first, TRAIN, np.uint8)
            for numbers in removed.read(stretch):
                fates[numbers - first] = REMOVED
            here = slice(*np.searchsorted(self.held_out, [first, last]).tolist())
            fates[self.held_out[here] - first] = VALIDATION
            for some in documents:
                mine = fates[some.first - first : some.first - first + len(some.documents)]
                mine[(mine == TRAIN) & (drawn_group(some.documents["drawn"]) < self.last)] = VALIDATION
                counts.count(some.documents, mine)
            write_fates(d.work, stretch, fates)
        storage.write_atomic(d.path(f"counts/{rank:05d}.bin"), counts.to_bytes(), flush=False)


def write_fates(work: str, stretch: int, fates: NDArray[np.uint8]) -> None:
    """Write the fates of a stretch of documents."""
    storage.write_atomic(storage.join(work, f"fates/{stretch:05d}.bin"), fates.tobytes(), flush=False)


def count_documents(division: Division) -> DocumentCounts:
    """Return what all tasks counted."""
    counts = DocumentCounts.none(len(division.sources), division.corpus().parts[0].partitions)
    folder = division.path("counts")
    for name in storage.names(folder):
        path = storage.join(folder, name)
        counts.add(storage.read_bytes(path), path)
    return counts


class Fates:
    """The fates of all documents of the build in the work folder `work`, with `width` documents in each file."""

    def __init__(self, work: str, width: int) -> None:
        self._folder, self._width, self._remote = storage.join(work, "fates"), width, storage.is_url(work)
        self._files: dict[int, FileArray] = {}

    def read(self, spans: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """Return the fates of documents `start` to `stop` for each (start, stop)."""
        pieces = [
            (i, stretch, max(start - stretch * self._width, 0), min(stop - stretch * self._width, self._width))
            for i, (start, stop) in enumerate(spans)
            if stop > start
            for stretch in range(start // self._width, (stop - 1) // self._width + 1)
        ]
        found: list[list[NDArray[np.uint8]]] = [[] for _ in spans]
        for (i, *_), data in zip(pieces, self._read([piece[1:] for piece in pieces]), strict=True):
            found[i].append(data)
        return [np.concatenate(some) if some else np.zeros(0, np.uint8) for some in found]

    def _read(self, pieces: list[tuple[int, int, int]]) -> list[NDArray[np.uint8]]:
        if self._remote:
            read = storage.read_ranges([(self._path(stretch), start, stop) for stretch, start, stop in pieces])
            return [np.frombuffer(data, np.uint8) for data in read]
        return [self._file(stretch)[start:stop] for stretch, start, stop in pieces]

    def _path(self, stretch: int) -> str:
        return storage.join(self._folder, f"{stretch:05d}.bin")

    def _file(self, stretch: int) -> FileArray:
        if stretch not in self._files:
            if len(self._files) >= KEPT_OPEN:
                self._files.pop(next(iter(self._files)))
            self._files[stretch] = FileArray(self._path(stretch), np.uint8, (self._width,), mend=BUILD_AGAIN)
        return self._files[stretch]
