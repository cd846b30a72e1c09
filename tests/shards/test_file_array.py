"""Arrays in files that are read where they are asked."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.errors import WorkError
from epochal.shards import file_array
from epochal.shards.file_array import FileArray

N = 400


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "numbers"
    np.arange(2 * N, dtype=np.uint32).tofile(path)
    return path


NEAR = st.sampled_from([0, 8, 40, 1 << 13])
BLOCK = st.sampled_from([8, 64, 1 << 22])


@given(st.lists(st.integers(0, N - 1)), NEAR, BLOCK)
def test_what_is_taken_stands_at_its_rows(numbers: Path, rows: list[int], near: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_array, "GAP_BYTES", near)
        patch.setattr(file_array, "BLOCK_BYTES", block)
        array = FileArray(str(numbers), np.uint32, (N, 2))
        assert array.take(np.array(rows, np.int64)).tolist() == [[2 * row, 2 * row + 1] for row in rows]


@given(st.lists(st.tuples(st.integers(0, N), st.integers(0, 30))).map(sorted), NEAR, BLOCK)
def test_what_is_near_is_read_together(numbers: Path, spans: list[tuple[int, int]], near: int, block: int) -> None:
    starts = np.array([start for start, _ in spans], np.int64)
    stops = np.array([min(start + n, N) for start, n in spans], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_array, "GAP_BYTES", near)
        patch.setattr(file_array, "BLOCK_BYTES", block)
        ranges = list(FileArray(str(numbers), np.uint32, (N,)).near(starts, stops))
    assert [row for begin, end in ranges for row in range(begin, end)] == list(range(len(spans)))
    for begin, end in ranges:
        assert (starts[begin + 1 : end] - stops[begin : end - 1] <= near // 4).all()
        assert starts[end - 1] * 4 // block == starts[begin] * 4 // block


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(100, dtype=np.uint32).tofile(path)
    array = FileArray(str(path), np.uint32, (100,), mend="make it anew")
    os.truncate(path, 201)
    assert array[49] == 49
    for read in (lambda: array[50], lambda: array.take(np.array([3, 60])), lambda: array[:]):
        with pytest.raises(WorkError, match=f"{path} is damaged: it was cut while it was read; make it anew"):
            read()
