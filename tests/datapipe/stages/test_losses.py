"""Whatever a build leaves out is in a table, counted, and said; see also test_build.py."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from epochal.__main__ import main
from epochal.common.errors import WorkError
from epochal.datapipe.build import build
from epochal.datapipe.tables import range_sort
from epochal.shards.artifact import read_manifest
from epochal.shards.tables import names
from epochal.shards.verify import verify
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.corpora import real_documents, write_jsonl

pytestmark = pytest.mark.slow


def line(identifier: str, text: str) -> bytes:
    return json.dumps({"id": identifier, "text": text}).encode()


def corpus() -> list[bytes]:
    """Return 30 documents, 8 with a line that a filter looks for, 2 near-duplicates, 2 without text."""
    texts = real_documents(30)
    lines = [line(f"d{i}", text) for i, text in enumerate(texts)]
    lines += [line(f"bad{i}", f"the same <line> {i}\n" * 40) for i in range(8)]
    lines += [line(f"near{i}", texts[i].replace("e", "E", 1) + " end") for i in range(2)]
    return [*lines, line("blank", " \n\t"), line("none", "")]


def test_every_document_left_out_is_in_a_table_and_some_are_shown_the_same_for_any_number_of_tasks(tmp_path):
    glob = write_jsonl(tmp_path / "in", corpus(), ["a.jsonl", "b.jsonl", "c.jsonl"])
    chosen = [{"name": "RegexFilter", "regex_exp": e} for e in ("nowhere to be seen", "the same <line>")]
    config = settings(tmp_path, glob, filters=chosen)
    pool = build(config, quiet=True).pool
    other = build(config.model_copy(update={"out": str(tmp_path / "other"), "tasks": 3}), quiet=True).pool
    assert same_files(pool, other)
    assert verify(pool) == []
    assert {"filtered.parquet", "left_out.parquet", "rejects.parquet"} <= set(read_manifest(pool).files)

    filtered = pl.read_parquet(f"{pool}/filtered.parquet")
    assert sorted(filtered["id"]) == [f"bad{i}" for i in range(8)]
    assert set(filtered.select("source", "filter", "reason").rows()) == {
        ("s", "RegexFilter (filters.1)", "regex_exp=the same <line>")
    }
    rejects = pl.read_parquet(f"{pool}/rejects.parquet")
    assert rejects.select("file", "row", "reason").rows() == [("b.jsonl", 13, "empty"), ("c.jsonl", 13, "empty")]
    statistics = read_manifest(pool).statistics
    assert statistics["rejected"] == {}
    assert [row["removed"] for row in statistics["filters"]] == [0, 8]

    page = Path(pool, "report.html").read_text()
    assert page.count("the same &lt;line&gt;") > 3
    assert len(re.findall(r'<div class="pair">', page)) == 2
    assert len(re.findall(r'<figure class="stays">', page)) == 4 + 2


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        (
            [b'{"body": "x"}'] * 3,
            {},
            r"3 of 3 rows.*row 0 of a\.jsonl, read as jsonl \(no field 'text'.*\): name the field",
        ),
        ([b"x = 1"] * 3, {}, r"row 0 of a\.jsonl, read as jsonl \(bad JSON\): name the format.*sources\.0\.format"),
        (
            [b'{"body": "x"}'] * 3,
            {"max_reject_fraction": 1},
            r"no document is left of 3 rows \(3 cannot be used\); the ",
        ),
        (
            [b'{"text": "same"}', b'{"text": " "}'],
            {"filters": [{"name": "RegexFilter", "regex_exp": "same"}]},
            r"no document is left of 2 rows \(1 are empty, 1 taken away by RegexFilter\): look at",
        ),
    ],
)
def test_a_failed_build_names_its_first_reject_and_leaves_its_tables(tmp_path, lines, more, message):
    config = settings(tmp_path, write_jsonl(tmp_path / "in", lines, ["a.jsonl"]), **more)
    for _ in range(2):  # the second time the tasks are done already
        with pytest.raises(WorkError, match=message) as error:
            build(config, quiet=True)
        assert "\n" not in str(error.value)
    (work,) = (tmp_path / "out" / "pools").glob(".p.building-*")
    assert str(work) in str(error.value)
    tables = [pl.read_parquet(work / f"{name}.parquet") for name in ("rejects", "filtered", "contaminated")]
    assert sum(len(table) for table in tables) == len(lines)


def test_long_tables_of_a_failed_build_are_written_by_tasks_into_several_files(tmp_path, monkeypatch):
    lines = [b'{"text": %d}' % i for i in range(30)]
    glob = write_jsonl(tmp_path / "in", lines, ["a.jsonl", "b.jsonl"])
    found = []
    for rows in (None, 7):
        if rows:
            monkeypatch.setattr(range_sort, "RANGE_ROWS", 5)
            monkeypatch.setattr(names, "FILE_ROWS", rows)
        out = tmp_path / f"out {rows}"
        config = settings(tmp_path, glob, out=str(out), tasks=2)
        listed = f"rejects{'-*' if rows else ''}.parquet lists them"
        for _ in range(2):
            with pytest.raises(WorkError, match=r"30 of 30 rows.*; the first is row 0 of a\.jsonl") as error:
                build(config, quiet=True)
            assert str(error.value).endswith(listed)
        (work,) = (out / "pools").glob(".p.building-*")
        files = sorted(work.glob("rejects*.parquet"))
        assert len(files) == (5 if rows else 1)
        found.append(pl.concat([pl.read_parquet(file) for file in files]))
    assert len(found[0]) == 30
    assert found[0].equals(found[1])


def test_a_folder_of_mixed_files_is_built_as_it_is_and_the_last_lines_say_what_was_left_out(tmp_path, capsys):
    texts, folder = real_documents(24), tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join([*(line(f"a{i}", t) for i, t in enumerate(texts[:10])), b"{}"]))
    pl.DataFrame({"text": texts[10:20], "id": [f"b{i}" for i in range(10)]}).write_parquet(folder / "b.parquet")
    for name, text in zip(("c.txt", "d.md", "e.txt", "f.txt"), texts[20:], strict=True):
        (folder / name).write_text(text)
    (folder / "g.pdf").write_bytes(b"%PDF-1.7")
    out = tmp_path / "out"
    command = ["build", "folder", f"sources.0.path={folder}", "name=mine", f"out={out}", "seq_len=64", "tasks=1"]
    command += ["workers=1", "max_reject_fraction=0.1", "--quiet"]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "source folder: 6 files by their names: 1 jsonl, 1 parquet, 4 text",
        "source 'folder': 1 file is not read (of unknown kind): g.pdf",
    ]
    held_out = read_manifest(f"{out}/pools/mine-val")
    assert said[2:6] == [
        "left out of 25 rows (the tables lie beside the pool):",
        "  rejects.parquet       1 row: 1 no field 'text'",
        "  left_out.parquet      1 whole file",
        said[5],
    ]
    assert re.fullmatch(rf"  pool mine-val +1 document, {held_out.tokens:,} tokens \(\d\.\d%\) for validation", said[5])
    assert [words.split()[0] for words in said[6:]] == ["built", "built", "report:", "next:"]
    left = pl.read_parquet(out / "pools" / "mine" / "left_out.parquet")
    assert left.rows() == [("folder", "g.pdf", "of unknown kind")]

    assert main([*command, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["documents"] == 23
    assert again.err.splitlines() == said[:6]


def test_one_document_makes_no_validation_pool_and_is_there_the_second_time(tmp_path):
    (tmp_path / "a.txt").write_text("one text of a few words")
    source = {"name": "s", "path": str(tmp_path / "a.txt"), "format": "auto"}
    config = settings(tmp_path, source, validation_tokens="auto")
    first, second = (build(config, quiet=True, say=lambda line: None) for _ in range(2))
    assert (first.new, second.new) == (True, False)
    assert first.validation is second.validation is None
    assert not (tmp_path / "out" / "pools" / "p-val").exists()
