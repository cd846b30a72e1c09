"""A stage of a mixture, and how its sources are spread over its windows: arithmetic on the numbers of windows.

See mixture.py for what a window and a quota are.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError
from ...common.hashing import derive_words, mix64
from .base import Ids, Int

MAX_WINDOW = 1 << 20
_GOLDEN = 0x9E3779B97F4A7C15

CHUNK = 1 << 18
"""Positions whose windows are held at once."""

FEW = 4
"""Samples of a window up to which its hashes are not sorted."""


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

    @cached_property
    def key(self) -> np.uint64:
        """What the slots of all windows are hashed with."""
        return derive_words("mixture/window", self.seed, self.number, 1)[0]

    @cached_property
    def lone(self) -> bool:
        """Whether one source has all the shares."""
        return sum(map(bool, self.stage.shares)) == 1

    @cached_property
    def edges(self) -> list[tuple[int, int, int, int, int]]:
        """Of each source where its shares begin and end among all of them; all shares, the width and the positions."""
        ends = list(itertools.accumulate(self.stage.shares, initial=0))
        return [(*shares, ends[-1], self.width, self.stage.positions) for shares in itertools.pairwise(ends)]

    @cached_property
    def fits(self) -> bool:
        """Whether int64 has room for every product of shares and positions."""
        return (2 * self.stage.positions + 4 * self.width) * sum(self.stage.shares) < 2**62

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

    def _spread(self, windows: Int) -> tuple[Int, Int, Int]:
        """Return (source of each place, what of it came before in the window, what came before the window).

        Shapes (k, width), (k, width), (k, sources), for windows of one width.
        """
        stage = self.stage
        numbers = windows.astype(object)
        before, after = self.before(numbers), self.before(numbers + 1)
        width = min(self.width, stage.positions - int(windows[0]) * self.width)
        slots = _slots(windows, width)
        order = np.argsort(_hashed(self.key, slots), axis=1, kind="stable")
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


def _hashed(key: Any, slots: Ids) -> Ids:
    """Return the hashes that the slots of a window are sorted by: all differ, as `mix64` is a bijection."""
    return mix64(key + slots * np.uint64(_GOLDEN))


def _slots(windows: Int, width: int) -> Ids:
    """Return what the places of windows of one width are numbered by before they are hashed, uint64 (k, width)."""
    return (windows.astype(np.uint64) * np.uint64(MAX_WINDOW))[:, None] + np.arange(width, dtype=np.uint64)


# -- where samples of a source come ---------------------------------------------------------------------------------


def places_of(stages: Sequence[StageWindows], sources: Sequence[int], which: Int, counts: Int) -> Int:
    """Return where some samples of a source come, for sources of many stages at once.

    Costs the hashes of each window that is touched. They are not sorted, unless many samples of one window are asked
    for: a sample's place is the number of hashes in its window that are smaller than its own.

    Args:
        stages: k of them.
        sources: k numbers, of a source in each that it has a share of.
        which: int64 (n,), numbers from 0 to k - 1.
        counts: int64 (n,), which of the samples of `sources[which[i]]` in that stage (not checked).

    Returns:
        int64 (n,), counted from the stage's beginning.
    """
    lone = np.array([stage.lone for stage in stages], bool)
    places = counts.copy()  # what is alone in a stage is not spread
    asked = np.flatnonzero(~lone[which])
    if len(asked):
        places[asked] = _spread_places(_Edges.of(stages, sources, which[asked]), stages, which[asked], counts[asked])
    return places


@dataclass(frozen=True)
class _Edges:
    """Where a source lies between the others of its stage: its shares are those from `low` to `high` of `total`.

    Integers of shape (n,) each, int64 where that has room for every product, else Python's own.
    """

    low: NDArray[Any]
    high: NDArray[Any]
    total: NDArray[Any]
    width: NDArray[Any]
    positions: NDArray[Any]

    @classmethod
    def of(cls, stages: Sequence[StageWindows], sources: Sequence[int], which: Int) -> "_Edges":
        rows = [windows.edges[s] for windows, s in zip(stages, sources, strict=True)]
        return cls(*np.array(rows, np.int64 if all(windows.fits for windows in stages) else object)[which].T)

    def before(self, windows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return how much of the sources before it, and of them and itself, comes before a window: `before` of
        `StageWindows`, summed up to the source."""
        return self._before(windows, self.low), self._before(windows, self.high)

    def _before(self, windows: NDArray[Any], edge: NDArray[Any]) -> NDArray[Any]:
        counts = _share(np.minimum(windows * self.width, self.positions), edge, self.total)
        rest = self.positions % self.width
        last = np.flatnonzero((windows > 0) & (rest > 0) & (windows == self.positions // self.width))
        if len(last):
            edge, total, width = edge[last], self.total[last], self.width[last]
            start = _share((windows[last] - 1) * width, edge, total)
            counts[last] = start + _share(width, _share(self.positions[last], edge, total) - start, width + rest[last])
        return counts


def _share(length: NDArray[Any], edge: NDArray[Any], total: NDArray[Any]) -> NDArray[Any]:
    """Return length * edge / total, rounded: B of the definition, see mixture.py."""
    return (2 * length * edge + total) // (2 * total)


def _spread_places(edges: _Edges, stages: Sequence[StageWindows], which: Int, counts: Int) -> Int:
    windows = np.minimum(
        counts.astype(edges.total.dtype) * edges.total // ((edges.high - edges.low) * edges.width),
        -(-edges.positions // edges.width) - 1,
    )
    while True:  # the guess is off by a window or two where quotas were rounded
        (low, high), (next_low, next_high) = edges.before(windows), edges.before(windows + 1)
        late, early = high - low > counts, next_high - next_low <= counts
        if not (late.any() or early.any()):
            break
        windows = windows - late.astype(int) + early.astype(int)
    at, first, end = (x.astype(np.int64) for x in (windows, next_low - low, next_high - high))
    earlier = counts - (high - low).astype(np.int64)
    together: dict[tuple[int, int], list[int]] = {}
    for i, window in enumerate(zip(which.tolist(), at.tolist(), strict=True)):
        together.setdefault(window, []).append(i)
    groups = list(together.values())
    heads = np.array([who[0] for who in groups])
    sizes = np.minimum(edges.width, edges.positions - windows * edges.width).astype(np.int64)[heads]
    keys = np.array([stage.key for stage in stages])[which]
    begins, ends, numbers = first.tolist(), end.tolist(), earlier.tolist()
    places = [0] * len(counts)
    for rows in _alike(sizes):
        slots = _slots(at[heads[rows]], int(sizes[rows[0]]))
        hashes = _hashed(keys[heads[rows]][:, None], slots)
        for row, group in zip(hashes, rows.tolist(), strict=True):
            who = groups[group]
            own = row[begins[who[0]] : ends[who[0]]]
            for i, place in zip(who, _places_in_window(row, own, [numbers[i] for i in who]), strict=True):
                places[i] = place
    return at * edges.width.astype(np.int64) + np.array(places, np.int64)


def _alike(sizes: Int) -> Iterator[Int]:
    """Yield the numbers of windows that have one size, as many at a time as are held at once."""
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        at_once = max(1, CHUNK // size)
        yield from (rows[start : start + at_once] for start in range(0, len(rows), at_once))


def _places_in_window(hashes: Ids, own: Ids, earlier: list[int]) -> list[int]:
    """Return the place of each sample of a source that has so many `earlier` ones of it in the window.

    Args:
        hashes: uint64 (W,), no two equal: the slots come in the order of these.
        own: those of the source's slots.
    """
    if len(earlier) > FEW:
        places: list[int] = np.searchsorted(np.sort(hashes), np.sort(own)[earlier]).tolist()
        return places
    chosen, found = own.copy(), []
    for number in earlier:
        chosen.partition(number)
        found.append(np.count_nonzero(hashes < chosen[number]))
    return found
