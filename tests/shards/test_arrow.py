"""Arrow columns made without pandas."""

import pyarrow as pa
import pytest

from epochal.shards import arrow


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.string(), ["é", None, "", "x"], ["é", None, "", "x"]),
        (pa.bool_(), [True, None, False] * 5, [True, None, False] * 5),
        (pa.int64(), [-(2**63), None, 2**63 - 1], [-(2**63), None, 2**63 - 1]),
        (pa.float64(), [0.1, None, float("inf")], [0.1, None, float("inf")]),
        (pa.string(), [], []),
        (pa.int64(), [1, 2], [1, 2]),
        (pa.bool_(), [None], [None]),
    ],
)
def test_a_column_with_nulls_is_what_pyarrow_makes(kind: pa.DataType, values: list, expected: list) -> None:
    made = arrow.nullable(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(expected, kind))


def test_days_and_microseconds_are_dates_and_times() -> None:
    assert arrow.nullable([-1, None, 19_782], pa.date32()).cast(pa.string()).to_pylist() == [
        "1969-12-31",
        None,
        "2024-02-29",
    ]
    at = arrow.nullable([1, None], pa.timestamp("us", "UTC"))
    assert at.cast(pa.string()).to_pylist() == ["1970-01-01 00:00:00.000001Z", None]
