"""`epochal build --dry-run` and `epochal init`: what they say of a folder, and that a build then finds the same."""

import gzip
import json
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import load_build
from epochal.datapipe.preview import preview
from epochal.shards.artifact import read_manifest
from epochal.tests.support.corpora import real_documents


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = real_documents(80)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"doc_id": f"d{i}", "content": text, "lang": "en"}) for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(rows[:20]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows[20:60]).encode()))
    (folder / "c.md").write_text(texts[60])
    (folder / "scan.pdf").write_bytes(b"%PDF")
    return folder


def test_a_dry_run_says_what_a_build_finds_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [
        "build",
        "folder",
        "sources.0.path=data",
        "sources.0.text_key=content",
        "name=mine",
        "deduplicate.near=null",
    ]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 files (2 jsonl, 1 text)" in said
    assert "not read: scan.pdf (of unknown kind)" in said
    assert "nothing was written" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    assert main([*words, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tokens = sum(sample["tokens"] for sample in found["sources"][0]["samples"])
    built = build(load_build("folder", [*words[2:], "validation_tokens=0"]), quiet=True)
    assert tokens == pytest.approx(read_manifest(built.pool).tokens, rel=0.2)
    assert main([*words, "validation_tokens=0", "--dry-run"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_rows_without_a_document_are_said_with_their_fields(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["build", "folder", "sources.0.path=data", "--dry-run"]) == 0
    assert (
        "20 rows without a document: no field 'text' (the fields are content, doc_id, lang)" in capsys.readouterr().out
    )


def test_init_writes_a_configuration_that_builds(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", "data"]) == 0
    assert "wrote data.yaml" in capsys.readouterr().out
    config = load_build("data.yaml")
    assert (config.name, config.sources[0].text_key, config.sources[0].id_key) == ("data", "content", "doc_id")
    assert preview(config)["sources"][0]["files"] == 3
    assert main(["build", "data.yaml", "--quiet"]) == 0
    assert main(["init", "data"]) == 2
    assert "data.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["odd ${oc.env:HOME} # name", 'quo"ted', "日本"])
def test_init_with_odd_names(folder: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    folder.rename(folder.parent / name)
    assert main(["init", name, "--out", "c.yaml"]) == 0
    config = load_build("c.yaml")
    assert config.sources[0].path == name
    assert preview(config)["sources"][0]["files"] == 3


def test_init_of_what_holds_no_text_is_one_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "a.jsonl").write_text('{"n": 1, "m": 2}\n')
    assert main(["init", "data/a.jsonl"]) == 2
    assert "no field of a.jsonl looks like a text (m, n)" in capsys.readouterr().err
    assert main(["init", "nowhere"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert not list(Path().glob("*.yaml"))
