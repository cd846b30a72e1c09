"""The bucket of each document by its value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.config import validate
from epochal.common.errors import RequestError
from epochal.shards.buckets.split import MOST_BUCKETS, Part, Split, by_number, by_value

VALUES = st.lists(st.sampled_from([math.nan, -1.0, 0.0, 0.1, 0.25, 0.5, 0.9, 7.0]), min_size=1, max_size=60)


@given(VALUES, st.integers(2, 12), st.randoms())
def test_quantiles_hold_about_as_many_tokens_and_never_divide_a_value(values, quantiles, random) -> None:
    tokens = np.array([random.randint(1, 50) for _ in values], np.int64)
    division = by_number(Split(by="q", quantiles=quantiles), np.array(values), tokens)
    known = [v for v in values if not math.isnan(v)]
    for value in set(known):
        assert len({int(b) for v, b in zip(values, division.of, strict=True) if v == value}) == 1
    numbered = [p for p in division.parts if p.name != "null"]
    assert sum(int(division.parts[b].name == "null") for b in division.of) == len(values) - len(known)
    assert len(numbered) + division.empty == quantiles
    total = sum(t for v, t in zip(values, tokens, strict=True) if not math.isnan(v))
    for i, part in enumerate(numbered):
        inside = [v for v, b in zip(values, division.of, strict=True) if b == i]
        assert all((part.lower is None or v >= part.lower) and (part.upper is None or v < part.upper) for v in inside)
        # all but its last value hold less than the quantile asks for
        mine = sum(t for v, t, b in zip(values, tokens, division.of, strict=True) if b == i and v < max(inside))
        assert mine < total / quantiles + 1


def test_distinct_values_make_equal_quantiles() -> None:
    values, tokens = np.arange(100.0), np.ones(100, np.int64)
    division = by_number(Split(by="q", quantiles=20), values, tokens)
    assert np.bincount(division.of).tolist() == [5] * 20
    assert division.parts[0] == Part("q00", None, 5.0)
    assert division.parts[19] == Part("q19", 95.0, None)
    assert division.empty == 0


def test_edges_begin_buckets_and_null_has_its_own() -> None:
    values = np.array([0.1, 0.2, 0.3, math.nan, 0.9])
    division = by_number(Split(by="q", edges=[0.2, 0.5, 0.8]), values, np.ones(5, np.int64))
    assert [part.name for part in division.parts] == ["e00", "e01", "e03", "null"]
    assert division.of.tolist() == [0, 1, 1, 3, 2]
    assert division.empty == 1


def test_each_value_has_a_bucket_with_a_name_for_a_folder() -> None:
    division = by_value(["en", None, "de", "x/y", "x y", "en", "null"], "lang")
    names = {part.value: part.name for part in division.parts}
    assert names["en"], names["de"] == ("en", "de")
    assert len(set(names.values())) == len(division.parts) == 6
    assert names[None] == "null"
    assert all("/" not in name and " " not in name for name in names.values())
    assert [division.parts[b].value for b in division.of] == ["en", None, "de", "x/y", "x y", "en", "null"]


def test_too_many_values_are_refused() -> None:
    with pytest.raises(RequestError, match=f"{MOST_BUCKETS - 1} buckets are the most"):
        by_value([str(i) for i in range(MOST_BUCKETS)], "url")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "q", "edges": [0.5, 0.2]}, "must ascend"),
        ({"by": "q", "edges": [0.5], "quantiles": 3}, "not both"),
        ({"by": "q", "quantiles": 1}, "at least 2"),
        ({"quantiles": 3}, "must be given"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, said) -> None:
    with pytest.raises(RequestError, match=said):
        validate(Split, settings, "split")
