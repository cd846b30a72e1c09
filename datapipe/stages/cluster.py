"""Cluster: which documents stay, and in which pool. Decided by content keys alone, so that neither the number of tasks
nor the order of the input shows.

A cluster is a connected component of the duplicate links, exact and near. Its survivor is the member with the smallest
key; between copies of one key, the smallest (digest of the text as it came, source, id, kept fields).

What is kept for each document, its parent in the forest of clusters and its fate, lies in files; records of duplicates
are dealt out, first by cluster, then by survivor (see external_sort.py). Memory is one range of them, or the largest
cluster.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...common import storage
from ...common.hashing import mix64
from ...shards import arrow
from ..external_sort import array_on_disk, deal
from .match import Edges
from .parts import Documents, Part

REMOVED, TRAIN, VALIDATION = 0, 1, 2

DUPLICATES = pa.schema(
    [
        ("key", pa.binary()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("survivor_key", pa.binary()),
        ("survivor_id", pa.string()),
        ("survivor_source", pa.string()),
        ("kind", pa.string()),
        ("cluster", pa.string()),
        ("similarity", pa.float32()),
    ]
)
ROW_GROUP = 1 << 16

PAIRS = 4
"""Near-duplicates whose text the report shows."""

_KEYS = ("key_hi", "key_lo", "raw")
MEMBER = np.dtype([("cluster", "<u8"), *((name, "<u8") for name in _KEYS), ("source", "<i8"), ("number", "<i8")])
"""A document that has duplicates. cluster: the same number for all of a cluster, evenly spread; source: its place
in the order of names."""

REMOVAL = np.dtype(
    [
        ("survivor_hi", "<u8"),
        ("survivor_lo", "<u8"),
        ("key_hi", "<u8"),
        ("key_lo", "<u8"),
        ("survivor", "<i8"),
        ("number", "<i8"),
        ("exact", "?"),
    ]
)
"""A removed document, its cluster's survivor, and whether another copy of its key was preferred to it."""


