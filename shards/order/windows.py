"""A stage of a mixture, and how its sources are spread over its windows: arithmetic on the numbers of windows.

See mixture.py for what a window and a quota are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError
from ...common.hashing import derive_words, mix64
from .base import Int

MAX_WINDOW = 1 << 20
_GOLDEN = 0x9E3779B97F4A7C15

CHUNK = 1 << 18
"""Positions whose windows are held at once."""


@dataclass(frozen=True)
class Stage:
    """So many positions, of which each source has its share (integers, one a source; 0: not in this stage)."""

    positions: int
    shares: tuple[int, ...]

    def __post_init__(self) -> None:
        wrong = [n for n in (self.positions, *self.shares) if isinstance(n, bool) or not isinstance(n, int)]
        if wrong:
            raise RequestError(f"positions and shares of a stage are integers, got {wrong[0]!r}")

    @property
    def sources(self) -> int:
        """Number of the mixture's sources, those without a share included."""
        return len(self.shares)

    def counts(self, lengths: NDArray[Any]) -> Int:
        """Return how much of each source the first so many positions hold, int64 (k, sources).

        Args:
            lengths: object integers of shape (k,), so that nothing overflows.
        """
        total = sum(self.shares)
        edges = np.cumsum(np.array([0, *self.shares], object))
        return np.diff((2 * lengths[:, None] * edges + total) // (2 * total), axis=1).astype(np.int64)

    def totals(self, length: int) -> list[int]:
        """Return `counts` of one length."""
        return self.counts(np.array([length], object))[0].tolist()


@dataclass(frozen=True)
class StageWindows:
    """The windows of stage `number` of a mixture: `width` positions each, spread with the mixture's `seed`."""

    stage: Stage
    number: int
    width: int
    seed: int

    def before(self, windows: NDArray[Any]) -> Int:
        """Return how much of each source comes in the stage before each of some windows, int64 (k, sources).

        Args:
            windows: numbers from 0 to the number of windows, object integers.
        """
        stage = self.stage
        whole, rest = divmod(stage.positions, self.width)
        counts = stage.counts(np.minimum(windows * self.width, stage.positions))
        if rest and whole:
            # The last, shorter window must come out right to the sample: it shares what is left with the one before.
            last = np.array([whole - 1, whole + 1], object) * self.width
            start, end = stage.counts(np.minimum(last, stage.positions))
            left = np.concatenate([[0], np.cumsum(end - start)]).astype(object)
            size = self.width + rest
            cut = np.diff((2 * left * self.width + size) // (2 * size)).astype(np.int64)
            counts[windows == whole] = start + cut
        return counts

    def counts(self, position: int) -> Int:
        """Return how much of each source the stage's positions [0, position) hold, int64 (sources,)."""
        window, place = divmod(position, self.width)
        counts = self.before(np.array([window], object))[0]
        if place:
            sources = self.locate(np.arange(position - place, position))[0]
            counts = counts + np.bincount(sources, minlength=self.stage.sources)
        return counts

    def locate(self, places: Int) -> tuple[Int, Int]:
        """Return the source of each place and what of it came before in this stage, int64 (k,) each.

        Args:
            places: int64 (k,), counted from the stage's beginning.
        """
        present = np.flatnonzero(self.stage.shares)
        if len(present) == 1:
            return np.full(len(places), present[0]), places
        windows, inverse = np.unique(places // self.width, return_inverse=True)
        source, count = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for first, part in self._parts(windows):
            where = np.flatnonzero((inverse >= first) & (inverse < first + len(part)))
            row, column = inverse[where] - first, places[where] % self.width
            sources, earlier, before = self._spread(part)
            source[where] = sources[row, column]
            count[where] = before[row, source[where]] + earlier[row, column]
        return source, count

    def place_of(self, s: int, counts: Int) -> Int:
        """Return the place of source `s`'s samples `counts`, int64 (k,), counted from the stage's beginning."""
        stage = self.stage
        if sum(map(bool, stage.shares)) == 1:
            return counts
        n_windows = -(-stage.positions // self.width)
        guess = counts.astype(object) * sum(stage.shares) // (stage.shares[s] * self.width)
        numbers = np.minimum(guess, n_windows - 1)
        while True:  # the guess is off by a window or two where quotas were rounded
            late = self.before(numbers)[:, s] > counts
            early = self.before(numbers + 1)[:, s] <= counts
            if not (late.any() or early.any()):
                break
            numbers = numbers - late.astype(int) + early.astype(int)
        windows, inverse = np.unique(numbers.astype(np.int64), return_inverse=True)
        places = np.empty(len(counts), np.int64)
        for first, part in self._parts(windows):
            where = np.flatnonzero((inverse >= first) & (inverse < first + len(part)))
            sources, _, before = self._spread(part)
            row = inverse[where] - first
            mine = np.argsort(sources != s, axis=1, kind="stable")  # places of this source first, in order
            places[where] = part[row] * self.width + mine[row, counts[where] - before[row, s]]
        return places

    def _spread(self, windows: Int) -> tuple[Int, Int, Int]:
        """Return (source of each place, what of it came before in the window, what came before the window).

        Shapes (k, width), (k, width), (k, sources), for windows of one width.
        """
        stage = self.stage
        numbers = windows.astype(object)
        before, after = self.before(numbers), self.before(numbers + 1)
        width = min(self.width, stage.positions - int(windows[0]) * self.width)
        slots = (windows.astype(np.uint64) * np.uint64(MAX_WINDOW))[:, None] + np.arange(width, dtype=np.uint64)
        key = derive_words("mixture/window", self.seed, self.number, 1)[0]
        order = np.argsort(mix64(key + slots * np.uint64(_GOLDEN)), axis=1, kind="stable")
        edges = np.cumsum(after - before, axis=1)
        source = np.zeros((len(windows), width), np.int64)
        for s in range(stage.sources - 1):
            source += order >= edges[:, s : s + 1]
        earlier = np.zeros_like(source)
        for s in np.flatnonzero((after - before).any(axis=0)):
            mine = source == s
            earlier[mine] = (np.cumsum(mine, axis=1) - 1)[mine]
        return source, earlier, before

    def _parts(self, windows: Int) -> Iterator[tuple[int, Int]]:
        """Yield (index of the first, windows) of some windows of one width at a time; a short last one comes alone."""
        whole = self.stage.positions // self.width
        n = int(np.searchsorted(windows, whole))
        at_once = max(1, CHUNK // self.width)
        for start in range(0, n, at_once):
            yield start, windows[start : min(start + at_once, n)]
        if n < len(windows):
            yield n, windows[n:]
