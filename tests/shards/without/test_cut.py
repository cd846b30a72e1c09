"""What is left of a stream when ranges are taken out: held against a walk over every token."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.shards.without.cut import NOTHING, Anew, Cut, Removed, Whole
from epochal.tests.support.pools import walk_left


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    seq_len, per_shard = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    tokens = draw(st.integers(1, 120))
    edges = sorted(draw(st.sets(st.integers(0, tokens), max_size=12)))
    edges = edges[: len(edges) // 2 * 2]
    touching = draw(st.booleans()) and len(edges) > 2  # documents that follow each other may both be taken out
    starts, stops = (edges[:-1], edges[1:]) if touching else (edges[::2], edges[1::2])
    first = draw(st.integers(0, (tokens - 1) // (seq_len * per_shard)))
    return Cut(Removed(np.array(starts, np.int64), np.array(stops, np.int64)), tokens, seq_len, per_shard, first)


@settings(max_examples=300)
@given(cuts())
def test_it_equals_a_walk_over_every_token(cut: Cut) -> None:
    left = walk_left(cut)
    assert cut.capacity == len(left)
    positions = np.arange(cut.tokens + 1)
    begin = cut.first * cut.per_shard * cut.seq_len
    np.testing.assert_array_equal(cut.before(positions), [sum(begin <= i < p for i in left) for p in positions])
    for n in range(1, len(left) + 1):
        assert cut.end(n) == left[n - 1] + 1
        assert tokens_of(cut, n) == left[:n]


def tokens_of(cut: Cut, n: int) -> list[int]:
    """Return the pool's positions of the first `n` tokens, read from the shards that they are said to lie in."""
    full, rest = divmod(n, cut.seq_len)
    out = [i for place in cut.pieces(full) for i in read(cut, place)]
    return out + (read(cut, cut.sample(full))[-cut.seq_len :][:rest] if rest else [])


def read(cut: Cut, place: Whole | Anew) -> list[int]:
    n = place.samples * cut.seq_len
    if isinstance(place, Whole):
        start = place.shard * cut.per_shard * cut.seq_len
        return list(range(start, start + n))
    kept = cut.removed.left_between(place.start, cut.tokens + cut.seq_len)
    return [i for a, b in kept for i in range(a, b)][place.skip : place.skip + n]


@given(cuts())
def test_a_shard_that_loses_nothing_stays_whole(cut: Cut) -> None:
    width = cut.per_shard * cut.seq_len
    for place in cut.pieces(cut.capacity // cut.seq_len):
        if isinstance(place, Whole):
            start = place.shard * width
            assert cut.removed.before(min(start + width, cut.tokens)) == cut.removed.before(start)


@given(cuts())
def test_what_is_left_out_beside_whole_shards_is_counted(cut: Cut) -> None:
    left = walk_left(cut)
    begin = cut.first * cut.per_shard * cut.seq_len
    stays = (cut.tokens - begin) - int(cut.removed.before(cut.tokens) - cut.removed.before(begin))
    assert cut.left_over(cut.capacity) == stays - len(left)


def test_where_nothing_is_taken_out_all_shards_are_the_pools() -> None:
    cut = Cut(NOTHING, 100, 4, 3, 2)
    assert list(cut.pieces(19)) == [*(Whole(shard, 3) for shard in range(2, 8)), Whole(8, 1)]
    assert cut.capacity == 76
