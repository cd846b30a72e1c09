"""The ledger: how often a run has been fed a document, by arithmetic on plans and positions.

A model's history is a list of segments: the run itself up to its position, its parent up to the position where it was
taken over, and so on; a run on a mixture is a segment for each of its sources, whose own plan stands where the mixture
has read so many of its samples. In every segment a document's tokens lie in a few samples of the subset; how often a
sample came in positions [0, stop) follows from the inverse of the order. docs/service.md has an example worked by hand.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..shards.order.base import Order, Repetition
from ..shards.order.many import tallies
from ..shards.order.mixture import positions_of_own
from ..shards.order.packed_exposures import Fed, fed
from ..shards.order.packing import Packing
from .document_index import key_array
from .errors import NotFoundError

Ints = NDArray[np.int64]
DocumentReader = Callable[[str], Iterator[dict[str, Any]]]
"""Yields the columns key (pyarrow), start and tokens (int64) of a pool's documents, by the pool's fingerprint."""

_SCAN = 1 << 20
"""Samples whose exposures are held at once."""


class Segment(NamedTuple):
    """Positions [0, stop) of a plan, trained by `run` in batches of `batch_samples`.

    Attributes:
        pool: fingerprint of the pool whose stream the plan's samples are cut from.
        order: the mixture whose component number `component` the plan is, if any; `stop` is then how many of the
            component's own positions came.
        packing: of a plan of the policy `repack`, where documents are to be looked at.
    """

    run: str
    plan: Repetition
    stop: int
    batch_samples: int
    pool: str
    order: Order | None = None
    component: int = 0
    packing: Packing | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Return the stream range of the pool that the plan's subset is."""
        start = self.plan.start_sample * self.plan.seq_len
        return start, start + self.plan.unique_tokens

    @property
    def source(self) -> str | None:
        """Return the name of the mixture's source, if any."""
        return list(self.order.components())[self.component] if self.order else None


def segments_of(run: str, order: Order, stop: int, batch_samples: int, pool_of: Callable[[str], str]) -> list[Segment]:
    """Return what positions [0, stop) of a run's order are: one segment, or one for each source of a mixture.

    Args:
        pool_of: from a subset's fingerprint to its pool's.
    """
    if order.kind == "plan":  # its positions are the run's as they are
        (plan,) = order.components().values()
        return [Segment(run, plan, stop, batch_samples, pool_of(plan.subset))]
    return [
        Segment(run, plan, count, batch_samples, pool_of(plan.subset), order, number)
        for number, (plan, count) in enumerate(plans_at(order, stop))
    ]


def plans_at(order: Order, position: int) -> list[tuple[Repetition, int]]:
    """Return the plans of an order, each with how many of its own positions come before `position`."""
    if order.kind == "plan":  # all of them are its own
        return [(plan, position) for plan in order.components().values()]
    return list(zip(order.components().values(), _counts(order, position), strict=True))


@lru_cache(maxsize=1 << 14)
def _counts(mixture: Order, position: int) -> tuple[int, ...]:
    """Return `counts`, which costs a window's work: most runs that are asked about are over."""
    return tuple(mixture.counts(position))


class Part(NamedTuple):
    """Tokens [start, stop) of a document, all in one sample: its exposures, first and last position (None: none).

    Attributes:
        sample: its number in the segment's subset; None with the policy `repack`, whose samples are others in every
            pass. The positions are the run's, also in a mixture.
    """

    sample: int | None
    start: int
    stop: int
    exposures: int
    first: int | None
    last: int | None


