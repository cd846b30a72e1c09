"""Text as other programs leave it: links, byte order marks, names, columns without a mark."""

import datetime
import decimal
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datatrove.data import Document

from epochal.common.errors import RequestError
from epochal.datapipe.config import Source, TokenizerChoice
from epochal.datapipe.sources.base import Intake
from epochal.datapipe.sources.registry import list_source, make_reader
from epochal.datapipe.text.evaluation_items import read_items
from epochal.train.eval.tasks import read_rows

MARK = b"\xef\xbb\xbf"
ROWS = [{"id": f"d{i}", "text": f"text number {i}"} for i in range(9)]


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(path: object, **settings: object) -> tuple[list[Document], Intake]:
    """Return the documents of a source and what was counted."""
    source, intake = Source(name="s", path=str(path), **settings), Intake()
    listings = list_source(0, source)
    return [
        d for listing in listings for d in make_reader(listing, source, intake, False, TokenizerChoice()).run()
    ], intake


def texts(path: object, **settings: object) -> list[str]:
    documents, intake = read(path, **settings)
    assert not intake.rejects
    return sorted(d.text for d in documents)


ALL = sorted(row["text"] for row in ROWS)


def test_linked_files_and_folders_are_read_as_any_other(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.jsonl", lines(ROWS[:4]))
    put(tmp_path / "elsewhere" / "b.jsonl", lines(ROWS[4:]))
    (tmp_path / "data" / "b.jsonl").symlink_to("../elsewhere/b.jsonl")
    assert texts(tmp_path / "data") == ALL
    assert texts(tmp_path / "data" / "*.jsonl") == ALL
    (tmp_path / "data" / "b.jsonl").unlink()
    (tmp_path / "data" / "more").symlink_to("../elsewhere")
    assert texts(tmp_path / "data") == ALL


def test_a_snapshot_of_the_hubs_cache_is_read_by_the_names_of_its_links(tmp_path: Path) -> None:
    put(tmp_path / "blobs" / "0123abcd", gzip.compress(lines(ROWS)))
    snapshot = tmp_path / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl.gz").symlink_to("../../../blobs/0123abcd")
    assert texts(tmp_path / "snapshots" / "abc") == ALL


def test_a_link_to_nothing_or_to_a_folder_above_is_named(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.jsonl", lines(ROWS))
    (tmp_path / "data" / "gone.jsonl").symlink_to("nowhere.jsonl")
    with pytest.raises(RequestError, match=r"gone\.jsonl is a link to nothing"):
        texts(tmp_path / "data")
    (tmp_path / "data" / "gone.jsonl").unlink()
    (tmp_path / "data" / "inner").mkdir()
    (tmp_path / "data" / "inner" / "up").symlink_to("..")
    with pytest.raises(RequestError, match="inner/up links to a folder above it"):
        texts(tmp_path / "data")


@pytest.mark.parametrize("name", ["dump [2024]", "a::b", "what?", "with #1", "2024", "~", "100%", "end "])
def test_a_folder_or_file_is_what_its_name_says(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    put(folder / f"x{name}.jsonl", lines(ROWS))
    assert texts(folder) == ALL
    assert texts(folder / f"x{name}.jsonl") == ALL


def test_a_pattern_below_a_folder_with_brackets(tmp_path: Path) -> None:
    put(tmp_path / "dump [2024]" / "a.jsonl", lines(ROWS))
    put(tmp_path / "dump [2024]" / "b.txt", b"no JSON")
    put(tmp_path / "dump 2" / "c.jsonl", lines(ROWS))
    assert texts(tmp_path / "dump [2024]" / "*.jsonl") == ALL


@pytest.mark.parametrize("compress", [None, gzip.compress, zstandard.compress])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, compress) -> None:
    ending = {None: "", gzip.compress: ".gz", zstandard.compress: ".zst"}[compress]
    pack = compress or bytes
    put(tmp_path / "in" / f"a.jsonl{ending}", pack(MARK + lines(ROWS)))
    assert texts(tmp_path / "in") == ALL
    put(tmp_path / "txt" / f"a.txt{ending}", pack(MARK + b"one text"))
    assert texts(tmp_path / "txt", format="text") == ["one text"]
    items = str(put(tmp_path / f"items.jsonl{ending}", pack(MARK + lines(ROWS))))
    assert [json.loads(line) for _, _, line in read_items([items])] == ROWS
    plain = str(put(tmp_path / "plain.jsonl", lines(ROWS)))
    assert read_rows(items) == (ROWS, read_rows(plain)[1])


def test_text_and_ids_that_parquet_holds_as_bytes(tmp_path: Path) -> None:
    table = pa.table({key: pa.array([row[key].encode() for row in ROWS], pa.binary()) for key in ("id", "text")})
    os.makedirs(tmp_path / "in")
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    documents, intake = read(tmp_path / "in", format="parquet")
    assert [(d.id, d.text) for d in documents] == [(row["id"], row["text"]) for row in ROWS]
    assert not intake.rejects
    pq.write_table(pa.table({"text": pa.array([b"good", b"\xff bad"], pa.binary())}), tmp_path / "in" / "a.parquet")
    documents, intake = read(tmp_path / "in", format="parquet")
    assert [d.text for d in documents] == ["good"]
    assert intake.rejects == [(0, "a.parquet", 1, "not UTF-8")]


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        (pa.array([1.5]), "1.5"),
        (pa.array([decimal.Decimal("7.10")]), "7.10"),
        (pa.array([datetime.date(2024, 2, 29)]), "2024-02-29"),
        (pa.array([7]), "7"),
    ],
)
def test_ids_of_every_kind_are_kept_as_they_are_written(tmp_path: Path, ids: pa.Array, named: str) -> None:
    pq.write_table(pa.table({"id": ids, "text": ["a text"]}), tmp_path / "a.parquet")
    documents, _ = read(tmp_path / "a.parquet", format="parquet")
    assert [d.id for d in documents] == [named]


def test_folders_that_a_pattern_names_are_said(tmp_path: Path) -> None:
    for name in ("a.jsonl", "sub/b.jsonl", "deep/er/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}\n')
    left_out = {
        pattern: list_source(0, Source(name="s", path=f"{tmp_path}/{pattern}"))[0].left_out
        for pattern in ("*", "**/*.jsonl", "s*/*", "**")
    }
    said = "a folder, of which the pattern names no file"
    assert left_out == {"*": [("deep/", said), ("sub/", said)], "**/*.jsonl": [], "s*/*": [], "**": []}
    with pytest.raises(RequestError, match="deep/, for one, is a folder, of which the pattern names no file"):
        list_source(0, Source(name="s", path=f"{tmp_path}/[de]*p"))
