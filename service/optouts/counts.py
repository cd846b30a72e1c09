"""How often documents of a list are fed by stretches of plans: the ledger's arithmetic, for many documents at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError
from ...shards.order.packed_exposures import Fed, fed
from ..bounds import MOST_COUNTED
from ..ledger import Segment
from .places import Spans

Ints = NDArray[np.int64]


class Counted(NamedTuple):
    """What is fed of a list's documents.

    Attributes:
        held: documents with a token in what is trained on.
        documents: of which a token is fed at least once.
        tokens_fed: of all of them, each as often as it is fed.
        most: times that any token of them is fed.
    """

    held: int
    documents: int
    tokens_fed: int
    most: int


class _Pieces(NamedTuple):
    """Tokens [start, stop) of document number `document`, all fed `exposures` times; int64 (k,) each."""

    document: Ints
    start: Ints
    stop: Ints
    exposures: Ints


NONE = Counted(0, 0, 0, 0)


def count(segments: Sequence[Segment], places: Mapping[str, Spans]) -> Counted:
    """Return what `segments` feed of documents.

    Args:
        segments: those of the policy `repack` with their packing.
        places: the documents in each pool of a segment; those of equal keys are one document.

    Raises:
        RequestError: where the policy `global` would have too many samples looked at.
    """
    numbers: dict[bytes, int] = {}
    pieces: list[_Pieces] = []
    for segment in segments:
        found = places[segment.pool]
        own = np.array([numbers.setdefault(key, len(numbers)) for key in found.keys], np.int64)
        pieces += _pieces(segment, found, own)
    if not pieces:
        return NONE
    whole = _Pieces(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))
    seen = np.unique(whole.document[whole.exposures > 0])
    tokens = int(((whole.stop - whole.start) * whole.exposures).sum())
    return Counted(len(np.unique(whole.document)), len(seen), tokens, _most(whole))


def _pieces(segment: Segment, found: Spans, numbers: Ints) -> Iterator[_Pieces]:
    """Yield the pieces of documents in a segment's window, if there are any."""
    low, high = segment.window
    begin, end = np.maximum(found.starts, low) - low, np.minimum(found.starts + found.tokens, high) - low
    inside = np.flatnonzero(begin < end)
    if not len(inside):
        return
    row, start, stop = _cut(segment, begin[inside], end[inside])
    from_ = low - found.starts[inside][row]
    yield _Pieces(numbers[inside][row], start + from_, stop + from_, _exposures(segment, start))


def _cut(segment: Segment, begin: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """Cut ranges [begin, end) of the subset's own stream where samples begin; return (number of the range, start, stop)
    of each part."""
    if segment.plan.policy == "repack":
        edges = _fed(segment).edges
        first, last = np.searchsorted(edges, begin, "right"), np.searchsorted(edges, end, "left")
    else:
        first, last = begin // segment.plan.seq_len + 1, -(-end // segment.plan.seq_len)
    parts = last - first + 1
    row = np.repeat(np.arange(len(begin)), parts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    start, stop = begin[row], end[row]
    later = np.flatnonzero(number > 0)
    edge = first[row[later]] + number[later] - 1
    start[later] = edges[edge] if segment.plan.policy == "repack" else edge * segment.plan.seq_len
    stop[later - 1] = start[later]
    return row, start, stop


def _exposures(segment: Segment, tokens: Ints) -> Ints:
    """Return how often tokens of the subset's own stream are fed."""
    plan = segment.plan
    if plan.policy == "repack":
        return _fed(segment).exposures(tokens)
    samples, back = np.unique(tokens // plan.seq_len, return_inverse=True)
    if plan.policy == "global" and len(samples) * plan.copies > MOST_COUNTED:
        raise RequestError("too many samples are shuffled together (policy global) to count opt-outs in them")
    return np.asarray(plan.exposures(segment.stop, samples), np.int64)[back]


def _fed(segment: Segment) -> Fed:
    assert segment.packing is not None, "whoever counts documents knows how they are packed"
    return fed(segment.packing, segment.plan, segment.stop)


def _most(pieces: _Pieces) -> int:
    """Return the most times that a token is fed: each piece raises the level from its start to its stop."""
    edge, document = np.concatenate([pieces.start, pieces.stop]), np.concatenate([pieces.document] * 2)
    rise = np.concatenate([pieces.exposures, -pieces.exposures])
    order = np.lexsort((edge, document))
    edge, document = edge[order], document[order]
    level = np.cumsum(rise[order])
    settled = np.append((document[1:] != document[:-1]) | (edge[1:] != edge[:-1]), True)
    return int(level[settled].max())
