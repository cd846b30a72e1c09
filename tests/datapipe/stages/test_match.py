import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epochal.datapipe.stages.match import KEY, _by_key


def copies(keys: list[int], sources: list[int]) -> list[set[int]]:
    """Return the groups of copies among documents, of which those with a source of 0 or more are distinct in it."""
    records = np.zeros(len(keys), KEY)
    records["value"], records["source"], records["number"] = keys, sources, np.arange(len(keys))
    numbers, same = _by_key(records)
    groups: list[set[int]] = []
    for number, joined in zip(numbers.tolist(), [False, *same.tolist()], strict=True):
        groups = [*groups[:-1], groups[-1] | {number}] if joined else [*groups, {number}]
    return groups


def test_distinct_documents_of_one_source_are_copies_only_of_those_of_others():
    assert copies([7, 7, 7, 5], [-1, -1, -1, -1]) == [{3}, {0, 1, 2}]
    assert copies([7, 7, 7, 5], [0, 0, 0, 0]) == [{3}, {0}, {1}, {2}]
    # Source 0 has three of a key, source 1 two, and one came as text: three stay.
    assert copies([7, 7, 7, 7, 7, 7], [0, 0, 0, 1, 1, -1]) == [{5, 0, 3}, {1, 4}, {2}]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2)), min_size=1, max_size=30))
def test_as_many_stay_of_a_key_as_the_source_with_most_has(documents):
    keys, sources = map(list, zip(*documents, strict=True))
    groups = copies(keys, sources)
    assert sorted(number for group in groups for number in group) == list(range(len(keys)))
    for key in set(keys):
        mine = [s for k, s in documents if k == key]
        most = max([1, *(mine.count(s) for s in set(mine) - {-1})])
        assert sum(keys[min(group)] == key for group in groups) == most
