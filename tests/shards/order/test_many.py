"""Samples of several plans at once equal those of each plan by itself."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epochal.shards.order import many
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.base import Repetition
from epochal.shards.order.many import ids_of, tallies
from epochal.shards.order.permutation import forward_many, keyed_permutation
from epochal.shards.order.plan import Plan

PLANS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 7, 900, 1023, 1024, 5000, 10**6]),
        st.sampled_from(["reshuffle", "fixed", "sequential", "global"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


def plan(number: int, samples: int, policy: str, seed: int) -> Plan:
    return Plan(f"{number:032x}", samples, samples * 4, 4, 5 * samples * 4, seed, policy)  # type: ignore[arg-type]


@given(PLANS, st.integers(0, 2**32), st.integers(1, 300))
def test_they_equal_each_plan_by_itself(chosen, seed: int, k: int) -> None:
    plans = [plan(i, *one) for i, one in enumerate(chosen)]
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(plans), k)
    positions = np.array([rng.integers(0, 5 * plans[s].samples) for s in which], np.int64)
    expected = [int(plans[s].ids([p])[0]) for s, p in zip(which.tolist(), positions.tolist(), strict=True)]
    assert ids_of(plans, which, positions).tolist() == expected


def test_many_positions_of_one_plan_are_computed_by_itself(monkeypatch) -> None:
    monkeypatch.setattr(many, "FEW", 10)
    plans = [plan(0, 5000, "reshuffle", 1), plan(1, 700, "reshuffle", 2), plan(2, 900, "fixed", 2)]
    which = np.repeat([0, 1, 2], [50, 5, 5])
    positions = np.concatenate([np.arange(50), np.arange(5), np.arange(5)])
    expected = np.concatenate([plans[0].ids(range(50)), plans[1].ids(range(5)), plans[2].ids(range(5))])
    np.testing.assert_array_equal(ids_of(plans, which, positions), expected)


ORDERS = st.tuples(st.sampled_from([1, 3, 1023, 1024, 2**40]), st.integers(0, 9), st.integers(0, 5))


@given(st.lists(ORDERS, min_size=1))
def test_the_permutations_of_many_orders_are_the_keyed_ones(orders) -> None:
    of = np.repeat(np.arange(len(orders)), 3)
    places = np.array([min(n - 1, p) for n, _, _ in orders for p in (0, 1, n // 2)], np.uint64)
    expected = [
        int(keyed_permutation(n, "order/pass", seed, number).forward(places[i : i + 1])[0])
        for i, (n, seed, number) in enumerate(orders[o] for o in of.tolist())
    ]
    assert forward_many(orders, of, places).tolist() == expected


def test_tallies_of_many_plans_are_what_walking_each_finds():
    random = np.random.default_rng(5)
    policies = ("reshuffle", "fixed", "sequential", "global")
    sizes = (7, 1500, 40, 23, 1024, 9, 31, 12)
    plans: list[Repetition] = [
        Plan("a" * 32, n, 4 * n, 4, 4 * n * 5, seed, policies[seed % 4]) for seed, n in enumerate(sizes)
    ]
    plans += [amend(plan, [(3, plan.samples + 4, "spike")]) for plan in plans[:4]]
    stops = np.array([int(random.integers(0, plan.positions + 1)) for plan in plans[:-1]] + [0])
    which = np.repeat(np.arange(len(plans)), 6)
    random.shuffle(which)
    ids = np.array([int(random.integers(0, plans[i].samples)) for i in which])
    seen, first, last = tallies(plans, stops, which, ids)
    walked = [plan.ids(range(stop)) for plan, stop in zip(plans, stops.tolist(), strict=True)]
    for i, (plan, id_) in enumerate(zip(which.tolist(), ids.tolist(), strict=True)):
        at = np.flatnonzero(walked[plan] == id_)
        assert seen[i] == len(at)
        if len(at):
            assert (first[i], last[i]) == (at[0], at[-1])
