"""`epochal peek`: samples and documents as text."""

import json
from pathlib import Path

import numpy as np
import pytest

from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.shards.carve import carve
from epochal.tests.support.corpora import real_documents


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("peek")
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(real_documents(20))]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"name": "p", "out": str(folder), "seq_len": 64, "validation_tokens": 0}
    source = {"name": "s", "path": str(folder / "in.jsonl")}
    return build(Build.model_validate(config | {"sources": [source]}), quiet=True).pool


def shown(capsys: pytest.CaptureFixture, *words: str) -> list[dict]:
    assert main(["peek", *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_documents_are_their_texts(pool: str, capsys: pytest.CaptureFixture) -> None:
    found = shown(capsys, pool, "--document", "0", "--count", "100")
    texts = {f"d{i}": text.replace("\r\n", "\n").strip() for i, text in enumerate(real_documents(20))}
    assert len(found) > 10
    for row in found:
        assert row["text"] == texts[row["id"]] + "<EOD>"
        assert len(row["ids"]) == row["tokens"]
    assert [row["document"] for row in shown(capsys, pool, "--document", "3", "--count", "2")] == [3, 4]


def test_a_copy_tells_of_its_documents_itself(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    of_pool = shown(capsys, pool, "--document", "0", "--count", "100")
    copy = carve(pool, 1000, out=str(tmp_path / "copy"), materialize=True)[0]
    of_copy = shown(capsys, copy, "--document", "0", "--count", "100")
    stream = [i for row in of_copy for i in row["ids"]]
    assert stream == [i for row in of_pool for i in row["ids"]][:1000]
    assert [row["id"] for row in of_copy] == [row["id"] for row in of_pool][: len(of_copy)]
    view = carve(pool, 1000, out=str(tmp_path / "view"))[0]
    assert main(["peek", view, "--document", "0"]) == 2
    assert "documents are listed in the pool that it was made from" in capsys.readouterr().err


def test_samples_are_pieces_of_the_same_stream(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    documents = shown(capsys, pool, "--document", "0", "--count", "100")
    stream = np.concatenate([row["ids"] for row in documents])
    samples = shown(capsys, pool, "--count", "1000000")
    np.testing.assert_array_equal(np.concatenate([row["ids"] for row in samples]), stream)
    subset = carve(pool, 100, out=str(tmp_path / "subset"))[0]
    assert [len(row["ids"]) for row in shown(capsys, subset, "--count", "9")] == [64, 36]


def test_long_texts_are_cut_and_it_is_said(pool: str, capsys: pytest.CaptureFixture) -> None:
    whole = max(shown(capsys, pool, "--document", "0", "--count", "100"), key=lambda row: len(row["text"]))
    assert main(["peek", pool, "--document", str(whole["document"])]) == 0
    assert f"({len(whole['text']) - 400:,} characters more: --whole)" in capsys.readouterr().out
    assert main(["peek", pool, "--document", str(whole["document"]), "--whole"]) == 0
    assert "characters more" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sample", "1000000"], "samples, the first is 0"),
        (["--document", "1000000"], "documents, the first is 0"),
        (["--sample", "1", "--document", "1"], "--document"),
    ],
)
def test_what_is_not_there_is_one_line(pool: str, words: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["peek", pool, *words]) == 2
    assert line in capsys.readouterr().err
