import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epochal.datapipe.arrays.ordering import order_by

VALUES = st.sampled_from([0, 1, 2**63, 2**64 - 1])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=40))
def test_the_order_is_lexsorts(rows):
    columns = np.array(rows, np.uint64).reshape(-1, 3).T
    for n in (1, 2, 3):
        np.testing.assert_array_equal(order_by(*columns[:n]), np.lexsort(columns[:n][::-1]))


def test_the_order_of_many_hashes_with_copies_is_lexsorts():
    hashes = np.random.default_rng(0).integers(0, 2**64, (2, 3000), np.uint64)
    columns = hashes[:, np.random.default_rng(1).integers(0, 2500, 4000)]
    np.testing.assert_array_equal(order_by(*columns), np.lexsort(columns[::-1]))
