"""What lies at a position of a run: which documents, and how much of each; and where in a run a document comes.

Sample j of an artifact is the range [f + jS, f + (j + 1) S) of the stream that a table of documents is of, cut at the
artifact's end, with f where the artifact begins in it: so that table answers, and no shard is read.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...common.errors import RequestError
from ..artifact import Artifact
from ..documents import DOCUMENTS_NAME, DocumentStarts, find_documents
from .base import Int, Order, Repetition
from .packing import Packing

MOST_PLACES = 10_000_000
"""Places of a document in a run that are listed."""


@dataclass(frozen=True)
class Table:
    """Which documents an artifact holds.

    Attributes:
        documents: the table, of the artifact's own stream (pools, copies) or of that of its pool (views).
        first: position of that stream at which the artifact begins.
    """

    documents: DocumentStarts
    first: int


@dataclass(frozen=True)
class Piece:
    """The part of a document that lies in a sample.

    Attributes:
        number: of the document in the table, from 0: in its pool, or in a subset that stands alone.
        key: 32 hexadecimal digits.
        id: as its source names it.
        source: of the build.
        of: tokens of the document in the table, EOD included: a subset that stands alone has those in its window.
        begin: the first of them in the sample, from 0.
        tokens: of it in the sample.
    """

    number: int
    key: str
    id: str
    source: str
    of: int
    begin: int
    tokens: int


@dataclass(frozen=True)
class Content:
    """What a position reads.

    Attributes:
        id: of the sample, counted through the sources of a mixture.
        component: the name of its source in a mixture, empty for a plan.
        sample: its number in its own subset.
        documents: in the order of their tokens in the sample.
    """

    position: int
    id: int
    component: str
    sample: int
    documents: tuple[Piece, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data; `component` and `sample`, which say more in a mixture alone, only there."""
        body = asdict(self) | {"documents": [asdict(piece) for piece in self.documents]}
        return body if self.component else {k: v for k, v in body.items() if k not in ("component", "sample")}


@dataclass(frozen=True)
class Place:
    """A position at which a run reads some of a document: `pass_` is that over the position's own subset."""

    position: int
    pass_: int
    id: int
    component: str
    document: Piece

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        body = {"position": self.position, "pass": self.pass_, "id": self.id, "component": self.component}
        return {k: v for k, v in body.items() if v != ""} | {"document": asdict(self.document)}


def documents_of(artifact: Artifact) -> Table:
    """Return the table that tells which documents lie where in an artifact.

    Raises:
        RequestError: when it has none.
        WorkError: when the table is damaged.
    """
    found = find_documents(artifact.root, artifact.manifest)
    if found is None:
        raise RequestError(
            f"{artifact.root} has no {DOCUMENTS_NAME}, which says where documents begin: carve it again, today's "
            "copies have one"
        )
    root, files, first = found
    return Table(DocumentStarts(root, files), first)


def contents(order: Order, tables: Sequence[Table], positions: range | ArrayLike) -> list[Content]:
    """Return what each position reads, in the order of `positions`.

    Args:
        tables: of each component, in the components' order.

    Raises:
        RequestError: for positions that the order does not have.
    """
    wanted = np.asarray(positions, np.int64)
    ids = order.ids(wanted)
    numbers, samples = (part.astype(np.int64) for part in order.locate(ids))
    plans = list(order.components().items())
    found: dict[int, Content] = {}
    packed = _packed_pieces(order, tables, wanted, numbers, samples)
    for i in np.lexsort((samples, numbers)).tolist():  # each row group is read once
        (name, plan), sample = plans[numbers[i]], int(samples[i])
        pieces = packed[i] if i in packed else _pieces(plan, tables[numbers[i]], sample)
        found[i] = Content(int(wanted[i]), int(ids[i]), name, sample, pieces)
    return [found[i] for i in range(len(wanted))]


@lru_cache(maxsize=2)
def _packing(plan: Repetition, table: Table) -> Packing:
    return Packing.of(plan, table.documents, table.first)


def _packed_pieces(
    order: Order, tables: Sequence[Table], positions: Int, numbers: Int, samples: Int
) -> dict[int, tuple[Piece, ...]]:
    """Return what those of some positions hold whose component packs its documents anew, by their places in the list.

    Args:
        numbers: of their components.
        samples: their numbers in those, int64 (k,) as all of them.
    """
    found: dict[int, list[Piece]] = {}
    for number, (plan, table) in enumerate(zip(order.components().values(), tables, strict=True)):
        where = np.flatnonzero(numbers == number)
        if plan.policy != "repack" or not len(where):
            continue
        pieces = _packing(plan, table).pieces(order.passes_at(positions[where]), samples[where])
        spans = list(zip((pieces.start + table.first).tolist(), pieces.tokens.tolist(), strict=True))
        shown = {i: _piece(table.documents.rows(a, a + n)[0], a, a + n) for i, (a, n) in _by_start(spans)}
        for i, sample in enumerate(pieces.sample.tolist()):
            found.setdefault(int(where[sample]), []).append(shown[i])
    return {i: tuple(row) for i, row in found.items()}


