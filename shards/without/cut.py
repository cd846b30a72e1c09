"""What is left of a pool's stream when documents are taken out of it: which shards stay whole, which are written anew,
and where each token of the pool then lies. Pure arithmetic on positions; no file is read.

A shard that holds nothing of what is taken out stays as it is. Shards beside each other that lose something are one
stretch: what is left of it is cut into samples anew, from its first token on. Where a whole shard follows, less than
a sample of the stretch may be left over; these tokens are left out too, and counted. So every sample is a piece of the
pool's stream with documents taken out of it, and what a subset begins with does not depend on how long it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Removed:
    """Ranges of a pool's stream that are taken out: `starts` and `stops`, int64 (k,), rising, none within another."""

    starts: Ints
    stops: Ints

    @cached_property
    def _before(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.stops - self.starts)])

    def before(self, positions: ArrayLike) -> Ints:
        """Return how many tokens are taken out of [0, position), int64 of the shape of `positions`."""
        at = np.asarray(positions, np.int64)
        i = np.searchsorted(self.starts, at, side="right")
        last = np.where(i > 0, np.minimum(at, self.stops[i - 1]) - self.starts[i - 1], 0) if len(self.starts) else 0
        return self._before[np.maximum(i - 1, 0)] + last

    def position(self, number: int) -> int:
        """Return where in the stream token `number` lies of those that stay, counted from the stream's beginning."""
        stay_before = self.starts - self._before[:-1]
        return number + int(self._before[np.searchsorted(stay_before, number, side="right")])

    def left_between(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges of [start, stop) that stay, in order."""
        first, last = np.searchsorted(self.stops, start, "right"), np.searchsorted(self.starts, stop, "left")
        inner = np.stack([self.starts[first:last], self.stops[first:last]], axis=1).reshape(-1).clip(start, stop)
        bounds = np.concatenate([[start], inner, [stop]]).reshape(-1, 2).tolist()
        return [(a, b) for a, b in bounds if a < b]

    def left_tokens(self, start: int, skip: int, tokens: int) -> list[tuple[int, int]]:
        """Return the ranges that `tokens` tokens lie in which stay, beginning `skip` of them after position `start`."""
        first = start - int(self.before(start)) + skip
        return self.left_between(self.position(first), self.position(first + tokens - 1) + 1)


NOTHING = Removed(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Whole:
    """`samples` leading samples of shard `shard` of the pool."""

    shard: int
    samples: int


@dataclass(frozen=True)
class Anew:
    """A shard of `samples` samples, of what stays of the pool's stream from position `start` on, beginning `skip` of
    its tokens later."""

    start: int
    skip: int
    samples: int


@dataclass(frozen=True)
class Cut:
    """A pool's stream from shard `first` to its end, without what is taken out.

    Attributes:
        removed: see there.
        tokens: of the pool.
        seq_len: of its samples.
        per_shard: samples of each of its shards but the last.
        first: the shard with which it begins.
    """

    removed: Removed
    tokens: int
    seq_len: int
    per_shard: int
    first: int = 0

    @cached_property
    def _stretches(self) -> tuple[Ints, NDArray[np.bool_]]:
        """Where each stretch begins, and where the last one ends; whether each loses something."""
        width = self.per_shard * self.seq_len
        edges = np.append(np.arange(self.first * width, self.tokens, width), self.tokens)
        loses = np.diff(self.removed.before(edges)) > 0
        begins = np.flatnonzero(np.concatenate([[True], loses[1:] != loses[:-1]]))
        return np.append(edges[begins], self.tokens), loses[begins]

    @cached_property
    def _taken(self) -> Ints:
        """How many tokens of each stretch are in the stream that is left."""
        edges, loses = self._stretches
        left = np.diff(edges) - np.diff(self.removed.before(edges))
        inner = loses & (edges[1:] < self.tokens)  # only the stream's last sample may be short
        return np.where(inner, left // self.seq_len * self.seq_len, left)

    @cached_property
    def _begins(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self._taken)])

    @property
    def capacity(self) -> int:
        """Tokens of the stream that is left."""
        return int(self._begins[-1])

    def before(self, positions: ArrayLike) -> Ints:
        """Return how many tokens of the stream that is left lie before positions of the pool's, int64."""
        at = np.clip(np.asarray(positions, np.int64), self._stretches[0][0], self.tokens)
        i = np.clip(np.searchsorted(self._stretches[0], at, side="right") - 1, 0, len(self._taken) - 1)
        start = self._stretches[0][i]
        since = at - start - (self.removed.before(at) - self.removed.before(start))
        return self._begins[i] + np.minimum(since, self._taken[i])

    def left_over(self, tokens: int) -> int:
        """Return how many tokens that were not to be taken out are left out of the first `tokens`, because they fill no
        sample beside a shard that stays whole."""
        edges, _ = self._stretches
        spare = np.diff(edges) - np.diff(self.removed.before(edges)) - self._taken
        return int(spare[self._begins[1:] < tokens].sum())

    def end(self, tokens: int) -> int:
        """Return where in the pool the first `tokens` end: the position after their last."""
        i = int(np.searchsorted(self._begins, tokens, side="left")) - 1
        start = int(self._stretches[0][i])
        number = start - int(self.removed.before(start)) + tokens - int(self._begins[i])
        return self.removed.position(number - 1) + 1

    def pieces(self, samples: int) -> Iterator[Whole | Anew]:
        """Yield the shards that the first `samples` samples, all of them full, are made of, in order."""
        edges, loses = self._stretches
        for i in range(len(loses)):
            have = min(samples, int(self._taken[i]) // self.seq_len)
            samples -= have
            for begin in range(0, have, self.per_shard):
                n = min(self.per_shard, have - begin)
                if loses[i]:
                    yield Anew(int(edges[i]), begin * self.seq_len, n)
                else:
                    yield Whole(int(edges[i]) // (self.seq_len * self.per_shard) + begin // self.per_shard, n)
            if not samples:
                return

    def sample(self, number: int) -> Whole | Anew:
        """Return where sample `number` lies, as a shard of it alone: for a `Whole` its samples end with it."""
        i = int(np.searchsorted(self._begins, number * self.seq_len, side="right")) - 1
        start, inner = int(self._stretches[0][i]), number * self.seq_len - int(self._begins[i])
        if self._stretches[1][i]:
            return Anew(start, inner, 1)
        row = (start + inner) // self.seq_len
        return Whole(row // self.per_shard, row % self.per_shard + 1)
