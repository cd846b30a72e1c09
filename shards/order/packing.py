"""The policy `repack`: every pass permutes the documents and cuts the samples anew.

Pass e of a subset of d documents and N tokens puts the documents one after the other, document p(j) at slot j, where p
permutes all but the last one with the key `order/repack`, seed, e. The last one stays the last: the subset's end may
cut it off, and it has no EOD then. Sample c of the pass is the range [cS, (c + 1)S) of that stream, cut at N, and the
samples of a pass come in the order of `reshuffle`. So each token comes once per pass, and PAD only in the last sample.

A document is what lies of it in the subset: the one that the subset's beginning cuts goes in as the piece that is left.

A pass is a table of its slots, 12 bytes a document, made when it is first asked about; a sample's documents are then
found in O(log d). docs/repetition.md is the definition for others.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import RequestError, WorkError
from .base import Int, Repetition
from .permutation import keyed_permutation

if TYPE_CHECKING:
    from ..documents import DocumentStarts  # it brings pyarrow, which training does not need

MOST_DOCUMENTS = 50_000_000
"""Documents of a subset that are packed anew: 600 MB for the table of a pass, some 10 s to make it."""

_TABLES = 2
"""Passes whose tables are kept: of a batch, one may end and the next begin."""

_BLOCK = 1 << 20
"""Slots of a table that are made at once."""


class Pieces(NamedTuple):
    """Parts of documents that follow each other in samples: int64 arrays of shape (m,).

    Attributes:
        sample: which of the samples that were asked for it is a part of, rising.
        document: its number in the subset.
        start: of the part, in the subset's own stream.
        tokens: of the part.
    """

    sample: Int
    document: Int
    start: Int
    tokens: Int


@dataclass(frozen=True)
class Slots:
    """The documents of a pass, in their order: documents uint32 (d,), and where each ends, int64 (d,)."""

    documents: NDArray[np.uint32]
    ends: Int


class Packing:
    """Which documents lie in which samples of the passes of a plan of the policy `repack`.

    Attributes:
        plan: of the policy `repack`; skips change nothing here.
        edges: where each document begins in the subset's own stream, and its end, int64 (d + 1,).

    Raises:
        RequestError: for another policy, or too many documents.
        WorkError: when they are not those of the plan's subset.
    """

    def __init__(self, plan: Repetition, edges: Int) -> None:
        if plan.policy != "repack":
            raise RequestError(f"documents are packed by the policy repack, not by {plan.policy}")
        if len(edges) - 1 > MOST_DOCUMENTS:
            raise RequestError(
                f"the policy repack takes at most {MOST_DOCUMENTS:,} documents, the subset has {len(edges) - 1:,}: use "
                "reshuffle, or a smaller subset"
            )
        if len(edges) < 2 or edges[0] or edges[-1] != plan.unique_tokens or (np.diff(edges) < 1).any():
            raise WorkError(f"these are not the documents of the {plan.unique_tokens:,} tokens of subset {plan.subset}")
        self.plan = plan
        self.edges = edges
        self.slots = lru_cache(maxsize=_TABLES)(self._slots)

    @classmethod
    def of(cls, plan: Repetition, documents: "DocumentStarts", first: int) -> "Packing":
        """Return the packing of a plan's subset, which begins at position `first` of the stream of `documents`."""
        return cls(plan, documents.edges(first, first + plan.unique_tokens))

    def __reduce__(self) -> tuple[type["Packing"], tuple[Repetition, Int]]:
        return Packing, (self.plan, self.edges)

    def _slots(self, pass_: int) -> Slots:
        """Return the table of a pass; `slots` keeps the last ones."""
        last = len(self.edges) - 2
        documents, ends = np.empty(last + 1, np.uint32), np.empty(last + 1, np.int64)
        documents[last], ends[last] = last, self.edges[-1] - self.edges[-2]
        permutation = keyed_permutation(last, "order/repack", self.plan.seed, pass_) if last else None
        for begin in range(0, last, _BLOCK):
            assert permutation is not None, "there is a slot to fill"
            at = permutation.forward(np.arange(begin, min(begin + _BLOCK, last), dtype=np.uint64))
            documents[begin : begin + len(at)] = at
            ends[begin : begin + len(at)] = self.edges[at + np.uint64(1)] - self.edges[at]
        return Slots(documents, np.cumsum(ends, out=ends))

    def pieces(self, passes: ArrayLike, samples: ArrayLike) -> Pieces:
        """Return what samples hold, piece by piece.

        Args:
            passes: integers (k,).
            samples: their numbers in those passes, as the plan's `ids` gives them, integers (k,); neither is checked.
        """
        of, numbers = np.asarray(passes, np.int64), np.asarray(samples).astype(np.int64)
        if len(of) and (of == of[0]).all():
            return self._in_pass(int(of[0]), np.arange(len(of)), numbers)
        each = [self._in_pass(p, np.flatnonzero(of == p), numbers[of == p]) for p in np.unique(of).tolist()]
        if not each:
            return Pieces(*(np.empty(0, np.int64) for _ in Pieces._fields))
        joined = [np.concatenate(columns) for columns in zip(*each, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return Pieces(*(column[order] for column in joined))

    def _in_pass(self, pass_: int, owners: Int, numbers: Int) -> Pieces:
        slots = self.slots(pass_)
        begin = numbers * self.plan.seq_len
        end = np.minimum(begin + self.plan.seq_len, self.plan.unique_tokens)
        first = np.searchsorted(slots.ends, begin, side="right")
        counts = np.searchsorted(slots.ends, end, side="left") - first + 1
        owner = np.repeat(np.arange(len(owners)), counts)
        slot = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + first[owner]
        document = slots.documents[slot].astype(np.int64)
        start, stop = self.edges[document], self.edges[document + 1]
        shift = slots.ends[slot] - stop  # from the subset's stream to the pass's
        low, high = np.maximum(start + shift, begin[owner]), np.minimum(stop + shift, end[owner])
        return Pieces(owners[owner], document, low - shift, high - low)

    def place(self, document: int, pass_: int) -> int:
        """Return where a document begins in the stream of a pass."""
        last = len(self.edges) - 2
        slot = np.array([document], np.uint64)
        if document < last:
            slot = keyed_permutation(last, "order/repack", self.plan.seed, pass_).inverse(slot)
        tokens = self.edges[document + 1] - self.edges[document]
        return int(self.slots(pass_).ends[int(slot[0])] - tokens)

    def begins(self, pass_: int) -> Int:
        """Return where the samples of a pass begin in the subset's own stream, int64 (n,), ascending."""
        slots = self.slots(pass_)
        packed = np.arange(self.plan.samples, dtype=np.int64) * self.plan.seq_len
        slot = np.searchsorted(slots.ends, packed, side="right")
        stop = self.edges[slots.documents[slot].astype(np.int64) + 1]
        return np.sort(stop - (slots.ends[slot] - packed))

    def samples_at(self, tokens: Int, pass_: int) -> Int:
        """Return the sample of a pass that each token of the subset's own stream lies in, int64 (k,)."""
        document = np.searchsorted(self.edges, tokens, side="right") - 1
        last = len(self.edges) - 2
        slot = np.full(len(document), last, np.int64)
        moved = np.flatnonzero(document < last)
        if len(moved):
            permutation = keyed_permutation(last, "order/repack", self.plan.seed, pass_)
            slot[moved] = permutation.inverse(document[moved].astype(np.uint64)).astype(np.int64)
        packed = self.slots(pass_).ends[slot] - (self.edges[document + 1] - tokens)
        return packed // self.plan.seq_len
