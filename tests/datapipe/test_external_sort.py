"""What keeps a build's memory bounded: dealing records out, joined tables, plain columns."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.errors import WorkError
from epochal.datapipe import external_sort
from epochal.shards import arrow

RECORD = np.dtype([("value", "<u8"), ("number", "<i8")])


@pytest.mark.slow
@given(
    st.lists(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=4), min_size=1, max_size=3),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 40),
)
def test_dealt_records_come_range_by_range_as_they_came(tasks, ranges, at_once):
    made, n = [], 0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "DEALT_BYTES", at_once * RECORD.itemsize)
        for rank, batches in enumerate(tasks):
            with external_sort.DealtWriter(f"{folder}/{rank}", ranges, RECORD) as writer:
                for values in batches:
                    made.append(np.array([(value, n + i) for i, value in enumerate(values)], RECORD))
                    n += len(values)
                    writer.add(made[-1], external_sort.range_of(made[-1]["value"], ranges))
        shares = [external_sort.Dealt(folder, RECORD, range(rank, ranges, 3)) for rank in range(3)]
        found = [shares[number % 3].whole(number) for number in range(ranges)]
        assert [len(some) for some in found] == [shares[number % 3].count(number) for number in range(ranges)]
        assert all(0 < len(some) <= 2 * at_once for n in range(ranges) for some in shares[n % 3].read(n))
    whole = np.concatenate([np.zeros(0, RECORD), *made])
    place = [int(v) * ranges >> 64 for v in whole["value"].tolist()]
    for number, some in enumerate(found):
        assert some.tolist() == [row for row, at in zip(whole.tolist(), place, strict=True) if at == number]


def test_dealt_records_that_are_cut_are_named(tmp_path):
    with external_sort.DealtWriter(str(tmp_path / "a"), 2, RECORD) as writer:
        writer.add(np.zeros(9, RECORD), np.arange(9) % 2)
    os.truncate(tmp_path / "a.bin", 100)
    with pytest.raises(WorkError, match=r"a.bin is damaged: it was cut while it was read; remove the work folder"):
        external_sort.Dealt(str(tmp_path), RECORD, range(2)).whole(1)
    os.truncate(tmp_path / "a.counts", 16)
    with pytest.raises(WorkError, match=r"a.counts is damaged: it was cut; remove the work folder"):
        external_sort.Dealt(str(tmp_path), RECORD, range(2))


def test_what_failed_is_not_published(tmp_path):
    with pytest.raises(ZeroDivisionError), external_sort.DealtWriter(str(tmp_path / "a"), 2, RECORD):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("n", "most", "tasks", "ranges"),
    [
        (0, 16, 1, 1),
        (16, 16, 9, 1),
        (17, 16, 1, 2),
        (100, 16, 1, 8),
        (1 << 24, 1 << 26, 3, 8),
        (1 << 19, 1 << 26, 9, 2),
    ],
)
def test_ranges_fit_into_memory_and_there_are_enough_for_all_tasks(n, most, tasks, ranges):
    assert external_sort.ranges_for(n, most, tasks) == ranges


@given(
    st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9), st.binary(min_size=2, max_size=2))), max_size=4)
)
def test_joined_tables_are_sorted_whatever_their_pieces(tables):
    schema = pa.schema([("name", pa.string()), ("row", pa.int64()), ("key", pa.binary())])
    before = external_sort.GROUP, external_sort.MERGED
    with tempfile.TemporaryDirectory() as folder:
        external_sort.GROUP, external_sort.MERGED = 3, 2
        try:
            paths = []
            for i, rows in enumerate(tables):
                paths.append(f"{folder}/{i}")
                writer = external_sort.TableWriter(paths[-1], schema)
                for row in rows:
                    writer.add(row)
                writer.close()
            external_sort.join_tables(paths, f"{folder}/all", schema)
        finally:
            external_sort.GROUP, external_sort.MERGED = before
        found = pq.read_table(Path(folder) / "all")
    assert found.schema == schema
    assert [tuple(row.values()) for row in found.to_pylist()] == sorted(row for rows in tables for row in rows)


@given(st.lists(st.text(max_size=5)))
def test_columns_are_what_arrow_makes_of_the_same_values(texts):
    assert arrow.strings(texts).equals(pa.array(texts, pa.string()))
    sizes = np.array([len(text) for text in texts], np.int64)
    assert arrow.numbers(sizes).equals(pa.array(sizes))
    keys = [text.encode()[:2].ljust(2, b"\0") for text in texts]
    assert arrow.column(keys, pa.binary()).equals(pa.array(keys, pa.binary()))
    sliced = pa.chunked_array([pa.array(sizes), pa.array(sizes)]).slice(1)
    assert arrow.integers(sliced).tolist() == sliced.to_pylist()
