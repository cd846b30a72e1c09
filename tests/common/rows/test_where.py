"""Conditions on rows: what they say, what they refuse, and that a row is judged by itself."""

import datetime
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError, WorkError
from epochal.common.rows.where import Condition, ConditionError
from epochal.datapipe.config import Source, TokenizerChoice
from epochal.datapipe.sources.base import NULL_CONDITION, Intake
from epochal.datapipe.sources.registry import list_source, make_reader

DAY, NOON = datetime.date(2024, 2, 1), datetime.datetime(2024, 2, 1, 12)
ZONE = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("condition", "values", "answers"),
    [
        ("a >= 0.6", [0.6, 0.59, 1, 0, None, True, Decimal("0.6"), 2**70], [1, 0, 1, 0, None, 1, 1, 1]),
        ("a = 'en'", ["en", "de", None, b"en"], [1, 0, None, 1]),
        ("a IN ('en', 'de')", ["en", "fr", None], [1, 0, None]),
        ("a IS NULL OR a > 1", [None, 1, 2.5], [1, 0, 1]),
        ("COALESCE(a, 0) < 1", [None, 0, 1], [1, 1, 0]),
        ("LOWER(a) LIKE 'e%'", ["EN", "de", None], [1, 0, None]),
        ("TRY_CAST(a AS DOUBLE) >= 0.6", ["0.7", "x", 0.7, 1, None], [1, None, 1, 1, None]),
        ("a >= DATE '2024-02-01'", [DAY, NOON, datetime.datetime(2024, 1, 31), None], [1, 1, 0, None]),
        ("a > TIMESTAMP '2024-02-01 11:00:00'", [NOON, NOON.replace(tzinfo=ZONE)], [1, 0]),
        ("a.b.c = 1", [{"b": {"c": 1}}, {"b": {"c": 2}}, {"b": 1}, None], [1, 0, None, None]),
        ("ARRAY_CONTAINS(a, 'x')", [["x", "y"], ["y"], [], None], [1, 0, 0, None]),
        ("a", [True, False, None], [1, 0, None]),
        ("a <> 'it''s a.b 0.5'", ["it's a.b 0.5", "x"], [0, 1]),
        ("a BETWEEN .5 AND 1.", [0.5, 1, 2], [1, 1, 0]),
        ("a >= 0.6", [float("nan"), Decimal("NaN"), float("inf"), 0.7], [None, None, 1, 1]),
        ("ARRAY_CONTAINS(a, 2)", [[2, 1], [1], None, []], [1, 0, None, 0]),
        ("ARRAY_CONTAINS(a, 2.0)", [[2.0, 1.5], [1.0], [float("nan"), 2.0], None], [1, 0, 1, None]),
        (f"a IN ({', '.join(map(str, range(-5000, 0)))})", [-7, 7], [1, 0]),
        (" OR ".join(f"a = '{i}'" for i in range(300)), ["7", "x"], [1, 0]),
    ],
)
def test_what_a_condition_says(condition: str, values: list[Any], answers: list[int | None]) -> None:
    expected = [None if answer is None else bool(answer) for answer in answers]
    assert Condition(condition).judge([{"a": value} for value in values]) == expected


def test_a_name_with_dots_is_a_field_of_that_name_before_one_inside_another() -> None:
    rows = [{"a.b": 1, "a": {"b": 2}}, {"a": {"b": 1}}, {}]
    assert Condition("a.b = 1").judge(rows) == [True, True, None]
    assert Condition('"a.b" = 1').judge(rows) == [True, True, None]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("a >", "not a condition in SQL"),
        ("a > 1; DROP TABLE x", "not a condition in SQL"),
        ("*", "not a condition in SQL"),
        ("(" * 900 + "a" + ")" * 900, "not a condition in SQL"),
        ("a = '\ud800'", "not a condition in SQL"),
        ("1 = 1", "names no field"),
        ("AVG(a) > 1", "an average cannot be used"),
        ("a > 1 OR CASE WHEN b THEN MAX(a) > 1 ELSE TRUE END", "Max cannot be used"),
        ("COUNT(*) > 1", "a count of rows cannot be used"),
        ("SUM(a) OVER (PARTITION BY b) > 1", "a window cannot be used"),
        ("ROW_NUMBER() > 1 AND a", "a row number cannot be used"),
        ("LAG(a) OVER (ORDER BY a) > 1", "cannot be used"),
        ("a > (SELECT 1)", "a subquery cannot be used"),
        ("a IN (SELECT b FROM c)", "another table"),
        ("EXISTS (SELECT 1) AND a", "a subquery cannot be used"),
        ("UNNEST(a) = 1", "UNNEST cannot be used"),
        ("COLUMNS('a.*') > 1", "a choice of columns cannot be used"),
        ("STRING_AGG(a, ',') = 'x'", "cannot be used"),
        ("QUANTILE_CONT(a, 0.5) > 1", "cannot be used"),
        ("a > NOW()", "NOW is another at each build"),
        ("a > CURRENT_DATE", "CURRENT_DATE is another at each build"),
        ("RANDOM() > 0.5 AND a", "no function random"),
        ("READ_CSV('/etc/passwd') = a", "no function read_csv"),
        ("a + 1", "neither true nor false"),
        ("LOWER(a) = 'x' AND a > 1", "neither true nor false"),
        ("a REGEXP '('", "regular expression"),
        (" + ".join("a" * 120) + " > 1", "too many steps"),
        (" OR ".join(f"a = '{i}'" for i in range(1900)), "too many steps"),
        (" OR ".join(["a > 1"] * 20_000), "too many steps"),  # which polars ends the process for
        ("+".join("a" * 20_000) + " > 1", "too many steps"),
        ("a" + "::int" * 20_000 + " > 1", "too many steps"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused_in_a_line(condition: str, said: str) -> None:
    with pytest.raises(ConditionError, match=said) as caught:
        Condition(condition)
    assert "\n" not in str(caught.value)
    assert "polars" not in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "value"),
    [("a > 1", DAY), ("a = 'true'", True), ("a > TRUE", "x"), ("b < 2 AND a <> 5", NOON), ("a BETWEEN 1 AND 2", DAY)],
)
def test_what_polars_would_compare_as_something_else_is_refused(condition: str, value: Any) -> None:
    with pytest.raises(ConditionError, match="compare like with like"):
        Condition(condition).judge([{"a": value, "b": 1}])


