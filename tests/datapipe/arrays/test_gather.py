import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.datapipe.arrays.gather import apart, gathered, in_order, together


@given(st.lists(st.binary(max_size=12), max_size=8), st.randoms(use_true_random=False), st.sampled_from([1, 2, 4, 88]))
def test_pieces_come_in_the_order_that_is_asked_for(pieces, random, width):
    order = random.choices(range(len(pieces)), k=random.randrange(12)) if pieces else []
    wide = [b"".join(bytes([value]) * width for value in piece) for piece in pieces]
    lengths = np.array(list(map(len, pieces)), np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epochal.datapipe.arrays.gather.AT_ONCE", 5)
        some = list(in_order(b"".join(wide), lengths, np.array(order, np.int64), width))
    assert all(len(one) < 5 + max(map(len, wide), default=0) for one in some)
    found = b"".join(some)
    assert found == b"".join([wide[i] for i in order])
    assert apart(found, lengths[order] * width if order else lengths[:0]) == [wide[i] for i in order]


@pytest.mark.parametrize(
    ("starts", "lengths", "width"),
    [
        *(([-1], [1], 1), ([0], [-1], 1), ([9], [0], 1), ([8], [1], 1), ([4], [1], 2), ([0], [2**62], 4)),
        *(([0, 0], [1], 1), ([0], [1], 0), ([2**63 - 1], [2**63 - 1], 1)),
    ],
)
def test_a_piece_outside_of_the_buffer_is_refused(starts, lengths, width):
    with pytest.raises(ValueError, match="not within the buffer"):
        gathered(bytes(8), np.array(starts), np.array(lengths), width)


def test_pieces_that_together_are_too_large_are_refused():
    with pytest.raises(ValueError, match="not within the buffer"):
        gathered(bytes(1 << 20), np.zeros(1 << 20, np.int64), np.full(1 << 20, 1), 1 << 44)


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=4), max_size=5))
def test_what_is_put_together_comes_apart(pieces):
    values, lengths = together([np.array(piece, np.uint16) for piece in pieces], np.uint16)
    assert values.dtype == np.uint16
    assert [piece.tolist() for piece in apart(values, lengths)] == pieces