class Corpus:
    """All documents of a build, with document numbers across parts."""

    def __init__(self, parts: list[Part], sources: list[str]) -> None:
        self.parts, self.sources = parts, sources
        self.base = np.cumsum([0] + [p.n_documents for p in parts])
        self.n_documents = int(self.base[-1])
        order = sorted(range(len(sources)), key=lambda i: sources[i])
        self._source_rank = np.argsort(order)

    def batches(self) -> Iterator[tuple[int, Documents]]:
        """Yield (number of the first, records) of all documents, some at a time."""
        for part, base in zip(self.parts, self.base.tolist(), strict=False):
            for row, documents in part.batches():
                yield base + row, documents

    def records(self, numbers: NDArray[np.int64]) -> Documents:
        """Return the records of the documents `numbers`."""
        out = np.zeros(len(numbers), self.parts[0].dtype("documents"))
        for part, mine, rows in self._split(numbers):
            out[mine] = part.documents.take(rows)
        return out

    def _split(self, numbers: NDArray[np.int64]) -> list[tuple[Part, NDArray[np.bool_], NDArray[np.int64]]]:
        owner = np.searchsorted(self.base, numbers, side="right") - 1
        split = []
        for i in np.unique(owner).tolist():
            mine = owner == i
            split.append((self.parts[i], mine, numbers[mine] - self.base[i]))
        return split

    def ids(self, numbers: NDArray[np.int64], records: Documents) -> list[str]:
        """Return the ids of `numbers`, whose records are `records`."""
        ids = np.empty(len(numbers), object)
        for part, mine, _ in self._split(numbers):
            ids[mine] = part.ids(records[mine])
        return ids.tolist()

    def kept(self, numbers: NDArray[np.int64], records: Documents) -> list[bytes]:
        """Return the values of kept fields of `numbers`, whose records are `records`, JSON; empty where the build keeps
        none."""
        kept = np.empty(len(numbers), object)
        for part, mine, _ in self._split(numbers):
            kept[mine] = part.kept(records[mine])
        return kept.tolist()

    def source_names(self, records: Documents) -> list[str]:
        """Return the names of the sources of documents."""
        return [self.sources[i] for i in records["source"].tolist()]

    def source_rank(self, documents: Documents) -> NDArray[np.int64]:
        """Return the places of the sources of `documents` in the order of names."""
        return self._source_rank[documents["source"]]

    def signatures(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the signatures of `numbers`, shape (len(numbers), buckets * hashes)."""
        out: NDArray[np.uint32] | None = None
        for part, mine, rows in self._split(numbers):
            signatures = part.signatures(rows)
            out = np.zeros((len(numbers), signatures.shape[1]), np.uint32) if out is None else out
            out[mine] = signatures
        return np.zeros((0, 0), np.uint32) if out is None else out


class Forest:
    """Which documents belong together: each points to a smaller one of its cluster, or is the smallest itself."""

    def __init__(self, n_documents: int) -> None:
        self._parent = array_on_disk((n_documents,), np.int64)
        for start in range(0, n_documents, 1 << 20):
            stop = min(start + (1 << 20), n_documents)
            self._parent[start:stop] = np.arange(start, stop)
        self.linked = array_on_disk((n_documents,), np.bool_)

    def join(self, edges: Edges) -> None:
        """Join the two clusters of each pair of documents that is linked."""
        self.linked[edges.reshape(-1)] = True
        a, b = edges.T
        while len(a):
            a, b = self.roots(a), self.roots(b)
            apart = a != b
            a, b = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
            np.minimum.at(self._parent, b, a)
            while (above := self._parent[self._parent[b]]).size and (above != self._parent[b]).any():
                self._parent[b] = above  # halves the way up, as all on it do the same

    def roots(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the smallest document of the cluster of each of `numbers`."""
        root = self._parent[numbers]
        while ((above := self._parent[root]) != root).any():
            root = above
        self._parent[numbers] = root
        return root


def find_clusters(corpus: Corpus, edges: Iterable[Edges]) -> Iterator[NDArray[np.void]]:
    """Yield the clusters that `edges` make, whole clusters at a time: MEMBER records in order of cluster and, within
    it, of preference, the survivor first."""
    forest = Forest(corpus.n_documents)
    for links in edges:
        forest.join(links)

    def members() -> Iterator[NDArray[np.void]]:
        for first, documents in corpus.batches():
            rows = np.flatnonzero(forest.linked[first : first + len(documents)])
            some = np.empty(len(rows), MEMBER)
            for name in _KEYS:
                some[name] = documents[name][rows]
            some["source"] = corpus.source_rank(documents[rows])
            some["number"] = first + rows
            some["cluster"] = mix64(forest.roots(some["number"]).astype(np.uint64))
            yield some

    for some in deal(members(), "cluster", int(np.count_nonzero(forest.linked)), MEMBER):
        sorted_by = [np.ascontiguousarray(some[name]) for name in ("cluster", *_KEYS, "source")]
        order = np.lexsort(sorted_by[::-1])
        yield some[_break_ties_by_id(corpus, some["number"], order, sorted_by)]


def _break_ties_by_id(
    corpus: Corpus, numbers: NDArray[np.int64], order: NDArray[np.int64], sorted_by: list[NDArray[Any]]
) -> NDArray[np.int64]:
    """Return `order` with runs that are equal in all of `sorted_by` sorted by document id, then by what they keep."""
    same = np.ones(max(0, len(order) - 1), np.bool_)
    for column in sorted_by:
        same &= column[order[1:]] == column[order[:-1]]
    run = np.cumsum(np.concatenate([[True], ~same]))
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    if not len(tied):
        return order
    some = numbers[order[tied]]
    records = corpus.records(some)
    ids, kept = corpus.ids(some, records), corpus.kept(some, records)
    ranked = sorted(range(len(tied)), key=lambda i: (run[tied[i]], ids[i], kept[i]))
    order = order.copy()
    order[tied] = order[tied[ranked]]
    return order


@dataclass
class RemovedCounts:
    """What deduplication removed, in documents and tokens.

    Attributes:
        sizes: clusters by size, as `histogram` counts them.
        pairs: near-duplicates to be shown, those of the smallest survivors: (number of the removed document, of its
            survivor, similarity), one for a survivor.
    """

    exact_documents: int = 0
    exact_tokens: int = 0
    near_documents: int = 0
    near_tokens: int = 0
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, np.int64))
    pairs: list[tuple[int, int, float]] = field(default_factory=list)


