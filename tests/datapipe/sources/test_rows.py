"""Rows as other programs write them, in JSON lines and in Parquet: read, or refused with a reason that helps."""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.build import build
from epochal.datapipe.config import Source, TokenizerChoice
from epochal.datapipe.sources import parquet, text
from epochal.datapipe.sources.base import Intake
from epochal.datapipe.sources.registry import list_source, make_reader
from epochal.tests.support.builds import settings


def read(path: Path, data: bytes | None = None, **settings: object) -> tuple[list[Document], Intake]:
    """Return the documents of a file, written first, and what was counted."""
    if data is not None:
        path.write_bytes(data)
    source, intake = Source(name="s", path=str(path), **settings), Intake()
    (listing,) = list_source(0, source)
    return list(make_reader(listing, source, intake, False, TokenizerChoice()).run()), intake


def ids(path: Path, data: bytes) -> list[str]:
    return [d.id for d in read(path, data)[0]]


def reason(path: Path, line: bytes) -> str:
    _, intake = read(path, line + b'\n{"text": "good"}\n')
    return intake.rejects[0][3]


def test_a_text_inside_another_field(tmp_path: Path) -> None:
    rows = [{"doc": {"text": "inner", "meta": {"id": 7}}}, {"doc": {"text": "no"}, "doc.text": "literal"}, {"doc": 3}]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    keys = {"text_key": "doc.text", "id_key": "doc.meta.id"}
    documents, intake = read(tmp_path / "a.jsonl", data, **keys)
    assert [(d.text, d.id) for d in documents] == [("inner", "7"), ("literal", "")]
    assert intake.rejects == [(0, "a.jsonl", 2, "no field 'doc.text'")]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    documents, _ = read(tmp_path / "a.parquet", format="parquet", **keys)
    assert [(d.text, d.id) for d in documents] == [("inner", "7")]
    pq.write_table(pa.Table.from_pylist([rows[1]]), tmp_path / "a.parquet")
    documents, _ = read(tmp_path / "a.parquet", format="parquet", **keys)
    assert [d.text for d in documents] == ["literal"]


def test_ids_in_json_are_kept_as_they_are_written(tmp_path: Path) -> None:
    written = ["12", "123456789012345678901234567890", "-1.50", "1e5", '"a"', "null", "NaN"]
    data = b"".join(b'{"id": %s, "text": "x"}\n' % value.encode() for value in written)
    assert ids(tmp_path / "a.jsonl", data) == [*written[:4], "a", "", ""]


def test_what_json_does_not_allow_and_programs_write(tmp_path: Path) -> None:
    line = b'{"id": 1, "text": "good", "score": NaN, "list": [Infinity, -Infinity]},'
    documents, intake = read(tmp_path / "a.jsonl", line + b"\n")
    assert [(d.text, d.metadata["score"], d.metadata["list"]) for d in documents] == [("good", None, [None, None])]
    assert not intake.rejects


@pytest.mark.parametrize("mark", ["\ufeff", "\x1e"])
def test_a_mark_before_any_line_is_no_part_of_it(tmp_path: Path, mark: str) -> None:
    line = mark.encode() + b'{"id": "a", "text": "x"}\n'
    assert ids(tmp_path / "a.jsonl", line * 3) == ["a", "a", "a"]


@pytest.mark.parametrize("end", [b"", b"\r", b" "])
def test_several_objects_on_a_line_are_named(tmp_path: Path, end: bytes) -> None:
    with pytest.raises(WorkError, match=r"a\.jsonl has several JSON objects on a line"):
        read(tmp_path / "a.jsonl", (b'{"id": "a", "text": "x"}' + end) * 3)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id": 1}', "no field 'text'"),
        (b'{"text": null}', "'text' is null"),
        (b'{"text": NaN}', "'text' is null"),
        (b'{"text": ["a"]}', "'text' is list, not text"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "\\ud800", "score": NaN}', "lone surrogate"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "a\\u0000b"}', "NUL character"),
        (b'{"text": "a", "id": {"$oid": "1"}}', "'id' is dict, not text or a number"),
        (b"null", "not a JSON object"),
        (b"id,text", "bad JSON"),
        (b'{"text": "a"}{"text": "b"}', "several JSON objects on a line"),  # of two programs that wrote at once
        (b'{"a": ' * 100_000, "bad JSON"),
    ],
)
def test_a_row_that_cannot_be_used_has_a_reason(tmp_path: Path, line: bytes, why: str) -> None:
    assert reason(tmp_path / "a.jsonl", line) == why


