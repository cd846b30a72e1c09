"""Kept fields: kinds, types and what becomes of a value that has none."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.common.rows.fields import MISSING
from epochal.datapipe.config import Kept
from epochal.datapipe.stages.kept import MOST_BYTES, KeptValues, add_counts, columns, lines, row_group, types_of

UTC = datetime.UTC
DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 5)
EAST = NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
BIG = 2**53 + 1


def column(values: list[Any], stated: str | None = None) -> tuple[str, list[Any], dict[str, int]]:
    """Return the type of a column, its values and what was counted."""
    keep = [Kept(name="c", type=stated)]
    kept = KeptValues(keep)
    pieces = [kept.encode("s", [value]) for value in values]
    types = types_of(keep, kept.counts)
    (array,) = columns(types, pieces)
    return types["c"], array.to_pylist(), kept.counts["c"].get("s", {})


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["x", None, MISSING, b"y"], "text", ["x", None, None, "y"]),
        ([1, -(2**63), BIG], "int", [1, -(2**63), BIG]),
        ([1, 0.5, Decimal("0.25")], "float", [1.0, 0.5, 0.25]),
        ([float("inf"), float("-inf"), 1], "float", [float("inf"), float("-inf"), 1.0]),
        ([True, False, None], "bool", [True, False, None]),
        ([DAY, datetime.date(1, 1, 1), None], "date", [DAY, datetime.date(1, 1, 1), None]),
        ([NOON, EAST], "timestamp", [NOON.replace(tzinfo=UTC), EAST]),
        ([pd.Timestamp(NOON), pd.NaT], "timestamp", [NOON.replace(tzinfo=UTC), None]),
        ([uuid.UUID(int=1), datetime.time(1, 2)], "text", [str(uuid.UUID(int=1)), "01:02:00"]),
        ([None, MISSING], "text", [None, None]),
    ],
)
def test_a_type_is_that_of_all_values(values: list[Any], kind: str, expected: list[Any]) -> None:
    assert column(values)[:2] == (kind, expected)


def test_nan_stays_what_it_is() -> None:
    kind, values, _ = column([float("nan"), 1])
    assert kind == "float"
    assert np.isnan(values[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["x", 1], "'c' holds whole numbers .* and text .*keep: {c: text}"),
        ([0.5, "n/a"], "'c' holds fractions .* and text .*keep: {c: text}"),
        ([True, 1], "'c' holds true or false .* and whole numbers .*keep: {c: text}"),
        ([BIG, 0.5], "whole numbers of more than 53 bits .* and fractions .*keep: {c: float}"),
        ([DAY, NOON], "dates .* and times .*keep: {c: timestamp}"),
        ([2**63], "more than 64 bits .*keep: {c: text}"),
        ([["a"]], r"lists .*keep: {c: text} \(as JSON\)"),
        ([{"a": 1}, "x"], r"fields of their own .*keep: {c: text} \(as JSON\)"),
        ([b"\xff"], "bytes that are no text .*leave it out of keep"),
    ],
)
def test_a_mixture_is_refused_with_its_kinds_and_the_cure(values: list[Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        column(values)
    assert "source 's'" in str(caught.value)
    assert "\n" not in str(caught.value)


AT_NOON, AT_NIGHT = NOON.replace(tzinfo=UTC), datetime.datetime(2024, 2, 29, tzinfo=UTC)
STATED: list[tuple[str, dict[Any, Any]]] = [
    ("text", {"x": "x", 2: "2", 0.5: "0.5", True: "true", DAY: "2024-02-29", ("a", 1): '["a",1]', BIG: str(BIG)}),
    ("int", {1: 1, 2.0: 2, "3": 3, " 4 ": 4, 2.5: None, "x": None, 2**63: None, "1e400": None, "NaN": None}),
    ("int", {True: None, float("nan"): None, float("inf"): None}),
    ("float", {1: 1.0, "0.5": 0.5, "1_0": None, "x": None, Decimal("0.1"): 0.1, BIG: float(BIG)}),
    ("bool", {True: True, "TRUE": True, 0: False, "no": None, 2: None}),
    ("date", {DAY: DAY, EAST: DAY, "2024-02-29": DAY, "2024-02-28T23:00:00-02:00": DAY, "29.2.24": None, 3: None}),
    ("timestamp", {"2024-02-29T12:00:00.000005Z": AT_NOON, DAY: AT_NIGHT, "x": None, 3: None}),
]


@pytest.mark.parametrize(("stated", "cases"), STATED)
def test_a_stated_type_takes_what_says_such_a_value(stated: str, cases: dict[Any, Any]) -> None:
    kind, found, counts = column(list(cases), stated)
    assert (kind, found) == (stated, list(cases.values()))
    assert counts.get("unlike", 0) == found.count(None)


def test_a_long_text_is_null_and_counted() -> None:
    kept = "é" * (MOST_BYTES // 2)
    kind, values, counts = column([kept, kept + "x", "x"])
    assert (kind, values) == ("text", [kept, None, "x"])
    assert counts["too long"] == 1


def test_what_is_missing_is_said_by_name_and_number() -> None:
    keep, kept = [Kept(name="url"), Kept(name="at")], KeptValues([Kept(name="url"), Kept(name="at")])
    for row in (["x", NOON], [None, EAST], [MISSING, None]):
        kept.encode("web", row)
    kept.encode("ids", None)
    assert list(lines(types_of(keep, kept.counts), kept.counts)) == [
        "kept in documents.parquet: url (text), at (timestamp)",
        "source 'ids': no row has a field 'url', which is null there",
        "url: null in 3 of 4 documents, 2 of which have no such field",
        "source 'ids': no row has a field 'at', which is null there",
        "at: null in 2 of 4 documents, 1 of which have no such field",
        "at: 1 of 4 times name no zone: they are taken to be UTC",
    ]


def test_the_message_names_the_sources_that_differ() -> None:
    kept = KeptValues([Kept(name="q")])
    kept.encode("web", [0.5])
    kept.encode("books", ["good"])
    with pytest.raises(RequestError, match=r"fractions \(source 'web'\) and text \(source 'books'\)"):
        types_of([Kept(name="q")], kept.counts)


@given(st.lists(st.sampled_from([1, 0.5, None, MISSING]), max_size=20), st.integers(1, 4))
def test_types_and_counts_do_not_show_how_documents_were_divided(values: list[Any], tasks: int) -> None:
    keep, whole, together = [Kept(name="c")], KeptValues([Kept(name="c")]), {"c": {}}
    parts = [KeptValues(keep) for _ in range(tasks)]
    for i, value in enumerate(values):
        whole.encode("s", [value])
        parts[i % tasks].encode("s", [value])
    for part in parts:
        add_counts(together, part.counts)
    assert together == whole.counts
    assert types_of(keep, together) == types_of(keep, whole.counts)


@pytest.mark.parametrize(("longest", "rows"), [(0, 65_536), (4096, 65_536), (1 << 16, 4096), (1 << 30, 256)])
def test_row_groups_are_small_where_values_are_long(longest: int, rows: int) -> None:
    assert row_group(longest) == rows
