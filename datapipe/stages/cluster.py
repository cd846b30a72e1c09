"""Cluster: which documents stay. Decided by content keys alone, so that neither the number of tasks nor the order of
the input shows.

A cluster is a connected component of the duplicate links, exact and near (see components.py). Its survivor is the
member with the smallest key; between copies of one key, the smallest (digest of the text as it came, source, id, kept
fields).

`Members` deals out the documents that have duplicates, with all that is to be known of them, by cluster. `Clusters`
takes these ranges one by one, chooses survivors, and deals out what it removed: the numbers by stretch (see fates.py),
the rows of duplicates.parquet by survivor (see duplicates.py). Memory is one range, or the largest cluster.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.hashing import mix64
from .. import external_sort
from ..arrays.gather import apart, gathered, in_order, starts_of
from ..arrays.ordering import order_by
from ..external_sort import Dealt, DealtWriter, order_of, range_of, ranges_for
from .components import LINK, Lowest
from .division import Division, Some, Step, note
from .match import DRAWN_BITS, add_drawn
from .parts import Documents

REMOVED, TRAIN, VALIDATION = 0, 1, 2

_KEYS = ("key_hi", "key_lo", "raw")
_COPIED = (*_KEYS, "drawn", "tokens", "source", "id_bytes")

NUMBER = np.dtype("<i8")
BYTE = np.dtype("u1")

_COMPARED = 1 << 16
"""Signatures that are compared at once."""

REMOVAL = np.dtype(
    [
        *((name, "<u8") for name in ("survivor_hi", "survivor_lo", "cluster", "key_hi", "key_lo")),
        *((name, "<i8") for name in ("survivor", "number")),
        *((name, "<u4") for name in ("id_bytes", "survivor_id_bytes")),
        *((name, "<u2") for name in ("source", "survivor_source")),
        ("similarity", "<f4"),
        ("exact", "?"),
    ]
)
"""A removed document, its cluster's survivor, and whether another copy of its key was preferred to it. The ids of both
lie beside it."""


def member_type(n_hashes: int) -> np.dtype[Any]:
    """Return the type of a document that has duplicates. cluster: the same number for all of a cluster, evenly spread;
    rank: its source's place in the order of names. Its id and what it keeps of its row lie beside it."""
    signature = [("signature", "<u4", (n_hashes,))] if n_hashes else []
    fields = [("cluster", "<u8"), *((name, "<u8") for name in (*_KEYS, "drawn")), ("number", "<i8"), ("tokens", "<u4")]
    return np.dtype(
        [*fields, ("source", "<u2"), ("rank", "<u2"), ("id_bytes", "<u4"), ("kept_bytes", "<u4"), *signature]
    )


def cluster_ranges(division: Division, linked: int, tasks: int) -> int:
    """Return into how many ranges of clusters, and of survivors, `linked` documents that have duplicates are dealt."""
    corpus = division.corpus()
    text = sum(part.text_bytes() for part in corpus.parts) // max(1, division.n_documents)
    in_memory = external_sort.IN_MEMORY * 24 // (member_type(division.n_hashes).itemsize + 2 * text)
    return ranges_for(linked, max(1, in_memory), tasks)


class Members(Step):
    """Deals the documents of every world_size-th stretch that have links, which are stars by now, out by cluster.

    Attributes:
        links: the folder of the links.
        ranges: into how many.
    """

    name = "Members"

    def __init__(self, division: Division, links: str, ranges: int) -> None:
        super().__init__(division)
        self.links, self.ranges = links, ranges

    def do(self, rank: int, world_size: int) -> None:
        """Write `members/<rank>` and `member-texts/<rank>`."""
        d = self.division
        links, source_rank = Dealt(d.path(self.links), LINK, d.mine(rank, world_size)), d.corpus().source_rank
        dealt = DealtWriter(d.path(f"members/{rank:05d}"), self.ranges, member_type(d.n_hashes))
        with dealt, DealtWriter(d.path(f"member-texts/{rank:05d}"), self.ranges, BYTE) as texts:
            for stretch, documents in d.some(rank, world_size):
                at = Lowest(links, stretch, *d.span(stretch))
                base = d.span(stretch)[0]
                for some in documents:
                    rows = np.flatnonzero(at.linked[some.first - base : some.first - base + len(some.documents)])
                    if len(rows):
                        lowest = at.lowest[some.first - base + rows]
                        members, text = _members(some, rows, lowest, source_rank, d.n_hashes)
                        ranges = range_of(members["cluster"], self.ranges)
                        dealt.add(members, ranges)
                        sizes = members["id_bytes"].astype(np.int64) + members["kept_bytes"]
                        add_texts(texts, text, sizes, ranges, self.ranges)


