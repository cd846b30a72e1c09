"""Shares of a batch: together they are the batch, on any number of ranks, from any start."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.shards.order.plan import Plan
from epochal.shards.order.shares import Share

PLAN = Plan("0" * 32, 57, 901, 16, 1300, 3)


@given(ranks=st.integers(1, 8), per_rank=st.integers(1, 9), start=st.integers(0, PLAN.positions))
def test_ranks_read_every_position_once_in_order(ranks: int, per_rank: int, start: int) -> None:
    shares = [Share(PLAN, ranks * per_rank, rank, ranks, empty=True) for rank in range(ranks)]
    batches = range(shares[0].batches(start))
    read = list(itertools.chain.from_iterable(share.of(b, start) for b in batches for share in shares))
    assert read == list(range(start, PLAN.positions))
    assert all(len(share.of(b, start)) == per_rank for share in shares for b in batches[:-1])
    stops = [shares[0].stop(b, start) for b in batches]
    assert stops == [min(start + (b + 1) * ranks * per_rank, PLAN.positions) for b in batches]


def test_a_short_batch_of_seven_on_three_ranks() -> None:
    plan = Plan("0" * 32, 57, 57 * 16, 16, (12 + 7) * 16)
    assert [Share(plan, 12, rank, 3).of(1) for rank in range(3)] == [range(12, 14), range(14, 16), range(16, 19)]


@pytest.mark.parametrize(
    ("batch", "rank", "ranks", "line"),
    [
        (6, 2, 2, "rank 2 is none of 2 ranks"),
        (7, 0, 2, "does not divide by 2 ranks"),
        (0, 0, 1, "no whole number of samples"),
        (-2, 0, 1, "at least 1 sample"),
        (PLAN.positions - 1, 0, PLAN.positions - 1, "some would have no batch"),
    ],
)
def test_what_does_not_fit(batch: int, rank: int, ranks: int, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        Share(PLAN, batch, rank, ranks)