def _by_start(spans: list[tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    """Return spans of a stream with their places in the list, in the stream's order: each row group is read once."""
    return sorted(enumerate(spans), key=lambda span: span[1])


def _pieces(plan: Repetition, table: Table, sample: int) -> tuple[Piece, ...]:
    start, stop = _span(plan, table.first, sample)
    return tuple(_piece(row, start, stop) for row in table.documents.rows(start, stop))


def _span(plan: Repetition, first: int, sample: int) -> tuple[int, int]:
    """Return the range of a sample in the stream of which position `first` is where its artifact begins."""
    start = first + sample * plan.seq_len
    return start, min(start + plan.seq_len, first + plan.unique_tokens)


def _piece(row: dict[str, Any], start: int, stop: int) -> Piece:
    """Return the part in the stream range [start, stop) of the document in a row."""
    begin, end = max(start, row["start"]), min(stop, row["start"] + row["tokens"])
    shown = (row["number"], row["key"].hex(), row["id"], row["source"], row["tokens"])
    return Piece(*shown, begin - row["start"], end - begin)


def places(order: Order, tables: Sequence[Table], name: str, span: range) -> list[Place]:
    """Return where in the positions `span` the documents come whose id or key is `name`, in the order of positions.

    Args:
        tables: as for `contents`.

    Raises:
        RequestError: where no component has such a document, or there are too many places.
    """
    found = places_of(order, tables, [table.documents.named(name) for table in tables], span)
    if found is None:
        raise RequestError(f"no document of this run has the id or key '{name}'")
    return found


def places_of(
    order: Order, tables: Sequence[Table], documents: Sequence[list[dict[str, Any]]], span: range
) -> list[Place] | None:
    """Return where in the positions `span` some documents come, in the order of positions; None where no component
    has a token of them.

    Args:
        tables: as for `contents`.
        documents: rows of each table.

    Raises:
        RequestError: where there are too many places.
    """
    found, known = [], False
    offset = 0
    for (component, plan), table, rows in zip(order.components().items(), tables, documents, strict=True):
        for row in rows:
            if plan.policy == "repack":
                there = _packed_places(order, _packing(plan, table), table, component, row, offset, span)
                known |= there is not None
                found += there or []
                continue
            samples = _samples_with(plan, table.first, row)
            known |= bool(samples)
            pieces = [_piece(row, *_span(plan, table.first, sample)) for sample in samples]
            found += _places(order, plan, component, pieces, samples, offset, span)
        offset += plan.samples
    return sorted(found, key=lambda place: (place.position, place.document.number)) if known else None


def _samples_with(plan: Repetition, first: int, row: dict[str, Any]) -> range:
    """Return the samples of a component, which begins at `first`, that hold a token of the document in a row."""
    begin, end = max(0, row["start"] - first), min(plan.unique_tokens, row["start"] + row["tokens"] - first)
    return range(begin // plan.seq_len, -(-end // plan.seq_len)) if begin < end else range(0)


def _places(
    order: Order, plan: Repetition, component: str, pieces: Sequence[Piece], samples: range, offset: int, span: range
) -> list[Place]:
    """Return the places within `span` of pieces of one document, each in a sample of a component."""
    if len(samples) * plan.copies > MOST_PLACES:
        raise RequestError(f"the document comes more than {MOST_PLACES:,} times: ask for a shorter run")
    ids = np.arange(samples.start, samples.stop, dtype=np.uint64) + np.uint64(offset)
    found = []
    for pass_ in range(plan.copies if samples else 0):
        at = order.position_of(ids, pass_).tolist()
        rows = zip(at, ids.tolist(), pieces, strict=True)
        found += [Place(position, pass_, id_, component, piece) for position, id_, piece in rows if position in span]
    return found


def _packed_places(
    order: Order, packing: Packing, table: Table, component: str, row: dict[str, Any], offset: int, span: range
) -> list[Place] | None:
    """Return the places within `span` of the document in a row, which each pass cuts elsewhere; None where no token of
    it lies in the component."""
    plan, first = packing.plan, table.first
    begin, end = max(0, row["start"] - first), min(plan.unique_tokens, row["start"] + row["tokens"] - first)
    if begin >= end:
        return None
    if plan.copies > MOST_PLACES:
        raise RequestError(f"the document comes more than {MOST_PLACES:,} times: ask for a shorter run")
    found = []
    document = int(np.searchsorted(packing.edges, begin, side="right")) - 1
    for pass_ in range(plan.copies):
        at = packing.place(document, pass_)
        samples = range(at // plan.seq_len, -(-(at + end - begin) // plan.seq_len))
        ids = np.arange(samples.start, samples.stop, dtype=np.uint64) + np.uint64(offset)
        for sample, position in zip(samples, order.position_of(ids, pass_).tolist(), strict=True):
            if position in span:
                low, high = (min(max(edge * plan.seq_len - at, 0), end - begin) for edge in (sample, sample + 1))
                piece = _piece(row, first + begin + low, first + begin + high)
                found.append(Place(position, pass_, sample + offset, component, piece))
    return found