def _members(
    some: Some, rows: NDArray[np.int64], lowest: NDArray[np.int64], source_rank: Any, n_hashes: int
) -> tuple[NDArray[np.void], bytes]:
    """Return the members that `rows` are, and their texts: id, then what is kept. lowest: of the cluster of each."""
    documents: Documents = some.documents.take(rows)
    members = np.zeros(len(rows), member_type(n_hashes))
    for name in _COPIED:
        members[name] = documents[name]
    members["cluster"] = mix64(lowest.astype(np.uint64))
    members["number"] = some.first + rows
    members["rank"] = source_rank(documents)
    if n_hashes:
        members["signature"] = some.part.signatures(documents)
    if some.part.keeps:
        members["kept_bytes"] = documents["kept_bytes"]
    return members, some.part.texts(documents)


def add_texts(
    writer: DealtWriter, texts: bytes, sizes: NDArray[np.integer[Any]], ranges: NDArray[np.int64], n_ranges: int
) -> None:
    """Deal out texts in the order in which `DealtWriter.add` deals out their records.

    Args:
        writer: writes them.
        texts: one after the other.
        sizes: of each, in bytes.
        ranges: of their records.
        n_ranges: how many there are.
    """
    dealt = b"".join(in_order(texts, sizes, order_of(ranges, n_ranges))) if n_ranges > 1 else texts
    counts = np.bincount(ranges, weights=sizes, minlength=n_ranges).astype(np.int64)
    writer.write(np.frombuffer(dealt, BYTE), counts)


class Texts:
    """The texts beside records, each of which may have several pieces: `dealt`, all of them one after the other, and
    the `sizes` of the pieces of each, int64 (records, pieces)."""

    def __init__(self, dealt: NDArray[np.uint8], sizes: NDArray[np.int64]) -> None:
        self._dealt, self.sizes = dealt, sizes
        self._starts = starts_of(sizes.reshape(-1)).reshape(sizes.shape)

    def joined(self, rows: NDArray[np.int64], piece: int) -> bytes:
        """Return one piece of the texts of `rows`, one after the other, in the order of `rows`, whatever its shape."""
        return gathered(self._dealt, self._starts[rows, piece].reshape(-1), self.sizes[rows, piece].reshape(-1))

    def take(self, rows: NDArray[np.int64], piece: int) -> list[bytes]:
        """Return one piece of the texts of `rows`."""
        return apart(self.joined(rows, piece), self.sizes[rows, piece])