def parts(segments: Sequence[Segment], spans: Sequence[tuple[int, int]]) -> list[list[Part]]:
    """Return, for each segment, the parts of the document that lies at spans[i] = (start, tokens) of its pool.

    Tokens outside of a segment's window are in no part. Costs O(parts) (`global`: O(parts x copies)) in all, and for
    a source of a mixture a window's work for each first and last position.
    """
    which, samples, starts, stops = _cut(segments, spans)
    ends = np.array([segment.stop for segment in segments], np.int64)
    counts = tallies([segment.plan for segment in segments], ends, which, samples)
    columns = [which, samples, starts, stops, *counts]
    packed = [row for i in _repacked(segments) for row in _packed_parts(i, segments[i], *spans[i])]
    if packed:
        columns = [np.append(*both) for both in zip(columns, np.array(packed, np.int64).T, strict=True)]
    columns[5:] = _in_the_runs(segments, columns[0], *columns[4:])
    rows: list[list[Part]] = [[] for _ in segments]
    for i, sample, start, stop, seen, first, last in zip(*(column.tolist() for column in columns), strict=True):
        places = (first, last) if seen else (None, None)
        rows[i].append(Part(sample if sample >= 0 else None, start, stop, seen, *places))
    return rows


def _repacked(segments: Sequence[Segment]) -> list[int]:
    return [i for i, segment in enumerate(segments) if segment.plan.policy == "repack"]


def _packed_parts(number: int, segment: Segment, start: int, tokens: int) -> list[tuple[int, ...]]:
    """Return the parts in a segment of the policy `repack`, as `parts` has them in columns; their sample is -1."""
    low, high = segment.window
    rows = _fed(segment).parts(max(start, low) - low, min(start + tokens, high) - low)
    return [(number, -1, a + low - start, b + low - start, n, first or 0, last or 0) for a, b, n, first, last in rows]


def _fed(segment: Segment) -> Fed:
    assert segment.packing is not None, "whoever asks about documents knows how they are packed"
    return fed(segment.packing, segment.plan, segment.stop)


def _cut(segments: Sequence[Segment], spans: Sequence[tuple[int, int]]) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the samples that hold a document, by (number of the segment, sample, from, to), int64 (k,) each: tokens
    [from, to) of the document lie in it. None of segments of the policy `repack`."""
    start, tokens = np.array(spans, np.int64).reshape(-1, 2).T
    low, high = np.array([segment.window for segment in segments], np.int64).reshape(-1, 2).T
    width = np.array([segment.plan.seq_len for segment in segments], np.int64)
    begin, end = np.maximum(start, low), np.minimum(start + tokens, high)
    first = (begin - low) // width
    many = np.where(begin < end, -((low - end) // width) - first, 0)
    many[_repacked(segments)] = 0
    which = np.repeat(np.arange(len(segments)), many)
    sample = np.arange(len(which)) - np.repeat(np.cumsum(many) - many - first, many)
    edge = low[which] + sample * width[which]
    from_, to = np.maximum(edge, begin[which]), np.minimum(edge + width[which], end[which])
    return which, sample, from_ - start[which], to - start[which]


def _in_the_runs(segments: Sequence[Segment], which: Ints, seen: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Return first and last positions, where there are any, of the run in place of those of a mixture's component."""
    mixed = np.array([segment.order is not None for segment in segments], bool)
    where = np.flatnonzero(mixed[which] & (seen > 0))
    if not len(where):
        return first, last
    later = where[last[where] != first[where]]
    sources = [(segment.order or segment.plan, segment.component) for segment in segments]
    asked = np.append(which[where], which[later]), np.append(first[where], last[later])
    at = positions_of_own(sources, *asked).astype(np.int64)
    first[where] = last[where] = at[: len(where)]
    last[later] = at[len(where) :]
    return first, last


def intervals(tokens: int, found: Sequence[Sequence[Part]]) -> list[tuple[int, int, int]]:
    """Return (start, stop, exposures) of a document's `tokens` tokens, summed over segments, in order, joined."""
    whole = [part for row in found for part in row]
    if not [part for part in whole if part.start or part.stop != tokens]:
        return [(0, tokens, sum([part.exposures for part in whole]))]
    edges = sorted({0, tokens, *(edge for part in whole for edge in (part.start, part.stop))})
    steps = dict.fromkeys(edges, 0)
    for part in whole:
        steps[part.start] += part.exposures
        steps[part.stop] -= part.exposures
    out: list[tuple[int, int, int]] = []
    level = 0
    for start, stop in itertools.pairwise(edges):
        level += steps[start]
        if out and out[-1][2] == level:
            start = out.pop()[0]
        out.append((start, stop, level))
    return out


