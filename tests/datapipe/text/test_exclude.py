"""Builds that leave documents out by key, id or text: the pool is the one of the other rows alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from epochal.common.errors import RequestError
from epochal.common.text import content_key, normalise
from epochal.datapipe.build import build
from epochal.datapipe.text.exclude import load_lists, read_lists
from epochal.shards.artifact import read_manifest
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl

TEXTS = real_documents(40, 400)
ROWS = [{"text": text, "id": f"doc{i}", "n": i} for i, text in enumerate(TEXTS)]
ROWS += [{"text": TEXTS[8], "id": "copy of 8", "n": 40}]


def built(folder: Path, rows: list[dict[str, Any]], said: list[str] | None = None, files: int = 1, **more: Any) -> str:
    lines = [json.dumps(row).encode() for row in rows]
    path = write_jsonl(folder / "in", lines, [f"{i}.jsonl" for i in range(files)])
    config = settings(folder, {"name": "s", "path": path}, validation_tokens=500, keep=["n"], **more)
    return build(config, quiet=True, say=[].append if said is None else said.append).pool


def lists(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "keys.txt").write_text(content_key(normalise(TEXTS[8])).hex() + "\ndoc3\nnobody\n")
    (folder / "rows.jsonl").write_text(json.dumps({"text": TEXTS[20]}) + '\n{"id": "doc3"}\n{"id": "doc21"}\n')
    return [str(folder / "keys.txt"), str(folder / "rows.jsonl")]


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_pools_are_those_of_the_other_rows_alone(tmp_path: Path, tasks: int) -> None:
    said: list[str] = []
    pool = built(tmp_path / "a", ROWS, said, files=tasks, tasks=tasks, exclude=lists(tmp_path / "lists"))
    others = [row for row in ROWS if row["n"] not in (3, 8, 20, 21, 40)]
    plain = built(tmp_path / "b", others)
    for end in ("", "-val"):
        assert read_manifest(pool + end).fingerprint == read_manifest(plain + end).fingerprint
    m = read_manifest(pool)
    assert m.statistics["exclude"] == [
        {"name": "keys.txt", "documents": 3, "lines": 3, "keys": 1, "ids": 1, "texts": 0, "unmatched": 1},
        {"name": "rows.jsonl", "documents": 2, "lines": 3, "keys": 0, "ids": 2, "texts": 1, "unmatched": 0},
    ]
    assert "exclude: keys.txt: 3 lines, found 1 key, 1 id (3 documents); 1 matched nothing" in said
    steps = {step["step"]: step["documents"] for step in m.statistics["waterfall"]}
    assert steps["exclude"] == -5
    table = pq.read_table(f"{pool}/filtered.parquet").to_pylist()
    assert {(row["id"], row["filter"], row["reason"]) for row in table} == {
        ("doc3", "exclude", "keys.txt"),
        ("doc8", "exclude", "keys.txt"),
        ("copy of 8", "exclude", "keys.txt"),
        ("doc20", "exclude", "rows.jsonl"),
        ("doc21", "exclude", "rows.jsonl"),
    }
    assert TEXTS[20][:40] not in Path(pool, "report.html").read_text()


def test_another_list_is_another_build_and_none_is_as_before(tmp_path: Path) -> None:
    named = lists(tmp_path / "lists")
    pool = built(tmp_path, ROWS, exclude=named)
    Path(named[0]).write_text("doc5\n")
    with pytest.raises(RequestError, match="from other inputs"):
        built(tmp_path, ROWS, exclude=named)
    assert read_manifest(pool).config["exclude"] == named
    assert "exclude" not in read_manifest(built(tmp_path / "plain", ROWS)).config


def test_lists_survive_their_way_to_the_tasks(tmp_path: Path) -> None:
    named = lists(tmp_path)
    back = load_lists(read_lists(named))
    assert [one.name for one in back] == ["keys.txt", "rows.jsonl"]
    assert back[0].values("key") == [content_key(normalise(TEXTS[8]))]
    assert back[1].values("text", "id") == [content_key(normalise(TEXTS[20])), "doc3", "doc21"]


def test_what_cannot_be_told_apart_or_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "keys.txt").write_text("x\n")
    with pytest.raises(RequestError, match="two lists are named keys"):
        built(tmp_path, ROWS, exclude=[*lists(tmp_path), str(tmp_path / "other" / "keys.txt")])
    with pytest.raises(RequestError, match="is no file"):
        built(tmp_path, ROWS, exclude=[str(tmp_path / "none.txt")])
