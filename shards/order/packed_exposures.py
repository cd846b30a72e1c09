"""How often each token of a subset is fed by a plan of the policy `repack`, whose samples are others in every pass.

After whole passes every token has come equally often; of the pass that is begun, the tokens of the samples that have
come once more. A plan that was amended takes away what its skips hold in the same way.
"""

from functools import cached_property, lru_cache

import numpy as np

from .amendment.amended import Amended
from .base import Int, Repetition
from .packing import Packing


class Fed:
    """What positions [0, stop) of a plan feed.

    Attributes:
        packing: of the plan.
        plan: amended or not.
        stop: of its positions.
    """

    def __init__(self, packing: Packing, plan: Repetition, stop: int) -> None:
        self.packing, self.plan, self.stop = packing, plan, stop
        self._own = plan.without_skips()
        end, passed = plan.spans.before(stop) if isinstance(plan, Amended) else (stop, ())
        self._passes = -(-end // plan.samples)
        self._bounds = [(end, 1), *((s.stop, -1) for s in passed), *((s.start, 1) for s in passed)]

    @cached_property
    def edges(self) -> Int:
        """Where in the subset's own stream exposures may change within a document, ascending."""
        begun = {bound // self.plan.samples for bound, _ in self._bounds if bound % self.plan.samples}
        return np.unique(np.concatenate([np.empty(0, np.int64), *(self.packing.begins(p) for p in sorted(begun))]))

    def exposures(self, tokens: Int) -> Int:
        """Return how often each token of the subset's own stream comes, int64 (k,)."""
        total = np.zeros(len(tokens), np.int64)
        for bound, weight in self._bounds:
            pass_, place = divmod(bound, self.plan.samples)
            total += weight * pass_
            if place:
                samples = self.packing.samples_at(tokens, pass_)
                total += weight * (self._own.position_of(samples, pass_) < bound)
        return total

    def parts(self, start: int, stop: int) -> list[tuple[int, int, int, int | None, int | None]]:
        """Return the tokens [start, stop) of the subset's own stream, all of one document, in parts that come equally
        often: (start, stop, exposures, first position, last position) of each; None where it does not come."""
        if start >= stop:
            return []
        inner = self.edges[np.searchsorted(self.edges, start, "right") : np.searchsorted(self.edges, stop)]
        begins = np.concatenate([[start], inner])
        spans = zip(begins.tolist(), [*inner.tolist(), stop], self.exposures(begins).tolist(), strict=True)
        return [(a, b, n, *(self._first_and_last(a, b) if n else (None, None))) for a, b, n in spans]

    def _first_and_last(self, start: int, stop: int) -> tuple[int | None, int | None]:
        """Return the first and the last position that feed a token of [start, stop), all of one document."""
        passes = range(self._passes)
        first = next((min(at) for p in passes if (at := self._positions(start, stop, p))), None)
        last = next((max(at) for p in reversed(passes) if (at := self._positions(start, stop, p))), None)
        return first, last

    def _positions(self, start: int, stop: int, pass_: int) -> list[int]:
        document = int(np.searchsorted(self.packing.edges, start, side="right")) - 1
        begin = self.packing.place(document, pass_) + start - int(self.packing.edges[document])
        width = self.plan.seq_len
        samples = np.arange(begin // width, -(-(begin + stop - start) // width))
        return [at for at in self.plan.position_of(samples, pass_).tolist() if at < self.stop]


@lru_cache(maxsize=8)
def fed(packing: Packing, plan: Repetition, stop: int) -> Fed:
    """Return what positions [0, stop) of a plan feed: the same for all that is asked about it one after the other."""
    return Fed(packing, plan, stop)
