"""A plan of which some spans of positions are passed over."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base import Ids, Int, Policy, Repetition
from ..plan import Plan
from .amended import Amended
from .skips import NEVER, Skip


@dataclass(frozen=True)
class AmendedPlan(Amended, Repetition):
    """A plan without some spans of its positions."""

    kind = "plan"

    unamended: Plan
    skips: tuple[Skip, ...]

    def __post_init__(self) -> None:
        assert self.spans.skips, "an order without skips is not amended"

    @property
    def subset(self) -> str:  # type: ignore[override]
        """Fingerprint of the artifact."""
        return self.unamended.subset

    @property
    def policy(self) -> Policy:  # type: ignore[override]
        """How it is repeated."""
        return self.unamended.policy

    @property
    def replicate(self) -> int:  # type: ignore[override]
        """The window of its pool."""
        return self.unamended.replicate

    @property
    def start_sample(self) -> int:  # type: ignore[override]
        """The window of its pool."""
        return self.unamended.start_sample

    @property
    def padding(self) -> int:
        """PAD ids in the last sample, 0 to seq_len - 1."""
        return self.unamended.padding

    def components(self) -> dict[str, Repetition]:
        """Return the plan itself, whose name is empty."""
        return {"": self}

    def position_of_own(self, component: int, numbers: Int) -> Ids:
        """Return `numbers` as uint64: the plan is its own single component."""
        del component
        return numbers.astype(np.uint64)

    def positions_of_copies(self, ids: Ids, copies: range) -> Ids:
        """Return where some copies of each sample lie, uint64 (len(copies), k), NEVER where one is passed over."""
        own = self.unamended.positions_of_copies(ids, copies)
        return self.spans.kept(own.ravel()).reshape(own.shape)

    def blocks_of_copies(self, ids: int) -> Iterator[range]:
        """Yield the copies of a sample in blocks that do for `ids` samples at once."""
        return self.unamended.blocks_of_copies(ids)

    def counts(self, position: int) -> list[int]:
        """Return [position]: all of them are this plan's."""
        self._check_position(position)
        return [position]

    def first_and_last(self, ids: ArrayLike, position: int) -> tuple[Ids, Ids]:
        """Return where each sample comes first and last in positions [0, position), uint64 (k,) each: NEVER and NEVER
        where it does not. For every policy but `global`.

        Costs two passes' places, and one more for each skip that a sample falls into there.
        """
        last_pass = self.spans.before(position)[0] // self.samples
        passes = range(min(last_pass + 1, self.copies))
        return self._first_place(ids, position, passes), self._first_place(ids, position, passes[::-1])

    def _first_place(self, ids: ArrayLike, position: int, passes: range) -> Ids:
        wanted = np.atleast_1d(np.asarray(ids, np.uint64))
        found = np.full(len(wanted), NEVER, np.uint64)
        for pass_ in passes:
            missing = np.flatnonzero(found == NEVER)
            if not len(missing):
                break
            at = self.position_of(wanted[missing], pass_)
            found[missing] = np.where(at < position, at, np.uint64(NEVER))
        return found

    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples.

        Of few samples it asks the plan for each skip; for many it looks at every position that is passed over.
        """
        _, passed = self.spans.before(position)
        asked = self.samples if ids is None else np.size(ids)
        if sum(map(len, passed)) > 2 * len(passed) * asked or not passed:
            return super().exposures(position, ids)
        self._check_position(position)
        seen = self.unamended.exposures(self.spans.before(position)[0], ids)
        missed, times = self._missed(len(passed))
        wanted = np.arange(self.samples, dtype=np.uint64) if ids is None else np.atleast_1d(np.asarray(ids, np.uint64))
        at = np.minimum(np.searchsorted(missed, wanted), len(missed) - 1)
        return seen - np.where(missed[at] == wanted, times[at], 0)

    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that come so often} for positions [0, position).

        That of the plan without skips, but for the samples that were passed over, which are looked at one by one;
        `global` has to look at every sample.
        """
        self._check_position(position)
        if self.policy == "global":
            return _tally(self.exposures(position))
        own, passed = self.spans.before(position)
        counted = self.unamended.histogram(own)
        if passed:
            ids, missed = self._missed(len(passed))
            before = self.unamended.exposures(own, ids)
            for times, samples in _tally(before).items():
                counted[times] -= samples
            for times, samples in _tally(before - missed).items():
                counted[times] = counted.get(times, 0) + samples
        return {times: counted[times] for times in sorted(counted) if counted[times]}

    def _missed(self, passed: int) -> tuple[Ids, NDArray[np.int64]]:
        """Return the samples that the first `passed` skips pass over, and how often."""
        return np.unique(
            np.concatenate([self.unamended.ids(range(s.start, s.stop)) for s in self.skips[:passed]]),
            return_counts=True,
        )

    def unique_tokens_seen(self, position: int) -> int:
        """Return how many different tokens positions [0, position) hold; see `Plan.unique_tokens_seen`.

        The first call looks at every sample of the first pass that is passed over.
        """
        self._check_position(position)
        if not self.counts_unique_tokens:
            left = 1 - position / (self.samples * self.copies)
            return round(self.unique_tokens * (1 - left**self.copies))
        own, _ = self.spans.before(position)
        if self.policy == "global":
            first, tokens = self._first_places
            return int(tokens[np.searchsorted(first, own)])
        first, tokens = self._late
        pass_ended = int(self.spans.left_before(np.array([self.samples], np.uint64))[0])
        return self.tokens_before(min(position, pass_ended)) + int(tokens[np.searchsorted(first, own)])

    @cached_property
    def _first_places(self) -> tuple[Ids, Int]:
        """The plan's own positions at which each sample of a `global` plan is read first, ascending; the tokens of the
        first so many of them."""
        ids = np.arange(self.samples, dtype=np.uint64)
        own = self.unamended.positions_of_copies(ids, range(self.copies))
        read = np.where(self.spans.kept(own.ravel()).reshape(own.shape) == NEVER, np.uint64(NEVER), own)
        return self._by_place(read.min(axis=0), ids)

    @cached_property
    def _late(self) -> tuple[Ids, Int]:
        """The same for the samples that are passed over in the first pass."""
        spans = [range(s.start, min(s.stop, self.samples)) for s in self.skips if s.start < self.samples]
        ids = np.concatenate([self.unamended.ids(span) for span in spans]) if spans else np.empty(0, np.uint64)
        found = np.full(len(ids), NEVER, np.uint64)
        for pass_ in range(1, self.copies):
            missing = np.flatnonzero(found == NEVER)
            if not len(missing):
                break
            own = self.unamended.position_of(ids[missing], pass_)
            found[missing] = np.where(self.spans.kept(own) == NEVER, np.uint64(NEVER), own)
        return self._by_place(found, ids)

    def _by_place(self, own: Ids, ids: Ids) -> tuple[Ids, Int]:
        order = np.argsort(own, kind="stable")
        return own[order], np.concatenate([[0], np.cumsum(self.n_tokens(ids[order]))])


def _tally(values: Int) -> dict[int, int]:
    """Return how often each value is there."""
    kinds, counts = np.unique(values, return_counts=True)
    return dict(zip(kinds.tolist(), counts.tolist(), strict=True))
