import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from epochal.common.errors import RequestError
from epochal.datapipe.config import Source, TokenizerChoice
from epochal.datapipe.sources.auto import format_inside, named_format
from epochal.datapipe.sources.base import Intake
from epochal.datapipe.sources.registry import list_source, make_reader


def row(name: str) -> dict[str, str]:
    return {"id": name, "text": f"the text of {name}"}


def lines(*names: str) -> bytes:
    return b"".join(json.dumps(row(name)).encode() + b"\n" for name in names)


def fill(folder: Path) -> Path:
    """Write a folder with a file of every kind, each as another program would."""
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_bytes(lines("a1", "a2"))
    (folder / "b.JSON.gz").write_bytes(gzip.compress(lines("b1")))
    (folder / "c.ndjson.zst").write_bytes(zstandard.compress(lines("c1")))
    pq.write_table(pa.Table.from_pylist([row("d1"), row("d2")]), folder / "d.parquet")
    (folder / "e.txt").write_text("the text of e.txt")
    (folder / "f.md").write_text("the text of f.md")
    (folder / "g.txt.gz").write_bytes(gzip.compress(b"the text of g.txt.gz"))
    return folder


def read(path: Path, tasks: int = 1, **settings: object) -> list[str]:
    """Return the ids that `tasks` tasks read of a source, each with the text that it should have."""
    source = Source(name="s", path=str(path), format="auto", **settings)
    ids = []
    for rank in range(tasks):
        intake = Intake()
        for listing in list_source(0, source):
            for d in make_reader(listing, source, intake, False, TokenizerChoice()).run(rank=rank, world_size=tasks):
                assert d.text == f"the text of {d.id}"
                ids.append(d.id)
        assert not intake.rejects
    return ids


def test_each_file_is_read_as_its_name_ends(tmp_path):
    everything = ["a1", "a2", "b1", "c1", "d1", "d2", "e.txt", "f.md", "g.txt.gz"]
    folder = fill(tmp_path / "in")
    assert read(folder) == everything
    assert sorted(read(folder, tasks=3)) == everything
    (listing,) = list_source(0, Source(name="s", path=str(folder), format="auto"))
    assert listing.notes == ("source s: 7 files by their names: 3 jsonl, 1 parquet, 3 text",)
    assert listing.left_out == []


def test_a_limit_counts_the_rows_of_all_kinds_in_order_of_path(tmp_path):
    folder = fill(tmp_path / "in")
    assert read(folder, limit=5) == read(folder, tasks=2, limit=5) == ["a1", "a2", "b1", "c1", "d1"]


def test_files_of_unknown_kind_are_left_out_by_name_and_count(tmp_path):
    folder = fill(tmp_path / "in")
    for name in ("Makefile", "y.pdf", "z.docx"):
        (folder / name).write_text("not to be read")
    (listing,) = list_source(0, Source(name="s", path=str(folder), format="auto"))
    assert listing.left_out == [(n, "of unknown kind") for n in ("Makefile", "y.pdf", "z.docx")]
    assert len(read(folder)) == 9


@pytest.mark.parametrize(("name", "kind"), [("blob", "jsonl"), ("part-00000", "parquet"), ("notes", "text")])
def test_a_file_whose_name_says_nothing_is_read_as_its_first_bytes_say(tmp_path, name, kind):
    folder = fill(tmp_path / "in")
    path = tmp_path / name
    path.write_bytes(
        {"jsonl": lines("a1"), "parquet": (folder / "d.parquet").read_bytes()}.get(kind, b"the text of notes")
    )
    (listing,) = list_source(0, Source(name="s", path=str(path), format="auto"))
    assert listing.notes == (f"source s: no name says its kind, so first bytes do: {name} as {kind}",)
    assert read(path) == {"jsonl": ["a1"], "parquet": ["d1", "d2"], "text": ["notes"]}[kind]


def test_names_and_first_bytes():
    assert [named_format(n) for n in ("a.jsonl.zst", "A.TXT", "x.parquet", "x.gz", "json", "a.csv")] == [
        "jsonl", "text", "parquet", None, None, None,
    ]  # fmt: skip
    assert [format_inside(b) for b in (b"PAR1..", b'\xef\xbb\xbf {"', b"[", b"Once", b"")] == [
        "parquet", "jsonl", "jsonl", "text", "text",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz", "a.tsv", "data-00000-of-00001.arrow", "a.feather"])
@pytest.mark.parametrize("itself", [True, False])
def test_a_table_is_not_taken_for_one_text(tmp_path, name, itself):
    (tmp_path / name).write_bytes(b"id,text\n1,x\n")
    path = tmp_path / name if itself else tmp_path
    with pytest.raises(RequestError, match=f"{name}, for one, is of another format .write it as JSON lines"):
        list_source(0, Source(name="s", path=str(path), format="auto"))


@pytest.mark.parametrize(
    ("data", "index"),
    [
        ("d.arrow", "state.json"),
        ("d.arrow", "dataset_info.json"),
        ("d.mds", "index.json"),
        ("d.mds.zstd", "index.json"),
    ],
)
def test_what_describes_a_data_set_is_no_row(tmp_path, data, index):
    folder = fill(tmp_path / "in")
    (folder / "saved").mkdir()
    (folder / "saved" / data).write_bytes(b"")
    (folder / "saved" / index).write_text(json.dumps({"a": 1}, indent=2))
    (listing,) = list_source(0, Source(name="s", path=str(folder), format="auto"))
    assert listing.left_out == [(f"saved/{data}", "of another format"), (f"saved/{index}", "documentation")]
    assert len(read(folder)) == 9


def test_a_file_of_rows_may_be_named_index(tmp_path):
    (tmp_path / "index.json").write_bytes(lines("a1"))
    assert read(tmp_path) == ["a1"]


def test_a_folder_of_files_that_are_not_opened_names_one(tmp_path):
    (tmp_path / "a.jsonl.lz4").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"a\.jsonl\.lz4 is lz4, which is not opened here: unpack it"):
        list_source(0, Source(name="s", path=str(tmp_path), format="auto"))
