"""What lies at a position of a run: which documents, and how much of each; and where in a run a document comes.

Sample j of a subset is the stream range [(start + j) S, (start + j + 1) S) of its pool, cut at the subset's end, with
`start` the window's first sample: so the pool's table of documents answers, and no shard is read.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...common import storage
from ...common.errors import RequestError
from ..artifact import Artifact, may_ask, read_manifest
from ..documents import DOCUMENTS_NAME, DocumentStarts
from .base import Order, Repetition

MOST_PLACES = 10_000_000
"""Places of a document in a run that are listed."""


@dataclass(frozen=True)
class Piece:
    """The part of a document that lies in a sample.

    Attributes:
        number: of the document in its pool, from 0.
        key: 32 hexadecimal digits.
        id: as its source names it.
        source: of the build.
        of: tokens of the whole document, EOD included.
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


def documents_of(artifact: Artifact) -> DocumentStarts:
    """Return the table of documents of the pool that an artifact is, or was carved from.

    Raises:
        RequestError: when the pool is not where the artifact says.
        WorkError: when the table is damaged.
    """
    m, root = artifact.manifest, artifact.root
    if m.parent is not None:
        root = storage.join(artifact.root, m.parent.path)
        if not may_ask(root, artifact.root):
            raise RequestError(f"{artifact.root} names a pool at {root}: no server is asked on a file's word")
        try:
            found = read_manifest(root)
        except RequestError as error:
            raise RequestError(
                f"the documents of {artifact.root} are listed in its pool '{m.parent.name}', and {error}: move it there"
            ) from None
        if found.fingerprint != m.parent.fingerprint:
            raise RequestError(f"{root} is not the pool that {artifact.root} was carved from: move that one there")
        return DocumentStarts(root, found.files.get(DOCUMENTS_NAME))
    return DocumentStarts(root, m.files.get(DOCUMENTS_NAME))


def contents(order: Order, tables: Sequence[DocumentStarts], positions: range | ArrayLike) -> list[Content]:
    """Return what each position reads, in the order of `positions`.

    Args:
        tables: of the documents of each component's pool, in the components' order.

    Raises:
        RequestError: for positions that the order does not have.
    """
    wanted = np.asarray(positions, np.int64)
    ids = order.ids(wanted)
    numbers, samples = (part.astype(np.int64) for part in order.locate(ids))
    plans = list(order.components().items())
    starts = np.array([plan.start_sample for _, plan in plans], np.int64)[numbers] + samples
    found: dict[int, Content] = {}
    for i in np.lexsort((starts, numbers)).tolist():  # each row group is read once
        name, plan = plans[numbers[i]]
        pieces = _pieces(plan, tables[numbers[i]], int(samples[i]))
        found[i] = Content(int(wanted[i]), int(ids[i]), name, int(samples[i]), pieces)
    return [found[i] for i in range(len(wanted))]


def _pieces(plan: Repetition, table: DocumentStarts, sample: int) -> tuple[Piece, ...]:
    start, stop = _span(plan, sample)
    return tuple(_piece(row, start, stop) for row in table.rows(start, stop))


def _span(plan: Repetition, sample: int) -> tuple[int, int]:
    """Return the stream range of a sample in its pool."""
    first = plan.start_sample * plan.seq_len
    start = first + sample * plan.seq_len
    return start, min(start + plan.seq_len, first + plan.unique_tokens)


def _piece(row: dict[str, Any], start: int, stop: int) -> Piece:
    """Return the part in the stream range [start, stop) of the document in a row."""
    begin, end = max(start, row["start"]), min(stop, row["start"] + row["tokens"])
    shown = (row["number"], row["key"].hex(), row["id"], row["source"], row["tokens"])
    return Piece(*shown, begin - row["start"], end - begin)


def places(order: Order, tables: Sequence[DocumentStarts], name: str, span: range) -> list[Place]:
    """Return where in the positions `span` the documents come whose id or key is `name`, in the order of positions.

    Args:
        tables: as for `contents`.

    Raises:
        RequestError: where no component has such a document, or there are too many places.
    """
    found, known = [], False
    offset = 0
    for (component, plan), table in zip(order.components().items(), tables, strict=True):
        for row in table.named(name):
            samples = _samples_with(plan, row)
            known |= bool(samples)
            pieces = [_piece(row, *_span(plan, sample)) for sample in samples]
            found += _places(order, plan, component, pieces, samples, offset, span)
        offset += plan.samples
    if not known:
        raise RequestError(f"no document of this run has the id or key '{name}'")
    return sorted(found, key=lambda place: (place.position, place.document.number))


def _samples_with(plan: Repetition, row: dict[str, Any]) -> range:
    """Return the samples of a component that hold a token of the document in a row."""
    first = plan.start_sample * plan.seq_len
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