def histogram(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return how many of `values`, all at least 1, are in [2^i, 2^(i+1)), int64 (64,)."""
    return np.bincount(np.frexp(values.astype(np.float64))[1] - 1, minlength=64).astype(np.int64)


def remove_duplicates(
    corpus: Corpus, edges: Iterable[Edges], fates: NDArray[np.uint8], path: str, n_hashes: int
) -> RemovedCounts:
    """Mark as REMOVED in `fates` (uint8, one a document) all but the survivors of the clusters that `edges` make, and
    write duplicates.parquet, a row per removed document in order of survivor and preference.

    A document is an exact duplicate when another copy of its key was preferred to it; `survivor` is the document of
    its cluster that is in the pool. similarity: share of equal hashes of the two signatures (of `n_hashes`), which
    estimates the Jaccard similarity of their word n-grams; 1 for equal keys.
    """
    removed = RemovedCounts()

    def removals() -> Iterator[NDArray[np.void]]:
        for members in find_clusters(corpus, edges):
            if not len(members):
                continue
            begins = np.append(True, members["cluster"][1:] != members["cluster"][:-1])
            first = np.flatnonzero(begins)
            removed.sizes += histogram(np.diff(np.append(first, len(members))))
            fates[members["number"][~begins]] = REMOVED
            yield _removals(members, begins, first[np.cumsum(begins) - 1])

    with storage.publishing_file(path) as partial, pq.ParquetWriter(partial, DUPLICATES) as writer:
        waiting = np.zeros(0, REMOVAL)
        for some in deal(removals(), "survivor_hi", corpus.n_documents, REMOVAL):
            order = np.lexsort([np.ascontiguousarray(some[name]) for name in ("survivor_lo", "survivor_hi")])
            waiting = np.concatenate([waiting, some[order]])
            whole = len(waiting) // ROW_GROUP * ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                _write_removals(writer, corpus, waiting[start : start + ROW_GROUP], n_hashes, removed)
            waiting = waiting[whole:]
        if len(waiting):
            _write_removals(writer, corpus, waiting, n_hashes, removed)
    return removed


def _removals(members: NDArray[np.void], begins: NDArray[np.bool_], survivor: NDArray[np.int64]) -> NDArray[np.void]:
    """Return a REMOVAL for each of `members` that does not begin a cluster. survivor: row of the survivor of each."""
    rows = np.flatnonzero(~begins)
    removals = np.empty(len(rows), REMOVAL)
    for name in ("key_hi", "key_lo", "number"):
        removals[name] = members[name][rows]
    survivors = members[survivor[rows]]
    removals["survivor_hi"], removals["survivor_lo"] = survivors["key_hi"], survivors["key_lo"]
    removals["survivor"] = survivors["number"]
    before = members[rows - 1]
    removals["exact"] = (removals["key_hi"] == before["key_hi"]) & (removals["key_lo"] == before["key_lo"])
    return removals


def _write_removals(
    writer: pq.ParquetWriter, corpus: Corpus, removals: NDArray[np.void], n_hashes: int, removed: RemovedCounts
) -> None:
    """Write a row group of duplicates.parquet and count what is in it."""
    keys = arrow.keys(removals["key_hi"], removals["key_lo"])
    survivors = arrow.keys(removals["survivor_hi"], removals["survivor_lo"])
    differs = (removals["key_hi"] != removals["survivor_hi"]) | (removals["key_lo"] != removals["survivor_lo"])
    similarity = np.ones(len(removals), np.float32)
    if n_hashes and differs.any():
        agree = corpus.signatures(removals["number"][differs]) == corpus.signatures(removals["survivor"][differs])
        similarity[differs] = agree.mean(axis=1)
    records, survivor_records = (corpus.records(removals[name]) for name in ("number", "survivor"))
    hexadecimal = survivors.tobytes().hex()
    arrays = [
        arrow.binary(keys),
        arrow.strings(corpus.ids(removals["number"], records)),
        arrow.strings(corpus.source_names(records)),
        arrow.binary(survivors),
        arrow.strings(corpus.ids(removals["survivor"], survivor_records)),
        arrow.strings(corpus.source_names(survivor_records)),
        arrow.strings(["exact" if exact else "near" for exact in removals["exact"].tolist()]),
        arrow.strings([hexadecimal[i : i + 32] for i in range(0, len(hexadecimal), 32)]),
        arrow.numbers(similarity),
    ]
    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=DUPLICATES), row_group_size=ROW_GROUP)
    tokens = records["tokens"].astype(np.int64)
    _note_pairs(removals, similarity, removed)
    removed.exact_documents += int(removals["exact"].sum())
    removed.exact_tokens += int(tokens[removals["exact"]].sum())
    removed.near_documents += int((~removals["exact"]).sum())
    removed.near_tokens += int(tokens[~removals["exact"]].sum())


def _note_pairs(removals: NDArray[np.void], similarity: NDArray[np.float32], removed: RemovedCounts) -> None:
    """Note the first near-duplicate of each survivor, until there are enough of them."""
    for row in np.flatnonzero(~removals["exact"]).tolist():
        if len(removed.pairs) == PAIRS:
            return
        survivor = int(removals["survivor"][row])
        if not removed.pairs or removed.pairs[-1][1] != survivor:
            removed.pairs.append((int(removals["number"][row]), survivor, float(similarity[row])))
