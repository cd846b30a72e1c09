import json

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.shards.order.base import POLICIES, Order
from epochal.shards.order.mixture import Mixture, Source
from epochal.shards.order.plan import Plan
from epochal.shards.order.stored import order_from_dict
from epochal.shards.order.windows import Stage


def plan(policy: str, samples: int = 7, padding: int = 11, tokens: int = 300, subset: int = 0) -> Plan:
    return Plan(f"{subset:032x}", samples, samples * 16 - padding, 16, tokens, 3, policy)  # type: ignore[arg-type]


def mixture(policy: str) -> Mixture:
    parts = [plan(policy), plan("reshuffle", 5, 0, 200, 1)]
    shares = tuple(p.positions for p in parts)
    sources = tuple(Source(name, p) for name, p in zip("ab", parts, strict=True))
    return Mixture(sources, (Stage(sum(shares), shares),), 6, 1)


def orders() -> list[Order]:
    made = [order for policy in POLICIES for order in (plan(policy), plan(policy, padding=0), mixture(policy))]
    return [*made, plan("global", tokens=101), plan("global", tokens=60)]


@pytest.mark.parametrize("order", orders(), ids=lambda order: f"{order.kind}-{order.fingerprint[:4]}")
def test_unique_tokens_seen_are_those_that_a_walk_meets(order: Order) -> None:
    assert order.counts_unique_tokens
    ids = order.ids(range(order.positions))
    for position in range(order.positions + 1):
        met = order.n_tokens(np.unique(ids[:position])).sum()
        assert order.unique_tokens_seen(position) == met
    assert order.unique_tokens_seen(0) == 0


@pytest.mark.parametrize("order", orders(), ids=lambda order: f"{order.kind}-{order.fingerprint[:4]}")
def test_components_counts_and_locate_agree_with_a_walk(order: Order) -> None:
    ids = order.ids(range(order.positions))
    numbers, inner = order.locate(ids)
    plans = list(order.components().values())
    for position in range(order.positions + 1):
        counts = order.counts(position)
        assert counts == np.bincount(numbers[:position], minlength=len(plans)).tolist()
        assert order.tokens_before(position) == sum(p.tokens_before(n) for p, n in zip(plans, counts, strict=True))
        assert order.tokens_before(position) == order.n_tokens(ids[:position]).sum()
    for number, part in enumerate(plans):
        np.testing.assert_array_equal(inner[numbers == number], part.ids(range(part.positions)))
    assert order.tokens == order.tokens_before(order.positions) <= order.total_tokens
    assert order.passes == order.tokens / order.unique_tokens
    assert order.copies == max(p.copies for p in plans)
    assert order.samples == sum(p.samples for p in plans)
    assert order_from_dict(json.loads(order.to_json())) == order


def test_a_long_global_plan_answers_with_the_expectation() -> None:
    long = Plan("0" * 32, 1 << 19, 16 << 19, 16, 3 * 16 << 19, 3, "global")
    assert not long.counts_unique_tokens
    ids = long.ids(range(long.positions))
    for position in (0, 1, 1 << 18, 1 << 19, 1 << 20, long.positions):
        met = 16 * len(np.unique(ids[:position]))
        assert long.unique_tokens_seen(position) == pytest.approx(met, rel=2e-3)
    assert (long.unique_tokens_seen(0), long.unique_tokens_seen(long.positions)) == (0, long.unique_tokens)
    whole = Plan("0" * 32, 1 << 21, 16 << 21, 16, 16 << 21, 3, "global")
    assert whole.counts_unique_tokens
    assert whole.unique_tokens_seen(12_345) == 16 * 12_345


def test_the_kinds_differ_and_unknown_positions_are_refused() -> None:
    one, several = plan("reshuffle"), mixture("reshuffle")
    assert (one.kind, several.kind) == ("plan", "mixture")
    assert "the other a mixture" in one.difference(several)
    assert "the other a plan" in several.difference(one)
    assert list(one.components()) == [""]
    assert list(several.components()) == ["a", "b"]
    for order in (one, several):
        with pytest.raises(RequestError, match="position must lie in"):
            order.counts(order.copies * order.samples + 100)
        with pytest.raises(RequestError, match="sample ids are integers"):
            order.locate([order.samples])
