"""A mixture of which some spans of positions are passed over."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....common.errors import RequestError
from ..base import Ids, Int, Repetition, summed_histogram
from ..mixture import Mixture
from .amended import Amended
from .plan import AmendedPlan
from .skips import Skip


@dataclass(frozen=True)
class AmendedMixture(Amended):
    """A mixture without some spans of its positions. Of each source it passes over what the spans hold of it."""

    kind = "mixture"

    unamended: Mixture
    skips: tuple[Skip, ...]

    def __post_init__(self) -> None:
        assert self.skips, "an order without skips is not amended"
        self.components()  # says what is wrong with them

    @cached_property
    def _plans(self) -> dict[str, Repetition]:
        own = self.unamended.components()
        edges = [(self.unamended.counts(s.start), self.unamended.counts(s.stop), s.reason) for s in self.skips]
        found: dict[str, Repetition] = {}
        for number, (name, plan) in enumerate(own.items()):
            skips = [Skip(a[number], b[number], reason) for a, b, reason in edges if a[number] < b[number]]
            whole = sum(map(len, skips)) == plan.positions
            if whole:
                raise RequestError(f"the skips leave nothing of '{name}': leave it out of the mixture instead")
            found[name] = AmendedPlan(plan, tuple(skips)) if skips else plan
        return found

    def components(self) -> dict[str, Repetition]:
        """Return the sources' plans, amended where a skip holds some of theirs, by name."""
        return self._plans

    def position_of_own(self, component: int, numbers: Int) -> Ids:
        """Return the position at which each of a source's own positions that are left comes, uint64 of shape (k,)."""
        plan = list(self._plans.values())[component]
        own = plan.own_positions(numbers) if isinstance(plan, AmendedPlan) else numbers
        return self.spans.kept(self.unamended.position_of_own(component, own.astype(np.int64)))

    def counts(self, position: int) -> list[int]:
        """Return how many of the positions [0, position) each source has."""
        self._check_position(position)
        own, passed = self.spans.before(position)
        count = self.unamended.counts
        seen = np.array(count(own))
        for skip in passed:
            seen -= np.array(count(skip.stop)) - np.array(count(skip.start))
        return seen.tolist()

    def _plans_at(self, position: int) -> Iterator[tuple[Repetition, int]]:
        return zip(self._plans.values(), self.counts(position), strict=True)

    def histogram(self, position: int) -> dict[int, int]:
        """Return {exposures: number of samples that come so often} for positions [0, position)."""
        return summed_histogram(self._plans_at(position))

    def unique_tokens_seen(self, position: int) -> int:
        """Return how many different tokens positions [0, position) hold; see `Plan.unique_tokens_seen`."""
        return sum(plan.unique_tokens_seen(n) for plan, n in self._plans_at(position))
