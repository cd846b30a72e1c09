"""Orders of which spans are passed over, held against a walk over all positions."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError, WorkError
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.amendment.skips import NEVER
from epochal.shards.order.base import POLICIES
from epochal.shards.order.receipt import Receipt
from epochal.shards.order.stored import order_from_dict
from epochal.tests.support.orders.amended import Walked, mixture_of, mixtures, plan_of, plans, spans_of


@given(data=st.data(), plan=plans())
@settings(max_examples=25, deadline=None)
def test_a_plan_equals_the_walk_over_what_is_left(data, plan):
    spans = data.draw(spans_of(plan.positions))
    check_against_the_walk(amend(plan, spans), Walked(plan, spans), data)


@given(data=st.data(), mixture=mixtures())
@settings(max_examples=12, deadline=None)
def test_a_mixture_equals_the_walk_over_what_is_left(data, mixture):
    spans = data.draw(spans_of(mixture.positions, most=3))
    walked = Walked(mixture, spans)
    counts = np.bincount(mixture.locate(np.array(walked.ids, np.uint64))[0], minlength=len(mixture.sources))
    if not counts.all():
        with pytest.raises(RequestError, match="the skips leave nothing of 's"):
            amend(mixture, spans)
        return
    check_against_the_walk(amend(mixture, spans), walked, data)


def check_against_the_walk(order, walked, data):
    ids = walked.ids
    assert order.positions == len(ids)
    assert order.ids(range(order.positions)).tolist() == ids
    start = data.draw(st.integers(0, len(ids)))
    assert order.ids(range(start, len(ids))).tolist() == ids[start:]
    shuffled = np.random.default_rng(0).permutation(len(ids))
    assert order.ids(shuffled).tolist() == [ids[i] for i in shuffled]
    for position in (0, 1, start, len(ids)):
        if position > len(ids):
            continue
        assert order.tokens_before(position) == walked.tokens_before(position)
        seen = walked.exposures(position)
        assert order.exposures(position).tolist() == seen
        assert order.exposures(position, [0]).tolist() == seen[:1]
        assert order.histogram(position) == {k: seen.count(k) for k in sorted(set(seen))}
        if order.counts_unique_tokens:
            assert order.unique_tokens_seen(position) == walked.unique_tokens(position)
        sources = order.locate(np.array(ids[:position], np.uint64))[0]
        assert order.counts(position) == np.bincount(sources, minlength=len(order.components())).tolist()
    check_inverses(order, ids)


def check_inverses(order, ids):
    every = np.arange(order.samples, dtype=np.uint64)
    places = [order.position_of(every, pass_) for pass_ in range(order.copies)]
    found = sorted((int(p), i) for row in places for i, p in enumerate(row.tolist()) if p < order.positions)
    assert found == list(enumerate(ids))
    components, offset = order.components(), 0
    counted = np.zeros(len(ids), np.int64)
    for number, plan in enumerate(components.values()):
        own = plan.ids(range(plan.positions)).astype(np.int64) + offset
        at = order.position_of_own(number, np.arange(plan.positions)).astype(np.int64)
        assert (np.diff(at) > 0).all()
        assert own.tolist() == [ids[i] for i in at]
        counted[at] += 1
        offset += plan.samples
    assert (counted == 1).all()


@given(data=st.data(), plan=plans())
@settings(max_examples=60, deadline=None)
def test_first_and_last_place_of_a_sample(data, plan):
    if plan.policy == "global":
        return
    spans = data.draw(spans_of(plan.positions).filter(bool))
    order, ids = amend(plan, spans), Walked(plan, spans).ids
    stop = data.draw(st.integers(0, len(ids)))
    at = {i: [p for p in range(stop) if ids[p] == i] for i in range(plan.samples)}
    first, last = order.first_and_last(np.arange(plan.samples), stop)
    assert first.tolist() == [p[0] if p else NEVER for p in at.values()]
    assert last.tolist() == [p[-1] if p else NEVER for p in at.values()]


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_million_positions(policy):
    plan = plan_of(70_001, 1_000_000, policy, padding=5)
    rng = np.random.default_rng(1)
    edges = np.sort(rng.choice(plan.positions, 400, replace=False)).reshape(-1, 2).tolist()
    order = amend(plan, edges)
    kept = np.ones(plan.positions, bool)
    for a, b in edges:
        kept[a:b] = False
    ids = plan.ids(np.flatnonzero(kept))
    assert np.array_equal(order.ids(range(order.positions)), ids)
    for stop in (1, 123_456, order.positions):
        assert np.array_equal(order.exposures(stop), np.bincount(ids[:stop].astype(np.int64), minlength=plan.samples))
        assert order.tokens_before(stop) == int(plan.n_tokens(ids[:stop]).sum())
        if order.counts_unique_tokens:
            assert order.unique_tokens_seen(stop) == int(plan.n_tokens(np.unique(ids[:stop])).sum())


@pytest.mark.slow
def test_a_mixture_of_a_million_positions():
    mixture = mixture_of([600_000, 300_000, 100_000], [40_000, 70_000, 900], 1000)
    edges = np.sort(np.random.default_rng(2).choice(mixture.positions, 20, replace=False)).reshape(-1, 2).tolist()
    order, walked = amend(mixture, edges), Walked(mixture, edges)
    assert order.ids(range(order.positions)).tolist() == walked.ids
    stop = order.positions * 2 // 3
    assert order.exposures(stop).tolist() == walked.exposures(stop)
    assert order.unique_tokens_seen(stop) == walked.unique_tokens(stop)


def test_global_that_is_too_long_to_count_is_expected_to_a_share():
    plan = plan_of(2**19, 3 * 2**19, "global")
    order = amend(plan, [[1000, 400_000]])
    seen = len(np.unique(order.ids(range(600_000)))) * plan.seq_len
    assert not order.counts_unique_tokens
    assert order.unique_tokens_seen(600_000) == pytest.approx(seen, rel=0.005)


# -- names, JSON, receipts ----------------------------------------------------------------------------------------


def test_without_skips_nothing_changes():
    plan = plan_of(7, 20)
    assert amend(plan, []) is plan
    assert amend(amend(plan, [[3, 5]]), []) is plan


def test_fingerprint_is_that_of_the_definition():
    order = amend(plan_of(7, 20), [[3, 5, "spike"], [9, 10]])
    own = "ddf211c8285803a02bb677d40d8c77fb"
    text = f'{{"amendment_version":1,"amends":"{own}","skip":[[3,5],[9,10]]}}'
    assert order.without_skips().fingerprint == own
    assert (
        order.fingerprint
        == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        == "eff3935fa94c784fd906c33410014bb4"
    )


def test_reasons_are_kept_and_are_no_part_of_the_order():
    plan = plan_of(7, 20)
    order = amend(plan, [[3, 5, "spike at step 3"]])
    assert order == amend(plan, [[3, 5, "another word"]])
    assert order != plan
    assert order.fingerprint == amend(plan, [[3, 5]]).fingerprint != plan.fingerprint
    assert order.to_dict()["skip"] == [[3, 5, "spike at step 3"]]
    assert order_from_dict(order.to_dict()).skips[0].reason == "spike at step 3"


@pytest.mark.parametrize("order", [plan_of(7, 20), mixture_of([20, 30], [6, 9], 10)])
def test_json_comes_back_and_a_change_is_noticed(order):
    amended = amend(order, [[3, 5, "spike"], [11, 12]])
    body = amended.to_dict()
    assert order_from_dict(body) == amended
    assert (body["positions"], body["amends"]["positions"]) == (order.positions - 3, order.positions)
    with pytest.raises(WorkError, match="disagree"):
        order_from_dict(body | {"skip": [[3, 6, "spike"], [11, 12]]})
    with pytest.raises(WorkError, match="disagree"):
        order_from_dict(body | {"seed": 9})
    with pytest.raises(RequestError, match="of version 2"):
        order_from_dict(body | {"amendment_version": 2})
    with pytest.raises(RequestError, match="lacks what it amends"):
        order_from_dict(body | {"skip": []})


def test_difference_names_the_skips():
    plan = plan_of(7, 20)
    assert plan.difference(amend(plan, [[3, 5]])) == "skip is [[3, 5]], not nothing"
    assert amend(plan, [[3, 5]]).difference(plan) == "skip is nothing, not [[3, 5]]"
    assert amend(plan, [[3, 5]]).difference(amend(plan, [[3, 5, "why"]])) == ""
    assert plan.difference(amend(replace(plan, seed=4), [[3, 5]])) == "seed is 4, not 3, skip is [[3, 5]], not nothing"


@given(data=st.data(), plan=plans())
@settings(max_examples=30, deadline=None)
def test_a_receipt_begun_before_the_amendment_holds_after_it(data, plan):
    spans = data.draw(spans_of(plan.positions).filter(bool))
    order, stop = amend(plan, spans), spans[0][0]
    receipt = Receipt(plan)
    receipt.add(np.arange(stop), plan.ids(range(stop)))
    went_on = Receipt(order, receipt.state)
    rest = np.arange(stop, order.positions)
    went_on.add(rest, order.ids(rest))
    assert went_on.check() is None
    assert Receipt.from_json(went_on.to_json()).check() is None
    wrong = Receipt(order, receipt.state)
    wrong.add(rest, plan.ids(rest))  # as if nothing had been skipped
    if not np.array_equal(plan.ids(rest), order.ids(rest)):
        assert wrong.check() is not None
