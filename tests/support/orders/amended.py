"""Orders with skips, and what they read, walked position by position without the code under test."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

from epochal.shards.order.base import POLICIES, Order
from epochal.shards.order.mixture import Mixture, Source
from epochal.shards.order.plan import Plan
from epochal.shards.order.windows import Stage

SEQ_LEN = 16


def plan_of(samples: int, positions: int, policy: Any = "reshuffle", padding: int = 0, number: int = 0) -> Plan:
    """Return a plan of about so many positions, of a subset known by its number."""
    n = samples * SEQ_LEN - padding
    widest = Plan(f"{number:032x}", samples, n, SEQ_LEN, -(-positions // samples) * n, 3, policy)
    return Plan(f"{number:032x}", samples, n, SEQ_LEN, widest.tokens_before(positions), 3, policy)


def mixture_of(counts: list[int], samples: list[int], window: int, policy: Any = "reshuffle") -> Mixture:
    """Return a mixture of one stage, of sources with so many positions each."""
    plans = [plan_of(n, k, policy, 0, i) for i, (k, n) in enumerate(zip(counts, samples, strict=True))]
    shares = tuple(plan.positions for plan in plans)
    return Mixture(tuple(Source(f"s{i}", p) for i, p in enumerate(plans)), (Stage(sum(shares), shares),), window, 1)


@st.composite
def plans(draw: st.DrawFn, most: int = 400) -> Plan:
    """Draw a plan of any policy, with or without PAD."""
    samples = draw(st.integers(1, 60))
    padding = draw(st.integers(0, SEQ_LEN - 1))
    return plan_of(samples, draw(st.integers(1, most)), draw(st.sampled_from(POLICIES)), padding)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Draw a mixture of two or three sources whose smallest has at least some positions."""
    counts = draw(st.lists(st.integers(20, 120), min_size=2, max_size=3))
    samples = draw(st.lists(st.integers(1, 40), min_size=len(counts), max_size=len(counts)))
    return mixture_of(counts, samples, draw(st.integers(20, 60)), draw(st.sampled_from(("reshuffle", "fixed"))))


@st.composite
def spans_of(draw: st.DrawFn, positions: int, most: int = 5) -> list[list[int]]:
    """Draw spans that leave something, some of which may touch."""
    edges = sorted(draw(st.sets(st.integers(0, positions), min_size=0, max_size=2 * most)))
    spans = [[a, b] for a, b in zip(edges[::2], edges[1::2], strict=False)]
    if draw(st.booleans()):
        spans = [part for a, b in spans for part in ([[a, (a + b) // 2], [(a + b) // 2, b]] if b - a > 1 else [[a, b]])]
    return spans if sum(b - a for a, b in spans) < positions else spans[1:]


@dataclass(frozen=True)
class Walked:
    """What an order without skips reads, with the positions of `spans` taken out of a list of all of them."""

    own: Order
    spans: list[list[int]]

    @cached_property
    def kept(self) -> list[int]:
        """The order's own positions that are left."""
        gone = {p for a, b in self.spans for p in range(a, b)}
        return [p for p in range(self.own.positions) if p not in gone]

    @cached_property
    def ids(self) -> list[int]:
        """The sample at each of them."""
        return self.own.ids(np.array(self.kept)).tolist()

    def tokens_before(self, position: int) -> int:
        """Real tokens of the first positions."""
        return int(self.own.n_tokens(np.array(self.ids[:position], np.int64)).sum())

    def exposures(self, position: int) -> list[int]:
        """How often each sample comes in the first positions."""
        seen = Counter(self.ids[:position])
        return [seen[i] for i in range(self.own.samples)]

    def unique_tokens(self, position: int) -> int:
        """Different tokens of the first positions."""
        return int(self.own.n_tokens(np.array(sorted(set(self.ids[:position])), np.int64)).sum())
