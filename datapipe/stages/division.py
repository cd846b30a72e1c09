"""Division: how the documents of a build are divided among the tasks that look for duplicates, whatever parts they came
in, and what those tasks have in common.

Documents are numbered across parts in order of part and row; the numbers mean nothing outside a build.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...common import storage
from ...common.json_text import parse_json
from .. import external_sort
from ..external_sort import ranges_for
from .parts import Documents, Part, SortedRun

KEPT_PARTS = 100
"""If there are more parts than this, their files are not kept open."""


def open_parts(work: str, first: int = 0, last: int | None = None) -> list[Part]:
    """Return parts `first` to `last` of a build, by default all, in order of rank."""
    folder = storage.join(work, "parts")
    names = [n for n in storage.names(folder) if n.startswith("part-") and "." not in n]
    return [Part(storage.join(folder, n), len(names) <= KEPT_PARTS) for n in names[first:last]]


class Some(NamedTuple):
    """Documents of one run.

    Attributes:
        part: where they lie.
        run: of that part.
        row: of the first, in the part.
        first: the number of the first.
        documents: their records.
    """

    part: Part
    run: SortedRun
    row: int
    first: int
    documents: Documents

    def bucket(self, b: int) -> NDArray[np.uint64]:
        """Return bucket `b` of their signatures, shape (n,)."""
        return self.part.bucket(b, self.run, self.row, self.row + len(self.documents))


class Corpus:
    """All documents of a build, with document numbers across parts."""

    def __init__(self, parts: list[Part], sources: list[str]) -> None:
        self.parts, self.sources = parts, sources
        self.base = np.cumsum([0] + [p.n_documents for p in parts])
        self.n_documents = int(self.base[-1])
        order = sorted(range(len(sources)), key=lambda i: sources[i])
        self._source_rank = np.argsort(order)

    def some(self, start: int, stop: int) -> Iterator["Some"]:
        """Yield documents `start` to `stop`, some at a time."""
        first = int(np.searchsorted(self.base, start, side="right")) - 1
        for part, base in zip(self.parts[first:], self.base[first:].tolist(), strict=False):
            if base >= stop:
                return
            for run, row, documents in part.stretches(max(start - base, 0), min(stop - base, part.n_documents)):
                yield Some(part, run, row, base + row, documents)
            part.forget()

    def source_rank(self, documents: Documents) -> NDArray[np.int64]:
        """Return the places of the sources of `documents` in the order of names."""
        return self._source_rank[documents["source"]]


@dataclass(frozen=True)
class Division:
    """How the work on the documents of a build is divided. The outcome does not depend on it, but the files in `folder`
    do, and whoever goes on with them must divide as they were divided.

    Attributes:
        work: the build's work folder.
        folder: where the steps leave what they have for each other.
        sources: their names.
        n_documents: how many there are.
        comparisons: the key and each bucket.
        n_hashes: uint32 of a signature.
        ranges: of values, a power of two.
        stretches: of numbers.
    """

    work: str
    folder: str
    sources: tuple[str, ...]
    n_documents: int
    comparisons: int
    n_hashes: int
    ranges: int
    stretches: int

    @property
    def width(self) -> int:
        """Documents of a stretch."""
        return max(1, -(-self.n_documents // self.stretches))

    def span(self, stretch: int) -> tuple[int, int]:
        """Return the first number of a stretch, and the one after its last."""
        first, last = (min(n * self.width, self.n_documents) for n in (stretch, stretch + 1))
        return first, last

    def mine(self, rank: int, world_size: int) -> range:
        """Return the stretches of task `rank`: every world_size-th."""
        return range(rank, self.stretches, world_size)

    def path(self, name: str) -> str:
        """Return where a file or folder of the steps is."""
        return storage.join(self.folder, name)

    def corpus(self) -> Corpus:
        """Return all documents."""
        return Corpus(open_parts(self.work), list(self.sources))

    def some(self, rank: int, world_size: int) -> Iterator[tuple[int, Iterator[Some]]]:
        """Yield (stretch, documents, some at a time) of every world_size-th stretch."""
        corpus = self.corpus()
        for stretch in self.mine(rank, world_size):
            yield stretch, corpus.some(*self.span(stretch))


def divided(corpus: Corpus, work: str, buckets: int, tasks: int) -> Division:
    """Return how `tasks` tasks divide the work. With other numbers, it is in another folder."""
    n, most, comparisons = corpus.n_documents, external_sort.IN_MEMORY, 1 + buckets
    ranges = ranges_for(n, most, -(-tasks // comparisons))
    stretches = max(1, min(n, max(tasks, -(-n // most))))
    folder = storage.join(work, f"match-{tasks}-{ranges}-{stretches}")
    hashes = corpus.parts[0].n_hashes
    return Division(work, folder, tuple(corpus.sources), n, comparisons, hashes, ranges, stretches)


class FileStep(PipelineStep):
    """A step on files, `do`, after those that stand before it in a task."""

    type = "epochal"

    def do(self, rank: int, world_size: int) -> None:
        """Do the share of task `rank` of `world_size`."""
        raise NotImplementedError

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Run the steps before, then this one. Yields nothing."""
        for _ in data or ():
            pass
        self.do(rank, world_size)
        yield from ()


class Step(FileStep):
    """A step on the documents of a division."""

    def __init__(self, division: Division) -> None:
        super().__init__()
        self.division = division


def note(path: str, counts: dict[str, Any]) -> None:
    """Write what a task counted, as `<path>.json`."""
    storage.write_atomic(f"{path}.json", json.dumps(counts).encode(), flush=False)


def noted(folder: str) -> list[dict[str, Any]]:
    """Return what all tasks counted."""
    names = [name for name in storage.names(folder) if name.endswith(".json")]
    paths = [storage.join(folder, name) for name in names]
    return [parse_json(storage.read_bytes(path), path) for path in paths]
