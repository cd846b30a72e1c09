"""`epochal build --dry-run` and `epochal init`: what they say of a folder, and that a build then finds the same."""

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import Build, load_build
from epochal.datapipe.preview import preview
from epochal.shards.artifact import read_manifest
from epochal.tests.support.corpora import real_documents
from epochal.train.config import load_config


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
    assert said.count("2 jsonl") == 1
    assert max(map(len, said.splitlines())) < 150
    assert said.splitlines()[-1] == f"next: epochal {shlex.join(words)}"
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


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("where", [None, "n % 2 = 0"])
def test_the_beginning_of_a_file_of_long_texts_stands_for_all_of_it(tmp_path: Path, kind: str, where: str) -> None:
    rows = [{"text": f"{i} " + "some words of it " * 2500, "n": i} for i in range(150)]  # some 25 are looked at
    if kind == "jsonl":
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", use_dictionary=False)
    source = {"name": "s", "path": str(tmp_path / f"x.{kind}"), "format": kind, "where": where}
    config = Build.model_validate({"name": "mine", "out": str(tmp_path / "out"), "sources": [source]})
    (sample,) = preview(config)["sources"][0]["samples"]
    assert sample["rows"] < 40
    assert sample["documents"] == pytest.approx(150 if where is None else 75, rel=0.3)


def test_numbered_files_are_of_one_kind(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"part.2024-01.{i:05}.jsonl").write_text(json.dumps({"text": f"text {i}"}) + "\n")
        (tmp_path / f"part.{i:05}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": f"zipped {i}"}).encode()))
    source = {"name": "s", "path": str(tmp_path), "format": "jsonl"}
    config = Build.model_validate({"name": "mine", "out": str(tmp_path / "out"), "sources": [source]})
    samples = preview(config)["sources"][0]["samples"]
    assert [sample["documents"] for sample in samples] == [5, 5]


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


def test_each_command_says_the_next_one(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["build", "folder", "sources.0.path=data", "sources.0.text_key=content", "name=mine", "seq_len=128"]
    assert main([*words, "validation_tokens=3000", "--quiet"]) == 0
    carve = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert carve[:5] == ["next:", "epochal", "carve", "artifacts/pools/mine", "--unique-tokens"]
    assert main(carve[2:]) == 0
    train = shlex.split(capsys.readouterr().out.splitlines()[-1])
    config = load_config(train[3], train[4:])
    assert Path(config.train_loader.dataset.path).resolve().parent.name == "subsets"
    assert config.eval_loader is not None
    assert config.eval_loader.dataset.path == "artifacts/pools/mine-val"
    assert main([*carve[2:], "--format", "wds"]) == 0
    assert main(shlex.split(capsys.readouterr().out.splitlines()[-1])[2:]) == 0  # nothing trains on tar files
    capsys.readouterr()
    shutil.rmtree("artifacts/pools/mine-val")
    assert main(carve[2:]) == 0
    assert load_config(train[3], shlex.split(capsys.readouterr().out.splitlines()[-1])[4:]).eval_loader is None


@pytest.mark.slow
def test_other_languages_build_where_the_locale_is_ascii(folder: Path) -> None:
    (folder / "c.md").write_text("日本語の文章。" * 50, encoding="utf-8")
    words = ["build", "folder", "sources.0.path=data", "sources.0.text_key=content", "name=mine", "tasks=2"]
    code = f"import sys; from epochal.__main__ import main; sys.exit(main({words!r}))"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "é.md").write_text("text")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "é" not in done.stderr
    assert "has a name that this locale cannot write: set LC_ALL=C.UTF-8" in done.stderr