# -- over all documents ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens seen equally often: of document `document` (any number that differs between documents), tokens
    [start, stop), `exposures` times; `inside`: in the window of some segment. Arrays of shape (k,)."""

    document: Ints
    start: Ints
    stop: Ints
    exposures: Ints
    inside: Ints


def histogram(segments: Sequence[Segment], read: DocumentReader) -> dict[str, dict[int, int]]:
    """Return how many documents, and tokens, were seen how often over all segments.

    whole: {k: documents whose every token was seen at least k times, and some token no more}; any: {k: documents whose
    most seen token was seen k times}; tokens: {k: tokens}. Documents count that have a token in the window of some
    segment, tokens that lie in one. Documents of several pools are joined by key, so that costs memory: 80 bytes for
    each document and sample; of one pool they are taken a row group at a time.
    """
    by_pool: dict[str, list[Segment]] = {}
    for segment in segments:
        by_pool.setdefault(segment.pool, []).append(segment)
    totals: dict[str, dict[int, int]] = {"whole": {}, "any": {}, "tokens": {}}
    if len(by_pool) == 1:
        ((pool, of_pool),) = by_pool.items()
        for chunk in read(pool):
            _add(totals, _pieces(of_pool, chunk["start"], chunk["tokens"]))
    elif by_pool:
        _add(totals, _joined(by_pool, read))
    return {name: dict(sorted(counts.items())) for name, counts in totals.items()}


def _pieces(segments: Sequence[Segment], starts: Ints, tokens: Ints) -> Pieces:
    """Cut documents that follow each other in a pool's stream at the edges of samples and windows."""
    low, high, width = int(starts[0]), int(starts[-1] + tokens[-1]), segments[0].plan.seq_len
    edges = np.arange(-(-low // width) * width, high, width, dtype=np.int64)
    ends = np.array([edge for s in segments for edge in s.window if low <= edge < high], np.int64)
    packed = [_fed(s).edges + s.window[0] for s in segments if s.plan.policy == "repack"]
    packed = [more[np.searchsorted(more, low) : np.searchsorted(more, high)] for more in packed]
    cuts = np.unique(np.concatenate([edges, ends, starts, *packed]))
    seen, inside = np.zeros(len(cuts), np.int64), np.zeros(len(cuts), np.int64)
    for segment in segments:
        begin, end = np.searchsorted(cuts, segment.window)
        if begin < end and segment.plan.policy == "repack":
            seen[begin:end] += _fed(segment).exposures(cuts[begin:end] - segment.window[0])
            inside[begin:end] = 1
        elif begin < end:
            samples, back = np.unique(cuts[begin:end] // width - segment.plan.start_sample, return_inverse=True)
            seen[begin:end] += segment.plan.exposures(segment.stop, samples)[back]
            inside[begin:end] = 1
    document = np.searchsorted(starts, cuts, side="right") - 1
    stops = np.append(cuts[1:], high)
    return Pieces(document, cuts - starts[document], stops - starts[document], seen, inside)


def _joined(by_pool: Mapping[str, Sequence[Segment]], read: DocumentReader) -> Pieces:
    """Return the pieces of documents that may lie in several pools: those of one key are one document."""
    found: list[Pieces] = []
    keys: list[NDArray[np.void]] = []
    for pool, segments in by_pool.items():
        for chunk in read(pool):
            found.append(_pieces(segments, chunk["start"], chunk["tokens"]))
            keys.append(key_array(chunk["key"])[found[-1].document])
    _, document = np.unique(np.concatenate(keys), return_inverse=True)
    start, stop, seen, inside = (
        np.concatenate([getattr(p, name) for p in found]) for name in ("start", "stop", "exposures", "inside")
    )
    # A piece raises the level at its start and lowers it at its stop; documents follow each other.
    edge, document = np.concatenate([start, stop]), np.concatenate([document, document])
    rise, cover = np.concatenate([seen, -seen]), np.concatenate([inside, -inside])
    order = np.lexsort((edge, document))
    edge, document = edge[order], document[order].astype(np.int64)
    level, covered = np.cumsum(rise[order])[:-1], np.cumsum(cover[order])[:-1]
    real = np.flatnonzero((document[1:] == document[:-1]) & (edge[1:] > edge[:-1]))
    return Pieces(document[real], edge[real], edge[real + 1], level[real], covered[real])


def _add(totals: dict[str, dict[int, int]], pieces: Pieces) -> None:
    """Add pieces, sorted by document, to the histograms."""
    first = np.flatnonzero(np.diff(pieces.document, prepend=-1))
    counted = np.maximum.reduceat(pieces.inside, first) > 0
    length = np.where(pieces.inside > 0, pieces.stop - pieces.start, 0)
    for name, values, weights in (
        ("whole", np.minimum.reduceat(pieces.exposures, first), counted),
        ("any", np.maximum.reduceat(pieces.exposures, first), counted),
        ("tokens", pieces.exposures, length),
    ):
        kinds, back = np.unique(values, return_inverse=True)
        sums = np.zeros(len(kinds), np.int64)
        np.add.at(sums, back, weights.astype(np.int64))
        for kind, n in zip(kinds.tolist(), sums.tolist(), strict=True):
            if n:
                totals[name][kind] = totals[name].get(kind, 0) + n


# -- the most seen document -----------------------------------------------------------------------------------------


def most_at(plan: Repetition, stop: int) -> int:
    """Return a number of exposures that no sample exceeds in positions [0, stop); some sample reaches it but for
    `global`, where it is the number of copies, or of positions, and where spans are passed over."""
    if plan.policy == "global" or plan.skips:
        return min(stop, plan.copies)
    return -(-stop // plan.samples)


def most_exposed(segments: Sequence[Segment], cap: int, read: DocumentReader) -> int:
    """Return the exposures of the most seen token over all segments, exactly when they exceed `cap`.

    Up to `cap` a bound that costs nothing may be returned, and also where the documents of one of several pools cannot
    be read, and with the policy `repack`, whose every pass feeds all documents. Looking stops at the first sample that
    reaches the bound, nearly always among the first million.
    """
    by_pool: dict[str, list[Segment]] = {}
    for segment in segments:
        if segment.stop:
            by_pool.setdefault(segment.pool, []).append(segment)
    bound = sum(map(_bound, by_pool.values()))
    if bound <= cap or any(s.plan.policy == "repack" for s in segments):
        return bound
    if len(by_pool) == 1:
        ((_, of_pool),) = by_pool.items()
        return _most_in_pool(of_pool, bound)
    segments = [s for of_pool in by_pool.values() for s in of_pool]
    try:
        return max(histogram(segments, read)["any"], default=0)
    except NotFoundError:
        return bound


def _bound(segments: Sequence[Segment]) -> int:
    """Return exposures that no sample of a pool exceeds: the most that windows come to where they overlap."""
    spans = [(s.plan.start_sample, s.plan.start_sample + s.plan.samples, most_at(s.plan, s.stop)) for s in segments]
    return max(sum(most for low, high, most in spans if low <= start < high) for start, _, _ in spans)


def _most_in_pool(segments: Sequence[Segment], bound: int) -> int:
    """Return the exposures of the most seen sample of a pool; `bound` is never exceeded."""
    best = 0
    low = min(s.plan.start_sample for s in segments)
    high = max(s.plan.start_sample + s.plan.samples for s in segments)
    for begin in range(low, high, _SCAN):
        end = min(begin + _SCAN, high)
        seen = np.zeros(end - begin, np.int64)
        for s in segments:
            first, last = max(begin, s.plan.start_sample), min(end, s.plan.start_sample + s.plan.samples)
            if first < last:
                ids = np.arange(first, last) - s.plan.start_sample
                seen[first - begin : last - begin] += s.plan.exposures(s.stop, ids)
        best = max(best, int(seen.max()))
        if best == bound:
            break
    return best
