"""Duplicates: the table of what was removed, duplicates.parquet, a row per removed document in order of survivor and
preference. Tasks write the rows of one range of survivors after the other; `join_duplicates` puts them together.

A document is an exact duplicate when another copy of its key was preferred to it; `survivor` is the document of its
cluster that is in the pool.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...shards import arrow
from ..external_sort import Dealt
from .cluster import BYTE, REMOVAL, Texts
from .division import Division, Step, note, noted
from .parts import BUILD_AGAIN

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
TABLE_NAME = "duplicates.parquet"
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
    """

    exact_documents: int = 0
    exact_tokens: int = 0
    near_documents: int = 0
    near_tokens: int = 0
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, np.int64))
    pairs: list[Pair] = field(default_factory=list)


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
    pairs = [tuple(pair) for ranges in noted(division.path("rows")) for pair in ranges["pairs"]]
    removed.pairs = [(number, survivor, similarity) for *_, number, survivor, similarity in sorted(pairs)[:PAIRS]]
    return removed


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
        """Write `rows/<range>.arrow`, where there are some, and note pairs to be shown."""
        d = self.division
        mine = range(rank, self.ranges, world_size)
        dealt, dealt_texts = (Dealt(d.path(n), t, mine) for n, t in (("removals", REMOVAL), ("removal-texts", BYTE)))
        pairs: list[tuple[int, Pair]] = []
        for number in mine:
            removals = dealt.whole(number)
            if not len(removals):
                continue
            sizes = np.stack([removals["id_bytes"], removals["survivor_id_bytes"]], axis=1).astype(np.int64)
            texts = Texts(dealt_texts.whole(number), sizes)
            columns = [np.ascontiguousarray(removals[name]) for name in ("cluster", "survivor_lo", "survivor_hi")]
            order = np.lexsort(columns)
            pairs += [(number, pair) for pair in _pairs(removals, order)]
            path = d.path(f"rows/{number:05d}.arrow")
            with storage.publishing_file(path) as partial, pa.ipc.new_file(partial, DUPLICATES) as writer:
                for start in range(0, len(order), ROW_GROUP):
                    writer.write_batch(_batch(d, removals, order[start : start + ROW_GROUP], texts))
        shown = [[number, i, *pair] for i, (number, pair) in enumerate(pairs)]
        note(d.path(f"rows/{rank:05d}"), {"pairs": shown})


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


def _pairs(removals: NDArray[np.void], order: NDArray[np.int64]) -> list[Pair]:
    """Return the first near-duplicate of each of the first survivors that have one."""
    near = order[~removals["exact"][order]]
    survivor = removals["survivor"][near]
    first = near[np.append(True, survivor[1:] != survivor[:-1])][:PAIRS] if len(near) else near
    return [(int(row["number"]), int(row["survivor"]), float(row["similarity"])) for row in removals[first]]


def join_duplicates(division: Division, path: str) -> None:
    """Write the rows of all ranges as one table, whose row groups do not show how many there were."""
    with storage.publishing_file(path) as partial, pq.ParquetWriter(partial, DUPLICATES) as writer:
        waiting: list[pa.RecordBatch] = []
        n_waiting = 0
        for batch in _row_batches(division):
            waiting.append(batch)
            n_waiting += batch.num_rows
            if n_waiting >= ROW_GROUP:
                table = pa.Table.from_batches(waiting).combine_chunks()
                writer.write_table(table.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                waiting = table.slice(ROW_GROUP).to_batches()
                n_waiting -= ROW_GROUP
        if n_waiting:
            writer.write_table(pa.Table.from_batches(waiting).combine_chunks(), row_group_size=ROW_GROUP)


def _row_batches(division: Division) -> Iterator[Any]:
    folder = division.path("rows")
    for name in (name for name in storage.names(folder) if name.endswith(".arrow")):
        path = storage.join(folder, name)
        try:
            with storage.open_read(path) as file, pa.ipc.open_file(file) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
        except pa.ArrowInvalid:
            raise WorkError(f"{path} is damaged: it was cut; {BUILD_AGAIN}") from None