class Clusters(Step):
    """Removes all but the survivors of every world_size-th range of clusters.

    Attributes:
        ranges: how many there are, and into how many removals are dealt out by survivor.
    """

    name = "Clusters"

    def __init__(self, division: Division, ranges: int) -> None:
        super().__init__(division)
        self.ranges = ranges

    def do(self, rank: int, world_size: int) -> None:
        """Write `removed/<rank>`, `removals/<rank>` and `removal-texts/<rank>`; count what was removed."""
        d, removed = self.division, Removed()
        mine = range(rank, self.ranges, world_size)
        members = Dealt(d.path("members"), member_type(d.n_hashes), mine)
        texts = Dealt(d.path("member-texts"), BYTE, mine)
        with (
            DealtWriter(d.path(f"removed/{rank:05d}"), d.stretches, NUMBER) as numbers,
            DealtWriter(d.path(f"removals/{rank:05d}"), self.ranges, REMOVAL) as dealt,
            DealtWriter(d.path(f"removal-texts/{rank:05d}"), self.ranges, BYTE) as dealt_texts,
        ):
            for number in mine:
                some = members.whole(number)
                if len(some):
                    removals, ids = removed.choose(some, texts.whole(number))
                    ranges = range_of(removals["survivor_hi"], self.ranges)
                    numbers.add(removals["number"], removals["number"] // d.width)
                    dealt.add(removals, ranges)
                    sizes = removals["id_bytes"].astype(np.int64) + removals["survivor_id_bytes"]
                    add_texts(dealt_texts, ids, sizes, ranges, self.ranges)
        note(d.path(f"removed/{rank:05d}"), removed.counts())


class Removed:
    """What is removed, some clusters at a time, and what is counted of it."""

    def __init__(self) -> None:
        self._documents, self._tokens = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._sizes = np.zeros(64, np.int64)
        self._drawn = np.zeros(1 << DRAWN_BITS, np.int64)

    def choose(self, members: NDArray[np.void], dealt_texts: NDArray[np.uint8]) -> tuple[NDArray[np.void], bytes]:
        """Return all of whole clusters but their survivors, as REMOVAL records in order of cluster and of preference,
        and the ids of both, one after the other."""
        texts = Texts(dealt_texts, np.stack([members["id_bytes"], members["kept_bytes"]], axis=1).astype(np.int64))
        order = _preference(members, texts)
        cluster = members["cluster"][order]
        begins = np.append(True, cluster[1:] != cluster[:-1])
        first = np.flatnonzero(begins)
        self._sizes += histogram(np.diff(np.append(first, len(members))))
        places = np.flatnonzero(~begins)
        rows, survivors, before = order[places], order[first[np.cumsum(begins)[places] - 1]], order[places - 1]
        removals = np.empty(len(rows), REMOVAL)
        for name in ("cluster", "key_hi", "key_lo", "number", "source", "id_bytes"):
            removals[name] = members[name][rows]
        for name, of in (("_hi", "key_hi"), ("_lo", "key_lo"), ("", "number"), ("_source", "source")):
            removals[f"survivor{name}"] = members[of][survivors]
        removals["survivor_id_bytes"] = members["id_bytes"][survivors]
        removals["exact"] = _same_key(members, rows, before)
        removals["similarity"] = _similarity(members, rows, survivors)
        self._count(members["drawn"][rows], members["tokens"][rows], removals["exact"])
        return removals, texts.joined(np.stack([rows, survivors], axis=1), 0)

    def _count(self, drawn: NDArray[np.uint64], tokens: NDArray[np.uint32], exact: NDArray[np.bool_]) -> None:
        add_drawn(self._drawn, drawn, tokens)
        self._documents += np.bincount(exact, minlength=2)
        np.add.at(self._tokens, exact.astype(np.int64), tokens.astype(np.int64))

    def counts(self) -> dict[str, Any]:
        """Return documents and tokens, each [near, exact]; clusters by size, as `histogram` counts them; and the tokens
        of the groups of `drawn` that have some."""
        groups = np.flatnonzero(self._drawn)
        counts = {"documents": self._documents, "tokens": self._tokens, "sizes": self._sizes}
        counts |= {"groups": groups, "group_tokens": self._drawn[groups]}
        return {name: values.tolist() for name, values in counts.items()}


def _same_key(members: NDArray[np.void], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    hi, lo = members["key_hi"], members["key_lo"]
    same: NDArray[np.bool_] = (hi[a] == hi[b]) & (lo[a] == lo[b])
    return same


def _similarity(
    members: NDArray[np.void], rows: NDArray[np.int64], survivors: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the share of equal hashes of the signatures of `rows` and those of their survivors, which estimates the
    Jaccard similarity of their word n-grams; 1 for equal keys."""
    similarity = np.ones(len(rows), np.float32)
    differs = np.flatnonzero(~_same_key(members, rows, survivors))
    if "signature" in (members.dtype.names or ()):
        for start in range(0, len(differs), _COMPARED):
            some = differs[start : start + _COMPARED]
            agree = members["signature"][rows[some]] == members["signature"][survivors[some]]
            similarity[some] = agree.mean(axis=1)
    return similarity


def _preference(members: NDArray[np.void], texts: Texts) -> NDArray[np.int64]:
    """Return the order of members by cluster and, within it, of preference, the survivor first."""
    sorted_by = [np.ascontiguousarray(members[name]) for name in ("cluster", *_KEYS, "rank")]
    order = order_by(*sorted_by)
    same = np.ones(max(0, len(order) - 1), np.bool_)
    for column in sorted_by:
        same &= column[order[1:]] == column[order[:-1]]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if not len(tied):
        return order
    ids = texts.take(order[tied], 0)
    beside = list(zip(ids, texts.take(order[tied], 1), strict=True)) if texts.sizes[:, 1].any() else ids
    edges = np.flatnonzero(np.append(True, ~same[tied[1:] - 1])).tolist()  # of the runs of equal ones
    runs = map(range, edges, [*edges[1:], len(tied)])
    order[tied] = order[tied[[i for run in runs for i in sorted(run, key=beside.__getitem__)]]]
    return order


def histogram(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return how many of `values`, all at least 1, are in [2^i, 2^(i+1)), int64 (64,)."""
    return np.bincount(np.frexp(values.astype(np.float64))[1] - 1, minlength=64).astype(np.int64)
