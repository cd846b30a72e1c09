"""Spans of positions that a run passes over: how they are written, checked, and counted.

A span [start, stop) is of the plan's own positions, as they are without any skip, and half-open as all ranges here:
`start` is the first position that is not read, `stop` the next one that is. The positions that are left are counted
through, so that a run has no gap: with the spans [10, 15) and [20, 22), its positions 0 to 9 are the plan's 0 to 9, 10
to 14 are 15 to 19, and 15 is 22.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....common.errors import RequestError

MOST_SKIPS = 10_000
"""Spans of one plan: each is looked at for every count."""

MOST_REASON = 200
"""Characters of a reason."""

NEVER = 2**63 - 1
"""The position of what is passed over: at least `positions`, as that of what comes after a run's end."""

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Skip:
    """A span of a plan's own positions that is not read, and why. The reason is no part of what makes plans equal.

    Attributes:
        start: the first position that is passed over.
        stop: the first one after it that is read again.
        reason: for people.

    Raises:
        RequestError: when it is no span.
    """

    start: int
    stop: int
    reason: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        numbers = (self.start, self.stop)
        if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
            raise RequestError(f"skip [{self.start!r}, {self.stop!r}]: a span has two positions, which are integers")
        if not 0 <= self.start < self.stop < 2**63:
            raise RequestError(
                f"skip [{self.start}, {self.stop}]: give the first position to pass over, from 0, and the first one to "
                "read again, which is larger"
            )
        if not isinstance(self.reason, str) or len(self.reason) > MOST_REASON or re.search(r"[\x00-\x1f]", self.reason):
            raise RequestError(f"{self}: the reason is one line of at most {MOST_REASON} characters")

    def __str__(self) -> str:
        return f"skip [{self.start}, {self.stop}]"

    def __len__(self) -> int:
        return self.stop - self.start

    def to_list(self) -> list[Any]:
        """Return it as it is written: [start, stop, reason]."""
        return [self.start, self.stop, self.reason]


Written = Iterable[Skip | Sequence[Any]]
"""Spans as people write them: [start, stop] or [start, stop, reason]."""


def read_skips(spans: Written) -> tuple[Skip, ...]:
    """Return spans that may be written as lists.

    Raises:
        RequestError: unless they are spans, in order, and share no position.
    """
    skips = tuple(span if isinstance(span, Skip) else _read(span) for span in spans)
    if len(skips) > MOST_SKIPS:
        raise RequestError(f"at most {MOST_SKIPS:,} spans can be skipped, not {len(skips):,}")
    for before, after in itertools.pairwise(skips):
        if after.start < before.stop:
            raise RequestError(
                f"{after} comes after [{before.start}, {before.stop}]: write the spans in order, without any overlap"
            )
    return skips


def _read(span: Any) -> Skip:
    if not isinstance(span, list | tuple) or not 2 <= len(span) <= 3:
        raise RequestError(f"skip {str(span)[:80]}: write each span as [first position, position after it, reason]")
    return Skip(*span)


def skip_argument(text: str) -> Skip:
    """Return the span that a command's argument FROM:TO or FROM:TO:WHY names.

    Raises:
        RequestError: when it is none.
    """
    match = re.fullmatch(r"([\d_,]+):([\d_,]+)(?::(.*))?", text, re.DOTALL)
    if match is None:
        raise RequestError(f"--skip {text[:80]}: write the first position to pass over and the next to read: 400:480")
    start, stop = (int(re.sub("[_,]", "", n) or -1) for n in match.groups()[:2])
    return Skip(start, stop, match[3] or "")


@dataclass(frozen=True)
class Spans:
    """The arithmetic of skips over a plan's own positions 0 to `positions`."""

    skips: tuple[Skip, ...]
    positions: int

    def __post_init__(self) -> None:
        if self.skips and self.skips[-1].stop > self.positions:
            raise RequestError(f"{self.skips[-1]}: the plan ends at position {self.positions:,}")
        if self.left < 1:
            raise RequestError("the skips leave no position to read")

    @property
    def left(self) -> int:
        """How many positions are left."""
        return self.positions - sum(map(len, self.skips))

    @cached_property
    def _starts(self) -> Ids:
        return np.array([skip.start for skip in self.skips], np.uint64)

    @cached_property
    def _passed(self) -> Ids:
        """How much is passed over by the first so many spans: 0 for none."""
        return np.array([0, *itertools.accumulate(map(len, self.skips))], np.uint64)

    @cached_property
    def _begins(self) -> Ids:
        """At which of the positions that are left each span lies."""
        return self._starts - self._passed[:-1]

    def own(self, positions: Ids) -> Ids:
        """Return which of the plan's own positions each position that is left is, uint64 (k,)."""
        return positions + self._passed[np.searchsorted(self._begins, positions, side="right")]

    def own_range(self, start: int, stop: int) -> Iterator[range]:
        """Yield the plan's own positions of the positions [start, stop) that are left, as ranges."""
        begins = self._begins.tolist()
        at = start
        while at < stop:
            number = int(np.searchsorted(self._begins, np.uint64(at), side="right"))
            end = min(stop, begins[number]) if number < len(begins) else stop
            passed = int(self._passed[number])
            yield range(at + passed, end + passed)
            at = end

    def before(self, position: int) -> tuple[int, tuple[Skip, ...]]:
        """Return which of the plan's own positions a run has come to after `position` that are left, and the spans that
        it has passed over: one that begins there is passed over already."""
        number = int(np.searchsorted(self._begins, np.uint64(position), side="right"))
        return position + int(self._passed[number]), self.skips[:number]

    def read_to(self, position: int) -> int:
        """Return the end of what a run has read at `position`, of the plan's own positions: a span that begins there is
        not passed over yet."""
        return position + int(self._passed[np.searchsorted(self._begins, np.uint64(position), side="left")])

    def left_before(self, own: Ids) -> Ids:
        """Return how many positions before each of the plan's own are left, uint64 (k,)."""
        last, inside = self._last_span(own)
        return np.where(inside, self._begins[last], own - self._passed[np.where(own < self._starts[last], 0, last + 1)])

    def kept(self, own: Ids) -> Ids:
        """Return which position each of the plan's own is, uint64 (k,); NEVER for one that is passed over."""
        return np.where(self._last_span(own)[1], np.uint64(NEVER), self.left_before(own))

    def _last_span(self, own: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the last span that begins at or before each position (else the first), and whether it lies in it."""
        last = np.maximum(np.searchsorted(self._starts, own, side="right"), 1) - 1
        begins, stops = self._starts[last], self._starts[last] + np.diff(self._passed)[last]
        return last, (begins <= own) & (own < stops)


def first_difference(one: Sequence[Skip], other: Sequence[Skip]) -> int | None:
    """Return the first of a plan's own positions that one list of spans passes over and the other does not; or None."""
    edges: dict[int, int] = {}
    for skips, weight in ((one, 1), (other, 2)):
        for skip in skips:
            edges[skip.start] = edges.get(skip.start, 0) + weight
            edges[skip.stop] = edges.get(skip.stop, 0) - weight
    level = 0
    for edge in sorted(edges):
        level += edges[edge]
        if level in (1, 2):
            return edge
    return None