@pytest.mark.parametrize("value", ["0.7", DAY, [1], {"b": 1}, b"\xff"])
def test_a_row_of_which_it_cannot_be_computed_is_named(value: Any) -> None:
    with pytest.raises(ConditionError) as caught:
        Condition("a >= 0.6").judge([{"a": 1}, {}, {"a": value}, {"a": 2}])
    assert caught.value.row == 2
    assert "\n" not in str(caught.value)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.just(Decimal("0.5")),
    st.lists(st.integers(0, 3)),
)
CONDITIONS = ["q >= 0.5 AND NOT w", "q IS NULL OR q < 1", "COALESCE(w, q > 0)", "ABS(q) > 1", "q % 2 = 0"]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional={"q": VALUES, "w": st.none() | st.booleans()}), max_size=12),
    text=st.sampled_from(CONDITIONS),
)
def test_a_row_is_judged_as_if_it_were_alone(rows: list[dict[str, Any]], text: str) -> None:
    def alone(row: dict[str, Any]) -> list[bool | None] | None:
        try:
            return Condition(text).judge([row])
        except ConditionError:
            return None

    single = {i: answer[0] for i, row in enumerate(rows) if (answer := alone(row)) is not None}
    assert Condition(text).judge([rows[i] for i in single]) == list(single.values())


def read(path: Path, **settings: Any) -> tuple[list[str], Intake, list[tuple[Any, ...]]]:
    """Return the ids of the documents that are read, what was counted, and the rows of filtered.parquet."""
    source, taken = Source(name="s", path=str(path), **settings), []
    intake = Intake(take=taken.append)
    (listing,) = list_source(0, source)
    reader = pickle.loads(pickle.dumps(make_reader(listing, source, Intake(), False, TokenizerChoice())))
    reader.intake = intake
    return [document.id for document in reader.run()], intake, taken


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


ROWS = [{"id": f"r{i}", "text": f"text {i}", "q": [0.1, 0.9, None][i % 3], "more": {"lang": "en"}} for i in range(9)]


def test_rows_are_judged_as_they_are_read_and_each_loss_is_counted(tmp_path: Path) -> None:
    bad = [{"id": "no text", "q": 0.9, "more": {"lang": "en"}}, '{"id": "torn', {"id": "no field", "text": "x"}]
    path = write(tmp_path / "a.jsonl", ROWS + bad)
    ids, intake, taken = read(path, where="q >= 0.6 AND more.lang = 'en'")
    judged = intake.judged[0]
    assert ids == ["r1", "r4", "r7"]
    assert intake.rows == {0: 12}
    assert intake.rejected == {"no field 'text'": 1, "bad JSON": 1}, "a row that is left out is not rejected too"
    assert (judged.rows, judged.false, judged.null, judged.absent) == (11, 3, 4, {"more.lang": 1, "q": 1})
    assert [(row[1], row[2], row[3]) for row in taken[:1]] == [("r0", "s", "where of s")]
    assert {row[4] for row in taken} == {"q >= 0.6 AND more.lang = 'en'", NULL_CONDITION}
    assert len(taken) == 7


def test_a_limit_counts_rows_before_the_condition(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"id": "z", "text": "t", "q": "not a number"}])
    ids, intake, _ = read(path, where="q >= 0.6", limit=5)
    assert ids == ["r1", "r4"]
    assert intake.rows == {0: 5}
    assert intake.judged[0].rows == 5


def test_parquet_is_judged_by_columns_that_are_read_for_it_alone(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row | {"unread": "x" * 50} for row in ROWS])
    table = table.set_column(2, "q", table["q"].cast(pa.decimal128(5, 2)))
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("parquet", "auto"):
        ids, _, _ = read(tmp_path / "a.parquet", format=name, where="q >= 0.6 AND more.lang = 'en'")
        assert ids == ["r1", "r4", "r7"]


def test_what_is_read_before_a_file_ends_early_does_not_hide_that_it_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WorkError, match=r"a.jsonl ends early, in the middle of a line \(row 7, from 0"):
        read(path, where="q >= 0.6")


def test_a_row_that_cannot_be_judged_stops_the_build(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["torn", *ROWS, {"id": "z", "text": "t", "q": "0.9"}])
    with pytest.raises(
        RequestError, match=r"source 's': where cannot be used on row 10 of a.jsonl: .*'q' is text.*TRY_CAST"
    ):
        read(path, where="q >= 0.6")


def test_a_text_file_has_the_fields_text_and_id(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text(name)
    ids, _, _ = read(tmp_path, format="auto", where="id LIKE '%.md'")
    assert ids == ["b.md"]
