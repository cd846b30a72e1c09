"""Tables of what ingest left out, sorted in ranges by tasks: the same bytes as merged by one."""

import itertools
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from datatrove.pipeline.base import PipelineStep
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.datapipe import external_sort
from epochal.datapipe.external_sort import TableWriter
from epochal.datapipe.stages.losses import TABLES
from epochal.datapipe.tables import range_sort
from epochal.datapipe.tables.joined import Joined, Table
from epochal.datapipe.tables.range_sort import left_out_tables
from epochal.shards.tables import names

Rows = list[tuple[Any, ...]]
reject = st.tuples(st.sampled_from(["s", "\u00e9", "\U0001f600"]), st.text(max_size=2), st.integers(0, 9), st.just("r"))


def run_in(tasks: int) -> Any:
    def run(_: str, steps: Sequence[PipelineStep], n: int) -> None:
        assert n == tasks
        for rank in range(tasks):
            for step in steps:
                deque(step.run(rank=rank, world_size=tasks), maxlen=0)

    return run


def written(folder: str, parts: list[Rows], range_rows: int, tasks: int, patch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the files of the tables of parts with these rejects, which also are what filters took."""
    patch.setattr(range_sort, "RANGE_ROWS", range_rows)
    made: list[Any] = []
    for number, rows in enumerate(parts):
        part = SimpleNamespace(folder=f"{folder}/parts/part-{number:05d}", counts={"left_out_rows": {}})
        filtered = [(text.encode(), text, source, str(i), "r") for source, text, i, _ in rows]
        for name, some in (("rejects", rows), ("filtered", filtered), ("contaminated", [])):
            writer = TableWriter(f"{part.folder}-{name}.parquet", TABLES[name])
            for row in some:
                writer.add(row)
            writer.close()
            part.counts["left_out_rows"][name] = writer.n_rows
        made.append(part)
    tables: list[Table] = left_out_tables(folder, folder, made, run_in(tasks), tasks)
    long = sum(map(len, parts)) > range_rows
    assert [isinstance(table, Joined) for table in tables] == [long, long, False]
    out = []
    for table in tables:
        for number, name in enumerate(table.files):
            table.write(number, f"{folder}/{name}")
            out.append(Path(folder, name).read_bytes())
    return out


@settings(max_examples=30)
@given(st.lists(st.lists(reject, max_size=20), min_size=1, max_size=4), st.integers(1, 9), st.sampled_from([1, 3]))
def test_ranges_give_the_bytes_that_merging_gives(parts, range_rows, tasks):
    with pytest.MonkeyPatch.context() as patch:
        for module in (external_sort, range_sort):
            patch.setattr(module, "GROUP", 4)
        patch.setattr(range_sort, "DEAL_ROWS", 7)
        patch.setattr(range_sort, "SAMPLED_EVERY", 2)
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            merged = written(a, parts, 1_000, 1, patch)
            assert written(b, parts, range_rows, tasks, patch) == merged
            table = pq.read_table(f"{b}/rejects.parquet")
            assert [tuple(row.values()) for row in table.to_pylist()] == sorted(itertools.chain(*parts))


def test_a_long_table_has_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "FILE_ROWS", 10)
    rows = [("s", "f", i, "r") for i in range(25)]
    written(str(tmp_path), [rows[::2], rows[1::2]], 8, 2, monkeypatch)
    files = [pq.read_table(tmp_path / f"rejects-0000{i}.parquet")["row"].to_pylist() for i in range(3)]
    assert files == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert not list((tmp_path / "left-out" / "rejects").glob("dealt"))
