import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.shards.order.amendment.amend import amend, ending_at, why_not_on
from epochal.shards.order.stored import position_in, state_of
from epochal.tests.support.orders.amended import mixture_of, plan_of, plans, spans_of

PLAN = plan_of(50, 200)


@given(data=st.data(), plan=plans())
@settings(max_examples=150, deadline=None)
def test_a_run_goes_on_with_other_skips_exactly_where_it_has_read_the_same(data, plan):
    saved, order = (amend(plan, data.draw(spans_of(plan.positions, most=2))) for _ in range(2))
    position = data.draw(st.integers(0, saved.positions))
    own = [getattr(o, "own_positions", np.asarray)(np.arange(o.positions)).tolist() for o in (saved, order)]
    same = own[0][:position] == own[1][:position]
    assert (why_not_on(saved, order, position) == "") == same
    if same:
        assert position_in(state_of(saved, position), order) == position
    else:
        with pytest.raises(RequestError, match="cannot go on with this run's skips"):
            position_in(state_of(saved, position), order)


def test_the_line_says_how_to_go_on():
    assert why_not_on(PLAN, amend(PLAN, [[40, 60]]), 40) == ""
    assert why_not_on(PLAN, amend(PLAN, [[40, 60]]), 50) == (
        "at position 50 it has read some of the new skip [40, 60]: go on from a checkpoint at or before position 40, "
        "or skip from there on, [50, 60]"
    )
    assert why_not_on(PLAN, amend(PLAN, [[50, 60]]), 50) == ""
    assert why_not_on(PLAN, amend(PLAN, [[40, 60]]), 60).endswith("at or before position 40")
    first = amend(PLAN, [[10, 20]])
    assert why_not_on(first, amend(PLAN, [[10, 20], [40, 60]]), 35) == (
        "at position 35 it has read some of the new skip [40, 60]: go on from a checkpoint at or before position 30, "
        "or skip from there on, [45, 60]"
    )
    assert why_not_on(first, amend(PLAN, [[10, 20], [45, 60]]), 35) == ""
    assert why_not_on(first, PLAN, 35) == (
        "it has passed over positions 10 to 20, which are skipped no more: go on from a checkpoint at or before "
        "position 10"
    )
    assert why_not_on(first, PLAN, 10) == ""


def test_another_plan_is_another_run():
    other = plan_of(50, 300)
    assert "total_tokens is" in why_not_on(PLAN, other, 0)
    with pytest.raises(RequestError, match="of another run: total_tokens"):
        position_in(state_of(PLAN, 10), amend(other, [[40, 60]]))


@given(data=st.data(), plan=plans())
@settings(max_examples=80, deadline=None)
def test_a_plan_that_ends_earlier_is_the_beginning_of_the_longer_one(data, plan):
    if plan.policy == "global":
        return
    order = amend(plan, data.draw(spans_of(plan.positions)))
    end = data.draw(st.integers(1, order.positions))
    ended = ending_at(order, end)
    assert ended.positions == end
    assert ended.ids(range(end)).tolist() == order.ids(range(end)).tolist()


def test_a_mixture_does_not_end_earlier():
    with pytest.raises(RequestError, match="a mixture cannot end earlier"):
        ending_at(mixture_of([20, 30], [6, 9], 10), 10)
