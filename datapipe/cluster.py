"""Cluster: which documents stay, and in which pool. Decided by content keys alone, so that neither the number of tasks
nor the order of the input shows.

A cluster is a connected component of the duplicate links, exact and near. Its survivor is the member with the smallest
key; between copies of one key, the smallest (digest of the text as it came, source, id). Clusters are drawn for
validation in the order of a keyed hash of their survivor's key, until `validation_tokens` are reached.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..shards import storage
from ..shards.errors import RequestError
from ..tokenize.parts import Part
from .match import Edges

REMOVED, TRAIN, VALIDATION = 0, 1, 2

DUPLICATES = pa.schema(
    [
        ("key", pa.binary(16)),
        ("id", pa.string()),
        ("source", pa.string()),
        ("survivor_key", pa.binary(16)),
        ("survivor_id", pa.string()),
        ("survivor_source", pa.string()),
        ("kind", pa.string()),
        ("cluster", pa.string()),
        ("similarity", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Clusters:
    """Documents that have duplicates. members: int64 document numbers, sorted by (cluster, rank within it); survivors
    first. first: int64 (n_clusters + 1,), where each cluster begins in `members`."""

    members: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Members per cluster."""
        return np.diff(self.first)


class Corpus:
    """All documents of a build as columns, with document numbers across parts."""

    def __init__(self, parts: list[Part], sources: list[str]) -> None:
        self.parts, self.sources = parts, sources
        self.base = np.cumsum([0] + [p.n_documents for p in parts])
        self.n_documents = int(self.base[-1])
        order = sorted(range(len(sources)), key=lambda i: sources[i])
        self._source_rank = np.argsort(order)

    def column(self, name: str, numbers: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return a field of all documents, or of `numbers`."""
        if numbers is None:
            return np.concatenate([p.column(name) for p in self.parts])
        out = np.zeros(len(numbers), self.parts[0].documents.dtype[name])
        for part, mine, rows in self._split(numbers):
            out[mine] = part.documents[name][rows]
        return out

    def _split(self, numbers: NDArray[np.int64]) -> list[tuple[Part, NDArray[np.bool_], NDArray[np.int64]]]:
        owner = np.searchsorted(self.base, numbers, side="right") - 1
        split = []
        for i in np.unique(owner).tolist():
            mine = owner == i
            split.append((self.parts[i], mine, numbers[mine] - self.base[i]))
        return split

    def ids(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of `numbers`."""
        owner = np.searchsorted(self.base, numbers, side="right") - 1
        pairs = zip(owner.tolist(), (numbers - self.base[owner]).tolist(), strict=True)
        return [self.parts[i].id(row) for i, row in pairs]

    def source_names(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the names of the sources of `numbers`."""
        return [self.sources[i] for i in self.column("source", numbers).tolist()]

    def source_rank(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of the sources of `numbers` in the order of names."""
        return self._source_rank[self.column("source", numbers)]

    def signatures(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the signatures of `numbers`, shape (len(numbers), buckets * hashes)."""
        out: NDArray[np.uint32] | None = None
        for part, mine, rows in self._split(numbers):
            found = part.signatures(rows)
            out = np.zeros((len(numbers), found.shape[1]), np.uint32) if out is None else out
            out[mine] = found
        return np.zeros((0, 0), np.uint32) if out is None else out

    def keys(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """Return the 16-byte keys of `numbers`."""
        pair = np.stack([self.column("key_hi", numbers), self.column("key_lo", numbers)], axis=1).astype(">u8")
        data = pair.tobytes()
        return [data[i : i + 16] for i in range(0, len(data), 16)]


def find_clusters(corpus: Corpus, edges: Edges) -> Clusters:
    """Return the clusters that `edges` make, each with its survivor first."""
    if not len(edges):
        return Clusters(np.zeros(0, np.int64), np.zeros(1, np.int64))
    numbers, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(edges.shape)
    graph = coo_matrix((np.ones(len(edges), np.bool_), (ends[:, 0], ends[:, 1])), (len(numbers), len(numbers)))
    _, label = connected_components(graph, directed=False)
    hi, lo = corpus.column("key_hi", numbers), corpus.column("key_lo", numbers)
    raw, source = corpus.column("raw", numbers), corpus.source_rank(numbers)
    order = np.lexsort((source, raw, lo, hi, label))
    order = _break_ties_by_id(corpus, numbers, order, (label, hi, lo, raw, source))
    # Clusters in the order of their survivors' keys: labels follow document numbers, which mean nothing.
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    by_key = np.lexsort((lo[order[starts]], hi[order[starts]]))
    sizes = np.diff(np.append(starts, len(order)))[by_key]
    first = np.concatenate([[0], np.cumsum(sizes)])
    at = np.repeat(starts[by_key] - first[:-1], sizes) + np.arange(len(order))
    return Clusters(numbers[order[at]], first)


def _break_ties_by_id(
    corpus: Corpus, numbers: NDArray[np.int64], order: NDArray[np.int64], columns: tuple[NDArray[Any], ...]
) -> NDArray[np.int64]:
    """Return `order` with runs that are equal in all `columns` sorted by document id."""
    same = np.ones(len(order) - 1, np.bool_)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    run = np.cumsum(np.concatenate([[True], ~same]))
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    if not len(tied):
        return order
    ids = corpus.ids(numbers[order[tied]])
    ranked = sorted(range(len(tied)), key=lambda i: (run[tied[i]], ids[i]))
    order = order.copy()
    order[tied] = order[tied[ranked]]
    return order


def decide(corpus: Corpus, clusters: Clusters, validation_tokens: int) -> NDArray[np.uint8]:
    """Return REMOVED, TRAIN or VALIDATION for every document.

    Raises RequestError when validation would take everything.
    """
    fate = np.full(corpus.n_documents, TRAIN, np.uint8)
    fate[clusters.members] = REMOVED
    fate[clusters.members[clusters.first[:-1]]] = TRAIN
    if not validation_tokens:
        return fate
    kept = np.flatnonzero(fate == TRAIN)
    tokens = corpus.column("tokens", kept).astype(np.int64)
    if tokens.sum() <= validation_tokens:
        raise RequestError(
            f"validation_tokens is {validation_tokens:,}, but after deduplication there are only {tokens.sum():,} "
            "tokens in all: ask for fewer or add sources"
        )
    order = np.lexsort((corpus.column("key_lo", kept), corpus.column("key_hi", kept), corpus.column("drawn", kept)))
    before = np.cumsum(tokens[order]) - tokens[order]
    drawn = kept[order[before < validation_tokens]]
    if len(drawn) == len(kept):
        raise RequestError(
            f"validation_tokens is {validation_tokens:,}, which takes every one of {len(kept):,} documents: "
            "ask for fewer or add sources"
        )
    fate[drawn] = VALIDATION
    return fate


@dataclass(frozen=True)
class DuplicateCounts:
    """What deduplication removed, in documents and tokens."""

    exact_documents: int
    exact_tokens: int
    near_documents: int
    near_tokens: int


def write_duplicates(corpus: Corpus, clusters: Clusters, path: str, n_hashes: int) -> DuplicateCounts:
    """Write duplicates.parquet, a row per removed document in order of cluster and key; return what was removed.

    A document is an exact duplicate when another copy of its key was preferred to it; `survivor` is the document of
    its cluster that is in the pool. similarity: share of equal hashes of the two signatures (of `n_hashes`), which
    estimates the Jaccard similarity of their word n-grams; 1 for equal keys.
    """
    counts = dict.fromkeys(("exact_documents", "exact_tokens", "near_documents", "near_tokens"), 0)
    with storage.publishing_file(path) as partial, pq.ParquetWriter(partial, DUPLICATES) as writer:
        for start in range(0, len(clusters.first) - 1, 20_000):
            stop = min(start + 20_000, len(clusters.first) - 1)
            table, part = _duplicate_rows(corpus, clusters, start, stop, n_hashes)
            writer.write_table(table)
            counts = {name: n + part[name] for name, n in counts.items()}
    return DuplicateCounts(**counts)


def _duplicate_rows(
    corpus: Corpus, clusters: Clusters, start: int, stop: int, n_hashes: int
) -> tuple[pa.Table, dict[str, int]]:
    first = clusters.first[start : stop + 1]
    members = clusters.members[first[0] : first[-1]]
    survivor = np.repeat(clusters.members[first[:-1]], np.diff(first))
    removed = members != survivor
    keys, survivor_keys = corpus.keys(members), corpus.keys(survivor)
    copy = np.array([a == b for a, b in zip(keys[1:], keys, strict=False)], np.bool_)
    exact = (np.concatenate([[False], copy]) if len(keys) else np.zeros(0, np.bool_))[removed]
    gone, stays = members[removed], survivor[removed]
    gone_keys = [k for k, r in zip(keys, removed, strict=True) if r]
    stays_keys = [k for k, r in zip(survivor_keys, removed, strict=True) if r]
    equal = np.array([a == b for a, b in zip(gone_keys, stays_keys, strict=True)], np.bool_)
    similarity = np.ones(len(gone), np.float32)
    if n_hashes and not equal.all():
        agree = corpus.signatures(gone[~equal]) == corpus.signatures(stays[~equal])
        similarity[~equal] = agree.mean(axis=1)
    tokens = corpus.column("tokens", gone).astype(np.int64)
    columns = [
        pa.array(gone_keys, pa.binary(16)),
        pa.array(corpus.ids(gone)),
        pa.array(corpus.source_names(gone)),
        pa.array(stays_keys, pa.binary(16)),
        pa.array(corpus.ids(stays)),
        pa.array(corpus.source_names(stays)),
        pa.array(np.where(exact, "exact", "near")),
        pa.array([k.hex() for k in stays_keys]),
        pa.array(similarity),
    ]
    columns = [c.cast(field.type) for c, field in zip(columns, DUPLICATES, strict=True)]
    counts = {
        "exact_documents": int(exact.sum()),
        "exact_tokens": int(tokens[exact].sum()),
        "near_documents": int((~exact).sum()),
        "near_tokens": int(tokens[~exact].sum()),
    }
    return pa.Table.from_arrays(columns, schema=DUPLICATES), counts


def load_edges(work: str) -> Edges:
    """Return the links that all match tasks found."""
    folder = storage.join(work, "edges")
    names = [n for n in storage.names(folder) if n.endswith(".npy")]
    return np.concatenate([np.load(io.BytesIO(storage.read_bytes(storage.join(folder, n)))) for n in names])
