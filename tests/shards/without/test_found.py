"""Which documents of a built pool lists and conditions name, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.datapipe.build import build
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.verify import verify
from epochal.shards.without.found import find, lines_of
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl

TEXTS = real_documents(30, 400)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pool of 30 documents with a quality, null for each fifth, and a language."""
    folder = tmp_path_factory.mktemp("found")
    quality = [None if i % 5 == 0 else i / 30 for i in range(30)]
    rows = [
        {"text": text, "id": f"doc{i}", "quality": quality[i], "meta": {"lang": "de" if i < 6 else "en"}}
        for i, text in enumerate(TEXTS)
    ]
    path = write_jsonl(folder / "in", [json.dumps(row).encode() for row in rows], ["0.jsonl"])
    keep = {"quality": "float", "meta.lang": "text"}
    config = settings(folder, {"name": "s", "path": path}, keep=keep, deduplicate={"near": None})
    return build(config, quiet=True, say=lambda line: None).pool


def ids(pool: str, *lists: str, condition: str | None = None) -> set[str]:
    return set(find(open_artifact(pool), lists, condition).table["id"].to_pylist())


def test_keys_ids_and_texts_are_found_and_counted(pool: str, tmp_path: Path) -> None:
    key = pq.read_table(f"{pool}/documents.parquet", filters=[("id", "==", "doc4")])["key"][0].as_py().hex()
    plain, json_lines = tmp_path / "plain.txt", tmp_path / "rows.jsonl"
    plain.write_text(f"{key}\ndoc7\ndoc7\nnobody\n")
    json_lines.write_text("".join(json.dumps({"text": f"  {TEXTS[i]}\r\n"}) + "\n" for i in (9, 7)))
    found = find(open_artifact(pool), [str(plain), str(json_lines)], None)
    assert set(found.table["id"].to_pylist()) == {"doc4", "doc7", "doc9"}
    assert dict(zip(found.table["id"].to_pylist(), found.table["by"].to_pylist(), strict=True)) == {
        "doc4": "plain.txt", "doc7": "plain.txt", "doc9": "rows.jsonl",
    }  # fmt: skip
    assert list(lines_of(found.by)) == [
        "plain.txt: 4 lines, found 1 key, 2 ids (2 documents); 1 matched nothing",
        "rows.jsonl: 2 lines, found 2 texts (2 documents)",
    ]


def test_a_condition_looks_at_kept_columns_and_null_stays(pool: str) -> None:
    assert ids(pool, condition="quality > 0.9") == {"doc28", "doc29"}
    assert ids(pool, condition="meta.lang = 'de' AND quality > 0") == {f"doc{i}" for i in (1, 2, 3, 4)}
    assert ids(pool, condition="id IN ('doc3', 'x') OR source = 'none'") == {"doc3"}
    (said,) = find(open_artifact(pool), [], "quality > 0.9").by
    assert (said.documents, said.unknown) == (2, 6)
    assert list(lines_of([said])) == ["quality > 0.9: 2 documents; 6 of which it is neither true nor false stay"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("stars > 3", "have no field 'stars': there are meta.lang, quality, id, source, tokens"),
        ("quality >", "it is not a condition in SQL"),
        ("SUM(quality) > 1", "looks at the fields of one row"),
        ("meta.lang > 1", "cannot be used on document"),
    ],
)
def test_a_condition_that_cannot_be_used_is_refused(pool: str, condition: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        find(open_artifact(pool), [], condition)


def test_the_command_says_what_is_found_and_what_is_not(pool: str, tmp_path: Path, capsys: Any) -> None:
    keys = tmp_path / "opt-outs.txt"
    keys.write_text("doc1\ndoc2\nnobody\n")
    out = str(tmp_path / "subset")
    more = ["--without", str(keys), "--without-matching", "quality > 0.95", "--out", out]
    assert main(["carve", pool, "--unique-tokens", "1000", *more]) == 0
    said = capsys.readouterr().err
    assert "without opt-outs.txt: 3 lines, found 2 ids (2 documents); 1 matched nothing" in said
    assert "without quality > 0.95: 1 document; 6 of which" in said
    assert verify(out) == []
    m = read_manifest(out)
    assert m.without is not None
    assert [(one.kind, one.name, one.documents) for one in m.without.by] == [
        ("list", "opt-outs.txt", 2),
        ("condition", "quality > 0.95", 1),
    ]
    assert main(["verify", out]) == 0
    assert "(without 3 documents, as its pool becomes without them)" in capsys.readouterr().out
    assert main(["show", out]) == 0
    assert "3 documents" in capsys.readouterr().out
    assert "Carved without 3 documents of the pool" in Path(out, "README.md").read_text()


def test_a_list_of_which_nothing_is_there_changes_nothing_and_says_so(pool: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "none.txt").write_text("nobody\n")
    out = str(tmp_path / "subset")
    assert main(["carve", pool, "--unique-tokens", "500", "--out", out]) == 0
    without = ["--without", str(tmp_path / "none.txt")]
    assert main(["carve", pool, "--unique-tokens", "500", "--out", out, *without]) == 0
    caught = capsys.readouterr()
    assert "nothing of it is in pool 'p'" in caught.err
    assert "already there" in caught.out


def test_more_than_is_left_is_refused(pool: str, tmp_path: Path) -> None:
    tokens = read_manifest(pool).tokens
    arguments = ["carve", pool, "--unique-tokens", str(tokens), "--without-matching", "quality > 0.9"]
    assert main([*arguments, "--out", str(tmp_path / "s")]) == 2
