"""The stage that writes a build's tables: files of so many rows, the same bytes for any tasks, also after a kill."""

import hashlib
import os
import signal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common import publish
from epochal.common.errors import WorkError
from epochal.common.publish import FileInfo
from epochal.datapipe import build as building
from epochal.datapipe.build import BuildResult, build
from epochal.datapipe.config import Build
from epochal.datapipe.stages import finish
from epochal.datapipe.tables import joined, range_sort
from epochal.datapipe.tables.joined import Joined
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.tables import names
from epochal.shards.verify import verify
from epochal.tests.datapipe.test_deduplicate import check_same, elsewhere, with_copies

ROWS = 20
TABLES = ("documents", "duplicates", "rejects", "filtered", "contaminated")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildResult, Build]:
    """A build whose tables are one file each."""
    config = with_copies(tmp_path_factory.mktemp("one"))
    return build(config, quiet=True), config


@pytest.fixture(scope="module")
def several(one: tuple[BuildResult, Build], tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The same build, whose tables have files of a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "FILE_ROWS", ROWS)
        return build(elsewhere(one[1], tmp_path_factory.mktemp("several"), 1), quiet=True)


def files_of(root: str, table: str) -> list[str]:
    return [f"{root}/{name}" for name in names.names_in(read_manifest(root).files, table)]


def test_the_sums_of_tables_are_those_that_tasks_noted(one, tmp_path, monkeypatch):
    hashed: list[str] = []

    def hashes_of(path: str) -> tuple[FileInfo, str]:
        hashed.append(os.path.basename(path))
        return publish.hashes_of(path)

    monkeypatch.setattr(finish, "hashes_of", hashes_of)
    pool = build(elsewhere(one[1], tmp_path, 1), quiet=True).pool
    assert set(hashed) == {"index.json", "left_out.parquet", "report.html", "tokenizer.json"}
    for line in Path(pool, "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ", 1)
        assert hashlib.sha256(Path(pool, name).read_bytes()).hexdigest() == expected


def test_files_hold_the_rows_of_the_one_file_in_order(one, several):
    assert one[0].validation
    assert several.validation
    for a, b in ((one[0].pool, several.pool), (one[0].validation, several.validation)):
        assert read_manifest(a).fingerprint == read_manifest(b).fingerprint
        assert verify(b) == []
        for table in TABLES:
            if not files_of(a, table):
                continue
            whole, parts = pl.read_parquet(files_of(a, table)), [pl.read_parquet(path) for path in files_of(b, table)]
            assert pl.concat(parts).equals(whole)
            assert all(len(part) == ROWS for part in parts[:-1])
            assert len(parts) == max(1, -(-len(whole) // ROWS))
    assert len(files_of(several.pool, "documents")) > 3
    assert len(files_of(several.pool, "duplicates")) > 1
    copies = [carve(result.pool, 20_000, materialize=True)[0] for result in (one[0], several)]
    assert read_manifest(copies[0]).fingerprint == read_manifest(copies[1]).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [2, 7])
def test_bytes_do_not_depend_on_tasks(one, several, tmp_path, monkeypatch, tasks):
    monkeypatch.setattr(names, "FILE_ROWS", ROWS)
    monkeypatch.setattr(building, "SMALL_TOKENS", 0)
    monkeypatch.setattr(range_sort, "RANGE_ROWS", 1)
    check_same(several, build(elsewhere(one[1], tmp_path, tasks), quiet=True))


@pytest.mark.slow
def test_a_build_killed_while_tables_are_written_gives_the_same_bytes(one, several, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "FILE_ROWS", ROWS)
    monkeypatch.setattr(building, "SMALL_TOKENS", 0)
    config = elsewhere(one[1], tmp_path, 2)
    for killed_at in (1, 5):
        process = os.fork()
        if not process:
            try:
                _kill_at(killed_at)
                build(config, quiet=True)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    check_same(several, build(config, quiet=True))


def _kill_at(number: int) -> None:
    """Have this process killed when so many files have been published, before the last of them is noted."""
    left, note = number, joined.note

    def counted(path, counts):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        note(path, counts)

    joined.note = counted  # type: ignore[attr-defined]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 7), st.integers(1, 12))
def test_pieces_of_any_sizes_make_the_same_files(tmp_path_factory, sizes, group, per_file):
    folder = tmp_path_factory.mktemp("pieces")
    total, at = sum(sizes), 0
    schema = pa.schema([("row", pa.int64())])
    for i, n in enumerate(sizes):
        pq.write_table(pa.table({"row": range(at, at + n)}, schema=schema), folder / f"{i}.parquet", row_group_size=3)
        at += n
    pieces = tuple((f"{i}.parquet", n) for i, n in enumerate(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "FILE_ROWS", per_file)
        table = Joined(str(folder), "t", schema, group, str(folder), pieces)
        found: list[int] = []
        for number in range(len(table.files)):
            table.write(number, str(folder / "out"))
            file = pq.ParquetFile(folder / "out")
            mine = file.read()["row"].to_pylist()
            rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            assert rows == [min(group, len(mine) - start) for start in range(0, len(mine), group)]
            assert len(mine) == min(per_file, total - len(found))
            found += mine
    assert found == list(range(total))


def test_a_piece_that_lacks_rows_is_named(tmp_path: Path):
    schema = pa.schema([("row", pa.int64())])
    pq.write_table(pa.table({"row": range(3)}, schema=schema), tmp_path / "0.parquet")
    table = Joined(str(tmp_path), "t", schema, 9, str(tmp_path), (("0.parquet", 4),))
    with pytest.raises(WorkError, match=r"0.parquet is damaged: it was cut; remove the work folder"):
        table.write(0, str(tmp_path / "out"))
    os.truncate(tmp_path / "0.parquet", 20)
    with pytest.raises(WorkError, match=r"0.parquet is damaged: it was cut; remove the work folder"):
        table.write(0, str(tmp_path / "out"))
