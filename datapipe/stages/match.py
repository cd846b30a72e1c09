"""Match: which documents agree with which. `Deal` goes once through the documents, in stretches of their numbers, and
deals what they are compared by, the key and each bucket of the signature, into ranges of its value. `Match` takes
these ranges one by one, brings equal values together and links the documents that have them. That takes n log n time,
however many values are equal, and memory for one range of values, or for all documents of one value.
"""

import contextlib

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ..arrays.ordering import order_by
from ..external_sort import Dealt, DealtWriter, range_of
from ..run.stage_progress import StageProgress
from .components import Edges, LinkWriter
from .division import Step
from .parts import Documents

VALUE = np.dtype([("value", "<u8"), ("number", "<i8")])
"""What documents are compared by. value: dealt out by its range."""

KEY = np.dtype([("value", "<u8"), ("more", "<u8"), ("number", "<i8"), ("source", "<i4")])
"""What exact duplicates are found by. more: the rest of the key. source: of distinct documents, else -1."""

DRAWN_BITS = 16
"""Documents are grouped by so many leading bits of `drawn`, to find out where validation ends."""


class Deal(Step):
    """Deals out keys and buckets of every world_size-th stretch of documents, and sums their tokens by `drawn`."""

    name = "Deal"

    def do(self, rank: int, world_size: int) -> None:
        """Write `values/<comparison>/<rank>` and `drawn/<rank>.bin`."""
        d, tokens, done = self.division, np.zeros(1 << DRAWN_BITS, np.int64), 0
        progress = StageProgress(d.work, "match", rank)
        with contextlib.ExitStack() as stack:
            keys, *buckets = (
                stack.enter_context(DealtWriter(d.path(f"values/{n:05d}/{rank:05d}"), d.ranges, VALUE if n else KEY))
                for n in range(d.comparisons)
            )
            for some in (some for _, stretch in d.some(rank, world_size) for some in stretch):
                add_drawn(tokens, some.documents["drawn"], some.documents["tokens"])
                _deal(keys, _keys(some.documents, some.first), d.ranges)
                signed = np.flatnonzero(some.documents["signed"])
                for b, writer in enumerate(buckets):
                    _deal(writer, _bucket(some.bucket(b), signed, some.first), d.ranges)
                done += len(some.documents)
                progress.report(done)
        storage.write_atomic(d.path(f"drawn/{rank:05d}.bin"), tokens.tobytes(), flush=False)


def _deal(writer: DealtWriter, records: NDArray[np.void], ranges: int) -> None:
    writer.add(records, range_of(records["value"], ranges))


def add_drawn(tokens: NDArray[np.int64], drawn: NDArray[np.uint64], lengths: NDArray[np.uint32]) -> None:
    """Add the tokens of some documents, `lengths`, to `tokens`, which has a place for each group of `drawn`."""
    np.add.at(tokens, drawn_group(drawn), lengths.astype(np.int64))


def drawn_group(drawn: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the leading bits of `drawn`."""
    return (drawn >> np.uint64(64 - DRAWN_BITS)).astype(np.int64)


def _keys(documents: Documents, first: int) -> NDArray[np.void]:
    records = np.empty(len(documents), KEY)
    records["value"], records["more"] = documents["key_hi"], documents["key_lo"]
    records["number"] = first + np.arange(len(documents))
    records["source"] = np.where(documents["distinct"], documents["source"].astype(np.int32), -1)
    return records


def _bucket(values: NDArray[np.uint64], signed: NDArray[np.int64], first: int) -> NDArray[np.void]:
    records = np.empty(len(signed), VALUE)
    records["value"], records["number"] = values[signed], first + signed
    return records


class Match(Step):
    """Links the documents of every world_size-th range of all that the values of comparisons were dealt into."""

    name = "Match"

    def do(self, rank: int, world_size: int) -> None:
        """Write `links/<rank>`."""
        d = self.division
        with LinkWriter(d.path(f"links/{rank:05d}"), d.stretches, d.width) as writer:
            for comparison in range(d.comparisons):
                mine = range((rank - comparison * d.ranges) % world_size, d.ranges, world_size)
                if mine:
                    values = Dealt(d.path(f"values/{comparison:05d}"), VALUE if comparison else KEY, mine)
                    for number in mine:
                        writer.add(links(values.whole(number)))


def links(records: NDArray[np.void]) -> Edges:
    """Return the links between documents that have the same value: VALUE or KEY records, in any order."""
    if not len(records):
        return np.zeros((0, 2), np.int64)
    order, same = _by_value(records) if records.dtype == VALUE else _by_key(records)
    at = np.flatnonzero(same) + 1
    first = np.append(True, np.diff(at) > 1)[: len(at)]
    leader = (at[first] - 1)[np.cumsum(first) - 1]  # of its value: chains would be as long as there are copies
    return records["number"][np.stack([order[leader], order[at]], axis=1)]


def _by_value(records: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the order of documents by value, and which have the same as the one before."""
    value = np.ascontiguousarray(records["value"])
    order = np.argsort(value)
    value = value[order]
    return order, value[1:] == value[:-1]


def _by_key(records: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the order of documents by key, and which are copies of the one before.

    Distinct documents of one source are none. So the first documents of a key of each source are copies of each other,
    so are the second ones, and so on.
    """
    value, more, number, source = (np.ascontiguousarray(records[name]) for name in KEY.names or ())
    order = order_by(value, more, source, number)
    value, more, source = value[order], more[order], source[order]
    same = (value[1:] == value[:-1]) & (more[1:] == more[:-1])
    apart = same & (source[1:] == source[:-1]) & (source[1:] >= 0)
    if not apart.any():
        return order, same
    rows = np.arange(len(order))
    nth = rows - np.maximum.accumulate(np.where(np.append(True, ~apart), rows, 0))  # within its key and source
    key = np.cumsum(np.append(True, ~same))
    by_nth = np.lexsort((nth, key))
    key, nth = key[by_nth], nth[by_nth]
    return order[by_nth], (key[1:] == key[:-1]) & (nth[1:] == nth[:-1])
