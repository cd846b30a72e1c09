"""Duplicates: the table of what was removed, duplicates.parquet, a row per removed document in order of survivor and
preference. Tasks write the rows of one range of survivors after the other, pieces of the table (tables/joined.py).

A document is an exact duplicate when another copy of its key was preferred to it; `survivor` is the document of its
cluster that is in the pool.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from ...common import storage
from ...shards import arrow
from ..external_sort import Dealt
from ..text.excerpts import LARGEST_CLUSTERS
from .cluster import BYTE, REMOVAL, Texts
from .division import Division, Step, note, noted

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
TABLE = "duplicates"
ROW_GROUP = 1 << 16

PAIRS = 4
"""Near-duplicates whose text the report shows."""

Pair = tuple[int, int, float]
"""A near-duplicate to be shown: number of the removed document, of its survivor, similarity."""


@dataclass
class RemovedCounts:
    """What deduplication removed, in documents and tokens.

    Attributes:
        sizes: clusters by size, as `histogram` counts them.
        pairs: near-duplicates to be shown, those of the smallest survivors, one for a survivor.
        pieces: of the table: name and number of rows of each file in `rows`, in order.
        clusters: the first row in the table, and the number of rows, of the largest clusters, largest first.
    """

    exact_documents: int = 0
    exact_tokens: int = 0
    near_documents: int = 0
    near_tokens: int = 0
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, np.int64))
    pairs: list[Pair] = field(default_factory=list)
    pieces: list[tuple[str, int]] = field(default_factory=list)
    clusters: list[tuple[int, int]] = field(default_factory=list)


def removed_counts(division: Division) -> RemovedCounts:
    """Return what `Clusters` and `Rows` counted."""
    removed = RemovedCounts()
    for counts in noted(division.path("removed")):
        (near, exact), (near_tokens, exact_tokens) = counts["documents"], counts["tokens"]
        removed.near_documents += near
        removed.exact_documents += exact
        removed.near_tokens += near_tokens
        removed.exact_tokens += exact_tokens
        removed.sizes += np.array(counts["sizes"], np.int64)
    tasks = noted(division.path("rows"))
    pairs = sorted(tuple(pair) for task in tasks for pair in task["pairs"])
    removed.pairs = [(number, survivor, similarity) for *_, number, survivor, similarity in pairs[:PAIRS]]
    rows = dict(sorted((number, n) for task in tasks for number, n in task["rows"]))
    removed.pieces = [(_piece(number), n) for number, n in rows.items()]
    begins = dict(zip(rows, itertools.accumulate(rows.values(), initial=0), strict=False))
    clusters = [(begins[number] + first, n) for task in tasks for number, first, n in task["clusters"]]
    removed.clusters = heapq.nsmallest(LARGEST_CLUSTERS, clusters, key=lambda cluster: (-cluster[1], cluster[0]))
    return removed


def _piece(number: int) -> str:
    """Return the name of the file of the rows of a range."""
    return f"{number:05d}.arrow"


class Rows(Step):
    """Writes the rows of every world_size-th range of survivors.

    Attributes:
        ranges: how many there are.
    """

    name = "Rows"

    def __init__(self, division: Division, ranges: int) -> None:
        super().__init__(division)
        self.ranges = ranges

    def do(self, rank: int, world_size: int) -> None:
        """Write `rows/<range>.arrow`, where there are some; note how many, and what of them is to be shown."""
        d = self.division
        mine = range(rank, self.ranges, world_size)
        dealt, dealt_texts = (Dealt(d.path(n), t, mine) for n, t in (("removals", REMOVAL), ("removal-texts", BYTE)))
        pairs: list[tuple[int, Pair]] = []
        rows, clusters = [], []
        for number in mine:
            removals = dealt.whole(number)
            if not len(removals):
                continue
            sizes = np.stack([removals["id_bytes"], removals["survivor_id_bytes"]], axis=1).astype(np.int64)
            texts = Texts(dealt_texts.whole(number), sizes)
            columns = [np.ascontiguousarray(removals[name]) for name in ("cluster", "survivor_lo", "survivor_hi")]
            order = np.lexsort(columns)
            pairs += [(number, pair) for pair in _pairs(removals, order)]
            clusters += [(number, *cluster) for cluster in _largest(removals["survivor"][order])]
            rows.append((number, len(order)))
            path = d.path(f"rows/{_piece(number)}")
            with storage.publishing_file(path) as partial, pa.ipc.new_file(partial, DUPLICATES) as writer:
                for start in range(0, len(order), ROW_GROUP):
                    writer.write_batch(_batch(d, removals, order[start : start + ROW_GROUP], texts))
        shown = [[number, i, *pair] for i, (number, pair) in enumerate(pairs)]
        note(d.path(f"rows/{rank:05d}"), {"pairs": shown, "rows": rows, "clusters": clusters})


def _batch(division: Division, removals: NDArray[np.void], rows: NDArray[np.int64], texts: Texts) -> pa.RecordBatch:
    """Return some rows of the table."""
    some = removals.take(rows)
    keys = arrow.keys(some["key_hi"], some["key_lo"])
    survivors = arrow.keys(some["survivor_hi"], some["survivor_lo"])
    hexadecimal = survivors.tobytes().hex().encode()
    arrays = [
        arrow.binary(keys),
        arrow.joined_strings(texts.joined(rows, 0), some["id_bytes"]),
        arrow.chosen(some["source"], division.sources),
        arrow.binary(survivors),
        arrow.joined_strings(texts.joined(rows, 1), some["survivor_id_bytes"]),
        arrow.chosen(some["survivor_source"], division.sources),
        arrow.chosen(some["exact"], ("near", "exact")),
        arrow.joined_strings(hexadecimal, np.full(len(some), 32)),
        arrow.numbers(np.ascontiguousarray(some["similarity"])),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=DUPLICATES)


def _largest(survivors: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """Return first row and number of rows of the largest clusters, given the survivor of each row."""
    begins = np.flatnonzero(np.append(True, survivors[1:] != survivors[:-1]))
    sizes = np.diff(np.append(begins, len(survivors)))
    chosen = np.argsort(-sizes, kind="stable")[:LARGEST_CLUSTERS]
    return list(zip(begins[chosen].tolist(), sizes[chosen].tolist(), strict=True))


def _pairs(removals: NDArray[np.void], order: NDArray[np.int64]) -> list[Pair]:
    """Return the first near-duplicate of each of the first survivors that have one."""
    near = order[~removals["exact"][order]]
    survivor = removals["survivor"][near]
    first = near[np.append(True, survivor[1:] != survivor[:-1])][:PAIRS] if len(near) else near
    return [(int(row["number"]), int(row["survivor"]), float(row["similarity"])) for row in removals[first]]