def test_the_fields_that_there_are_are_named_when_the_text_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x", "url": "y", "id": 1}\n')
    with pytest.raises(
        WorkError, match=r"row 0 of a.jsonl, read as jsonl \(no field 'text'; its fields are content, id, url\)"
    ):
        build(settings(tmp_path, str(tmp_path / "a.jsonl")), quiet=True)
    pq.write_table(pa.table({"content": ["x"], "id": [1]}), tmp_path / "a.parquet")
    source = {"name": "s", "format": "parquet", "path": str(tmp_path / "a.parquet")}
    with pytest.raises(WorkError, match=r"its fields are content, id\)"):
        build(settings(tmp_path, source), quiet=True)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3)]),
        pa.array([datetime.time(1, 2, 3)]),
        pa.array([datetime.timedelta(hours=1)]),
        pa.array([1], pa.timestamp("ns", "UTC")),
        pa.array([True]),
        pa.array(["x"]).dictionary_encode(),
        pa.array(["x"], pa.string_view()),
        pa.array([b"\xff"]),
    ],
)
def test_ids_of_any_column_are_read(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"id": column, "text": ["a text"]}), tmp_path / "a.parquet")
    documents, intake = read(tmp_path / "a.parquet", format="parquet")
    assert not intake.rejects
    assert documents[0].id


def test_one_value_that_python_cannot_hold_costs_one_row(tmp_path: Path) -> None:
    times = pa.array([0, 10**15], pa.timestamp("ms"))
    pq.write_table(pa.table({"id": times, "text": ["a", "b"]}), tmp_path / "a.parquet")
    documents, intake = read(tmp_path / "a.parquet", format="parquet")
    assert [d.text for d in documents] == ["a"]
    assert [r[3] for r in intake.rejects] == ["a time or number that Python cannot hold"]


def test_few_rows_are_read_at_once_where_one_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a" * 100_000
    pq.write_table(pa.table({"text": [long] * 200}), tmp_path / "same.parquet")  # one value in a dictionary
    pq.write_table(
        pa.table({"text": [long + str(i) for i in range(20)]}), tmp_path / "other.parquet", use_dictionary=False
    )
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1_000_000)
    for name in ("same", "other"):
        with open(tmp_path / f"{name}.parquet", "rb") as file:
            batches = list(parquet._batches(pq.ParquetFile(file), file, ["text"]))
            assert {batch.num_rows for batch in batches} <= {9, 10, 2}
    monkeypatch.setattr(parquet, "MOST_BYTES", 50_000)
    with pytest.raises(WorkError, match=r"same.parquet has values of more than"):
        read(tmp_path / "same.parquet", format="parquet")


def test_a_line_or_text_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epochal.common.unpack.MOST_BYTES", 1000)
    monkeypatch.setattr(text, "MOST_BYTES", 1000)
    with pytest.raises(WorkError, match=r"a.jsonl has a line of more than"):
        read(tmp_path / "a.jsonl", b'{"text": "%s"}\n' % (b"a" * 2000))
    with pytest.raises(WorkError, match=r"a.txt is a text of more than"):
        read(tmp_path / "a.txt", b"a" * 2000, format="text")


def test_archives_are_refused_whatever_way_they_are_named(tmp_path: Path) -> None:
    for path in (f"zip://*.jsonl::{tmp_path}/a.zip", f"tar://a.jsonl::{tmp_path}/a.tar"):
        with pytest.raises(RequestError, match="unpack it"):
            list_source(0, Source(name="s", path=path))


def test_a_file_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path) -> None:
    for name in (".hidden", "README.md", "_SUCCESS", "a.csv"):
        documents, _ = read(tmp_path / name, b'{"text": "x"}\n')
        assert [d.text for d in documents] == ["x"]
