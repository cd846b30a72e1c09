"""An order of which some spans of positions are passed over: what a run reads once it was amended.

Its positions are those that are left, counted through, so that it is an order as any other: without a gap, in batches,
shared out among ranks. A run of the order without a span stands, up to that span, at the same position of the order
with it, and has read the same: it may go on with it. What comes after the span keeps its samples. Receipts are folded
over the order's own positions, with the keys of its fingerprint: what a run has folded before it was amended counts.

What is counted over positions [0, p) is counted over the spans between the skips: a count of the order's own, less
those of the skips. docs/repetition.md is the definition for others.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ....common.errors import RequestError
from ....common.hashing import digest as json_digest
from ..base import Ids, Int, Lanes, Order, as_positions, check_range
from ..mixture import Mixture
from ..plan import Plan
from .skips import Spans

AMENDMENT_VERSION = 1
"""Raised whenever the same spans would leave another order."""


class Amended(Order):
    """What amended plans and mixtures have in common.

    Attributes:
        unamended: the order without any skip.
    """

    unamended: Plan | Mixture

    def without_skips(self) -> Plan | Mixture:
        """Return the order of which spans are passed over."""
        return self.unamended

    @cached_property
    def spans(self) -> Spans:
        """The arithmetic of the skips."""
        return Spans(self.skips, self.unamended.positions)

    # -- what is as it was ----------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:  # type: ignore[override]  # that of the order without skips, as all of these
        """Seed of the order."""
        return self.unamended.seed

    @property
    def seq_len(self) -> int:  # type: ignore[override]
        """Tokens of a sample."""
        return self.unamended.seq_len

    @property
    def samples(self) -> int:  # type: ignore[override]
        """Different samples, whether they are all read or not."""
        return self.unamended.samples

    @property
    def unique_tokens(self) -> int:  # type: ignore[override]
        """Their tokens."""
        return self.unamended.unique_tokens

    @property
    def total_tokens(self) -> int:  # type: ignore[override]
        """The budget, what is passed over included."""
        return self.unamended.total_tokens

    @property
    def copies(self) -> int:
        """Passes that are begun over the component that is repeated most."""
        return self.unamended.copies

    @property
    def lookup_width(self) -> int:
        """Positions that are worked out to look at one."""
        return self.unamended.lookup_width

    def locate(self, ids: ArrayLike) -> tuple[Int, Ids]:
        """Return the component of each sample and its number within it, int64 and uint64 (k,)."""
        return self.unamended.locate(ids)

    def n_tokens(self, ids: ArrayLike) -> Int:
        """Return the real tokens of each sample in `ids`, int64 of the same shape."""
        return self.unamended.n_tokens(ids)

    # -- positions ------------------------------------------------------------------------------------------------

    @property
    def positions(self) -> int:
        """How many samples the run reads."""
        return self.spans.left

    def own_positions(self, positions: range | ArrayLike) -> Ids:
        """Return which of the order's own positions each one is, uint64 (k,)."""
        return self.spans.own(as_positions(positions))

    def ids(self, positions: range | ArrayLike) -> Ids:
        """Return the sample at each position, uint64 of shape (k,)."""
        if isinstance(positions, range):
            check_range(positions)
            parts = [self.unamended.ids(own) for own in self.spans.own_range(positions.start, positions.stop)]
            return np.concatenate(parts) if parts else np.empty(0, np.uint64)
        return self.unamended.ids(self.own_positions(positions))

    def passes_at(self, positions: ArrayLike) -> Int:
        """Return in which pass over its own component each position lies, int64 (k,); not for the policy `global`."""
        return self.unamended.passes_at(self.own_positions(np.asarray(positions)))

    def position_of(self, ids: ArrayLike, pass_: int) -> Ids:
        """Return where each sample comes in pass `pass_` of its own component, uint64 (k,).

        A result of at least `positions` means that the run ends before, or passes over it (NEVER).

        Raises:
            RequestError: for an unknown sample.
        """
        return self.spans.kept(self.unamended.position_of(ids, pass_))

    def fold(self, positions: ArrayLike, ids: ArrayLike) -> Lanes:
        """Return what `Order.fold` of the order without skips returns for its own positions."""
        return self.unamended.fold(self.own_positions(np.asarray(positions)), ids)

    # -- what was seen --------------------------------------------------------------------------------------------

    def tokens_before(self, position: int) -> int:
        """Return how many real tokens positions [0, position) hold."""
        own, passed = self.spans.before(position)
        before = self.unamended.tokens_before
        return before(own) - sum(before(skip.stop) - before(skip.start) for skip in passed)

    def exposures(self, position: int, ids: ArrayLike | None = None) -> Int:
        """Return how often each sample comes in positions [0, position), int64 (k,), for `ids` or for all samples."""
        self._check_position(position)
        own, passed = self.spans.before(position)
        seen = self.unamended.exposures(own, ids)
        for skip in passed:
            seen = seen - self.unamended.exposures(skip.stop, ids) + self.unamended.exposures(skip.start, ids)
        return seen

    @property
    def counts_unique_tokens(self) -> bool:
        """Whether `unique_tokens_seen` is exact."""
        return self.unamended.counts_unique_tokens

    def _check_position(self, position: int) -> None:
        if not 0 <= position <= self.positions:
            raise RequestError(f"position must lie in 0 to {self.positions}, got {position}")

    # -- JSON -----------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: BLAKE2b-128 of the canonical JSON of the order's own, the spans and
        AMENDMENT_VERSION. Reasons are not in it."""
        spans = [[skip.start, skip.stop] for skip in self.skips]
        body = {"amendment_version": AMENDMENT_VERSION, "amends": self.unamended.fingerprint, "skip": spans}
        return json_digest(body)

    def to_dict(self) -> dict[str, Any]:
        """Return the order without skips as JSON data, with its positions and fingerprint under `amends`, and the
        skips."""
        own = self.unamended.to_dict()
        amended = {
            "amendment_version": AMENDMENT_VERSION,
            "skip": [skip.to_list() for skip in self.skips],
            "amends": {name: own.pop(name) for name in ("positions", "fingerprint")},
        }
        return own | amended | {"positions": self.positions, "fingerprint": self.fingerprint}
