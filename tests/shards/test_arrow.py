"""Arrow columns made without pandas."""

import subprocess
import sys

import numpy as np
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


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint64", "float64"])
def test_an_array_is_what_pyarrow_makes_of_a_column(kind: str) -> None:
    made = pa.array(np.arange(10), pa.from_numpy_dtype(kind))
    for column in (made, made[3:7], made[:0], pa.chunked_array([made[1:2], made[:0], made[8:]], made.type)):
        found = arrow.array(column)
        assert found.dtype == kind
        assert np.array_equal(found, column.to_numpy())
    assert arrow.array(pa.chunked_array([], made.type)).dtype == kind


def test_an_array_of_a_column_with_nulls_is_refused() -> None:
    with pytest.raises(ValueError, match="int64 holds 2 nulls"):
        arrow.array(pa.array([1, None, None]))


@pytest.mark.slow
def test_none_of_it_imports_pandas() -> None:
    program = (
        "import sys, numpy as np, pyarrow as pa; from epochal.shards import arrow; a = arrow.numbers(np.arange(3)); "
        "arrow.array(a); arrow.integers(pa.chunked_array([a])); arrow.column(['x'], pa.string()); "
        "arrow.dictionary(np.zeros(2), ['x']); arrow.nullable([None, 1], pa.int64()); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
