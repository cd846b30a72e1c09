"""Validation: which documents are held out. What deduplication left is drawn in the order of a keyed hash of its keys,
whole documents, until `validation_tokens` are reached.

Tokens are summed by the leading bits of that hash first (see match.py), so that only the documents of the one group in
which `validation_tokens` are reached, the candidates, need be sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError, WorkError
from ..external_sort import Dealt
from .cluster import NUMBER
from .division import Division, Step, noted
from .match import DRAWN_BITS, drawn_group
from .parts import BUILD_AGAIN, Documents

AUTO_SHARE, AUTO_MOST = 100, 1_000_000
"""`auto` is one token of so many, and at most so many in all."""

CANDIDATE = np.dtype([(name, "<u8") for name in ("drawn", "key_hi", "key_lo")] + [("tokens", "<i8"), ("number", "<i8")])


@dataclass(frozen=True)
class Draw:
    """Where validation ends.

    Attributes:
        asked: tokens, or `auto`.
        total: tokens of all documents that deduplication left.
        n_tokens: how many are to be drawn, less than all.
        last: the group in which they are reached.
        before: tokens of the groups before it.
    """

    asked: int | Literal["auto"]
    total: int
    n_tokens: int
    last: int
    before: int


def tokens_by_group(division: Division) -> NDArray[np.int64]:
    """Return how many tokens the documents hold that deduplication left, by the leading bits of `drawn`."""
    tokens = np.zeros(1 << DRAWN_BITS, np.int64)
    folder = division.path("drawn")
    for name in storage.names(folder):
        data = storage.read_bytes(storage.join(folder, name))
        if len(data) != tokens.nbytes:
            raise WorkError(f"{folder}/{name} is damaged: it was cut; {BUILD_AGAIN}")
        tokens += np.frombuffer(data, np.int64)
    for counts in noted(division.path("removed")):
        tokens[counts["groups"]] -= np.array(counts["group_tokens"], np.int64)
    return tokens


def draw(tokens: NDArray[np.int64], asked: int | Literal["auto"]) -> Draw | None:
    """Return where validation ends; None where nothing is to be held out.

    Args:
        tokens: in all documents, by group.
        asked: how many tokens at least, or `auto`.

    Raises:
        RequestError: when validation would take more than half.
    """
    total = int(tokens.sum())
    if asked == 0 or (asked == "auto" and total < 2):
        return None
    n_tokens = max(1, min(AUTO_MOST, total // AUTO_SHARE)) if asked == "auto" else asked
    if total <= n_tokens:
        raise RequestError(
            f"{_asked(n_tokens)}, but after deduplication there are only {total:,} tokens in all: {_MEND}"
        )
    if 2 * n_tokens > total:
        raise RequestError(f"{_asked(n_tokens)}, more than half of the {total:,} tokens that there are: {_MEND}")
    ends = np.cumsum(tokens)
    last = int(np.searchsorted(ends, n_tokens, side="right"))
    return Draw(asked, total, n_tokens, last, int(ends[last] - tokens[last]))


_MEND = f"ask for fewer or add sources (auto takes 1 % of them, at most {AUTO_MOST:,})"


def _asked(n_tokens: int) -> str:
    return f"validation_tokens is {n_tokens:,}"


def chosen(drawn: Draw, candidates: Sequence[NDArray[np.void]]) -> NDArray[np.int64] | None:
    """Return the numbers of the candidates that are held out, sorted, with all of the groups before; None where nothing
    is, because with `auto` so few documents would be more than half.

    Raises:
        RequestError: when validation would take more than half.
    """
    inside = np.sort(np.concatenate([np.zeros(0, CANDIDATE), *candidates]), order=["drawn", "key_hi", "key_lo"])
    before = drawn.before + np.cumsum(inside["tokens"]) - inside["tokens"]
    held_out = inside[before < drawn.n_tokens]
    tokens = drawn.before + int(held_out["tokens"].sum())
    if 2 * tokens <= drawn.total:
        return np.sort(held_out["number"])
    if drawn.asked == "auto":
        return None
    raise RequestError(
        f"{_asked(drawn.n_tokens)}, which takes {tokens:,} of {drawn.total:,} tokens, because documents stay whole and "
        f"are few: {_MEND}"
    )


def candidates_of(documents: Documents, numbers: NDArray[np.int64], last: int) -> NDArray[np.void]:
    """Return those of `documents`, whose numbers are `numbers`, that are in group `last`."""
    rows = np.flatnonzero(drawn_group(documents["drawn"]) == last)
    some = np.empty(len(rows), CANDIDATE)
    for name in ("drawn", "key_hi", "key_lo", "tokens"):
        some[name] = documents[name][rows]
    some["number"] = numbers[rows]
    return some


class Candidates(Step):
    """Finds the candidates among every world_size-th stretch of documents.

    Attributes:
        last: their group.
    """

    name = "Candidates"

    def __init__(self, division: Division, last: int) -> None:
        super().__init__(division)
        self.last = last

    def do(self, rank: int, world_size: int) -> None:
        """Write `candidates/<rank>.bin`."""
        d, found = self.division, [np.zeros(0, CANDIDATE)]
        removed = Dealt(d.path("removed"), NUMBER, d.mine(rank, world_size))
        for stretch, documents in d.some(rank, world_size):
            mine = [np.zeros(0, CANDIDATE)]
            for some in documents:
                mine.append(candidates_of(some.documents, some.first + np.arange(len(some.documents)), self.last))
            inside = np.concatenate(mine)
            for numbers in removed.read(stretch):
                inside = inside[~np.isin(inside["number"], numbers)]
            found.append(inside)
        path = d.path(f"candidates/{rank:05d}.bin")
        storage.write_atomic(path, np.concatenate(found).tobytes(), flush=False)


def read_candidates(division: Division) -> list[NDArray[np.void]]:
    """Return what all tasks found."""
    folder = division.path("candidates")
    found = []
    for name in storage.names(folder):
        data = storage.read_bytes(storage.join(folder, name))
        if len(data) % CANDIDATE.itemsize:
            raise WorkError(f"{folder}/{name} is damaged: it was cut; {BUILD_AGAIN}")
        found.append(np.frombuffer(data, CANDIDATE))
    return found
