"""Tables of one file and of several: the rule of their names, their reader and their writer."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common import storage
from epochal.common.errors import WorkError
from epochal.common.publish import FileInfo, Sink
from epochal.shards.artifact import read_manifest
from epochal.shards.manifest import Manifest
from epochal.shards.tables import names
from epochal.shards.tables.table import Table
from epochal.shards.tables.writing import DividedWriter


@given(st.integers(0, 200), st.sampled_from([1, 7, 50]))
def test_every_row_has_its_file_and_the_names_are_found_in_order(rows, per_file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "FILE_ROWS", per_file)
        made = names.file_names("t", rows)
    assert made == (["t.parquet"] if rows <= per_file else [f"t-{i:05d}.parquet" for i in range(len(made))])
    assert (len(made) - 1) * per_file < max(rows, 1) <= len(made) * per_file
    others = ["index.json", "t-.parquet", "t-0001.parquet", "tt.parquet", "t-00000.parquet.partial", "at-00000.parquet"]
    assert names.names_in({*made, *others}, "t") == made
    assert names.pattern_of({*made, *others}, "t") == (made[0] if len(made) == 1 else "t-*.parquet")
    assert names.pattern_of(others, "t") is None


def test_a_long_pool_may_list_as_many_files_as_its_tables_have(make_pool):
    m = read_manifest(str(make_pool(600)))
    files = dict.fromkeys((f"documents-{i:05d}.parquet" for i in range(2_000)), FileInfo(bytes=0, xxh64="0" * 16))
    assert len(Manifest.model_validate(m.model_dump() | {"files": m.files | files}).files) > 2_000
    many = {f"documents-{i:05d}.parquet": FileInfo(bytes=0, xxh64="0" * 16) for i in range(10_001)}
    with pytest.raises(ValueError, match="files beside its shards"):
        Manifest.model_validate(m.model_dump() | {"files": m.files | many})


def test_files_are_in_order_of_number_when_digits_are_not_enough():
    assert names.names_in(["t-100000.parquet", "t-99999.parquet"], "t") == ["t-99999.parquet", "t-100000.parquet"]


def write(folder: Path, rows: int, sizes: list[int], group: int) -> dict[str, FileInfo]:
    """Write the table of `rows` starts, given in pieces of `sizes`; return what its files are."""
    sink = Sink(str(folder))
    schema = pa.schema([("start", pa.int64()), ("text", pa.string())])
    table = pa.table({"start": range(rows), "text": [str(i) for i in range(rows)]}, schema=schema)
    with DividedWriter(sink.create, "t", schema, rows) as writer:
        for size in sizes:
            writer.write(table.slice(0, size), group)
            table = table.slice(size)
        writer.write(table, group)
    return sink.files


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, FileInfo]]:
    monkeypatch.setattr(names, "FILE_ROWS", 10)
    return tmp_path, write(tmp_path, 35, [3, 22], 4)


def test_row_groups_end_where_a_file_does_and_rows_are_read_from_any(divided):
    folder, files = divided
    assert list(files) == [f"t-0000{i}.parquet" for i in range(4)]
    parts = [pq.ParquetFile(folder / name) for name in files]
    assert [part.metadata.num_rows for part in parts] == [10, 10, 10, 5]
    with Table(str(folder), list(files), files, keep=1) as table:
        assert (table.n_rows, table.n_groups) == (35, sum(part.num_row_groups for part in parts))
        assert table.starts.tolist() == table.edges[:-1].tolist()
        for group in [*range(table.n_groups), 5, 0]:
            first, stop = table.edges[group : group + 2].tolist()
            assert table.read(group, ["start"]).to_pydict() == {"start": list(range(first, stop))}
        whole = pa.concat_tables(table.groups())
    assert whole["start"].to_pylist() == list(range(35))
    assert whole.schema == table.schema


def test_pieces_of_any_size_make_the_same_rows(divided, tmp_path):
    write(tmp_path / "again", 35, [1, 1, 1, 30], 4)
    for name in divided[1]:
        assert pq.read_table(tmp_path / "again" / name).equals(pq.read_table(divided[0] / name))


def test_a_table_without_rows_is_a_file(tmp_path):
    files = write(tmp_path, 0, [], 4)
    assert Table(str(tmp_path), list(files)).n_rows == 0


def test_a_file_is_held_against_its_hash_when_rows_of_it_are_read(divided):
    folder, files = divided
    path = folder / "t-00002.parquet"
    data = bytearray(path.read_bytes())
    data[6] ^= 1
    path.write_bytes(data)
    table = Table(str(folder), list(files), files)
    of_file = [g for g in range(table.n_groups) if 20 <= table.edges[g] < 30]
    assert table.read(of_file[-1] + 1)["start"][0].as_py() == 30
    with pytest.raises(WorkError, match=r"t-00002.parquet is damaged: it is not what its manifest says"):
        table.read(of_file[0])
    with pytest.raises(WorkError, match=r"t-00002.parquet is damaged"):
        list(Table(str(folder), list(files), files).groups())


def test_a_file_that_is_missing_or_another_by_now_is_named(divided):
    folder, files = divided
    table = Table(str(folder), list(files))
    assert table.n_rows == 35
    (folder / "t-00001.parquet").write_bytes((folder / "t-00003.parquet").read_bytes())
    with pytest.raises(WorkError, match=r"t-00001.parquet is damaged: it changed while it was read"):
        table.read(int(table.edges.searchsorted(10)))
    (folder / "t-00001.parquet").unlink()
    with pytest.raises(WorkError, match=r"t-00001.parquet is missing: restore it"):
        Table(str(folder), list(files)).edges  # noqa: B018


def test_of_a_table_at_a_url_the_files_that_are_asked_for_are_fetched_once(divided, monkeypatch):
    folder, files = divided
    root = "memory://tables/pool"
    for name in files:
        storage.write_atomic(f"{root}/{name}", (folder / name).read_bytes())
    copied: list[str] = []
    monkeypatch.setattr(storage, "copy_file", _recording(storage.copy_file, copied))
    table = Table(root, list(files), files)
    assert table.starts.tolist() == table.edges[:-1].tolist()
    assert copied == []
    of_file = [g for g in range(table.n_groups) if 20 <= table.edges[g] < 30]
    assert [table.read(g)["start"][0].as_py() for g in of_file] == table.edges[of_file].tolist()
    assert copied == [f"{root}/t-00002.parquet"]
    assert pa.concat_tables(table.groups())["start"].to_pylist() == list(range(35))
    assert sorted(copied) == [f"{root}/{name}" for name in files]
    storage.write_atomic(f"{root}/t-00000.parquet", (folder / "t-00001.parquet").read_bytes())
    monkeypatch.setattr("epochal.common.remote.patience.time.sleep", lambda _: None)
    with pytest.raises(WorkError, match=r"t-00000.parquet"):
        Table(root, list(files), files).read(0)


def _recording(copy: Callable[[str, str], None], copied: list[str]) -> Callable[[str, str], None]:
    def recorded(source: str, target: str) -> None:
        copied.append(source)
        copy(source, target)

    return recorded
