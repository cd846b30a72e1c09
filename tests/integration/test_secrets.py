"""Secrets that a configuration has from the environment, or in a URL, stand in nothing that is written or shown."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from epochal.__main__ import main
from epochal.common.config import load_yaml
from epochal.common.errors import WorkError, without_secrets
from epochal.datapipe.config import load_build
from epochal.shards.artifact import read_manifest
from epochal.tests.support.corpora import real_documents
from epochal.tests.support.pools import tiny_run
from epochal.tests.support.training import SEQ_LEN, tokens
from epochal.tests.support.web import web

SECRET, PASSWORD = "Zq81-s3cr3t-xLw", "Vw72-p4ssw0rd-kQz"
"""What stands in the environment, and what in URLs."""


def holding(folder: Path) -> list[str]:
    """Return the files below a folder that hold the secret, tables unpacked, and the names that do."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        text += str(path.relative_to(folder)).encode()
        if SECRET.encode() in text or PASSWORD.encode() in text:
            found.append(str(path.relative_to(folder)))
    return found


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """Return a build with the secret in every key that takes text."""
    folder = tmp_path / "in" / SECRET
    folder.mkdir(parents=True)
    texts = real_documents(80)
    rows = [{"id": f"d{i}", SECRET: text} for i, text in enumerate(texts)]
    lines = [json.dumps(row) for row in [*rows[:60], {"id": "none"}]]
    (folder / f"{SECRET}.jsonl").write_text("\n".join(lines))
    (folder / "empty.jsonl").write_text("")
    (folder / "far.jsonl").write_text("\n".join(json.dumps({"id": r["id"], "text": r[SECRET]}) for r in rows[60:]))
    (folder / f"{SECRET}-items.jsonl").write_text(json.dumps({"q": texts[3][:400]}))
    monkeypatch.setenv("TEST_SECRET", SECRET)
    monkeypatch.setenv("TEST_FOLDER", str(folder))
    with web(folder) as server:
        host = server.address
        yield {
            "name": "p",
            "out": str(tmp_path / "out"),
            "work": str(tmp_path / "work"),
            "seq_len": 64,
            "validation_tokens": 2000,
            "max_reject_fraction": 0.5,
            "sources": [
                {
                    "name": "${oc.env:TEST_SECRET}",
                    "path": "${oc.env:TEST_FOLDER}/*${oc.env:TEST_SECRET}.jsonl",
                    "text_key": "${oc.env:TEST_SECRET}",
                    "id_key": "id",
                },
                {"name": "literal", "path": f"http://user:{PASSWORD}@{host}/far.jsonl"},
                {"name": "signed", "path": f"http://{host}/far.jsonl?a=b&X-Amz-Signature={PASSWORD}"},
                {"name": "mixed", "path": f"http://user:${{oc.env:TEST_SECRET}}@{host}/far.jsonl?token={PASSWORD}"},
            ],
            "filters": [{"name": "RegexFilter", "regex_exp": "${oc.env:TEST_SECRET}"}],
            "decontaminate": {"files": ["${oc.env:TEST_FOLDER}/${oc.env:TEST_SECRET}-items.jsonl"]},
            "tasks": 2,
            "workers": 2,
        }


def write(config: dict, path: Path) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.processes
def test_a_build_leaves_its_secrets_nowhere(corpus: dict, tmp_path: Path, capfd, monkeypatch) -> None:
    file = write(corpus, tmp_path / "build.yaml")
    assert main(["build", file, "--json"]) == 0
    assert main(["build", file]) == 0
    assert main(["show", str(tmp_path / "out/pools/p")]) == 0
    assert main(["carve", str(tmp_path / "out/pools/p"), "--unique-tokens", "3000"]) == 0
    printed = "".join(capfd.readouterr())
    assert "already there" in printed
    assert SECRET not in printed
    assert PASSWORD not in printed
    assert holding(tmp_path / "out") == []
    config = read_manifest(str(tmp_path / "out/pools/p")).config
    assert config["sources"][0]["path"] == "${oc.env:TEST_FOLDER}/*${oc.env:TEST_SECRET}.jsonl"
    assert config["sources"][1]["path"].startswith("http://***@127")
    assert config["sources"][2]["path"].endswith("/far.jsonl?a=b&X-Amz-Signature=***")
    assert config["filters"][0]["regex_exp"] == "${oc.env:TEST_SECRET}"
    assert len(config["sha256"]) == 64
    monkeypatch.setenv("TEST_SECRET", f"{SECRET}-2")
    os.symlink(corpus_folder(tmp_path) / f"{SECRET}.jsonl", corpus_folder(tmp_path) / f"{SECRET}-2.jsonl")
    os.symlink(corpus_folder(tmp_path) / f"{SECRET}-items.jsonl", corpus_folder(tmp_path) / f"{SECRET}-2-items.jsonl")
    assert main(["build", file]) == 2  # another value is another request
    assert "another value of what its configuration takes from the environment" in capfd.readouterr().err


def corpus_folder(tmp_path: Path) -> Path:
    return tmp_path / "in" / SECRET


@pytest.mark.processes
@pytest.mark.parametrize(
    "spoil",
    [
        {"max_reject_fraction": 0},
        {"filters": [{"name": "LambdaFilter", "filter_function": "${oc.env:TEST_SECRET}"}]},
        {"seed": "${oc.env:TEST_SECRET}"},
        {"${oc.env:TEST_SECRET}": 1, SECRET: 2},
        {"work": "http://u:${oc.env:TEST_SECRET}@127.0.0.1:1/x"},
        {"decontaminate": {"files": ["${oc.env:TEST_FOLDER}/none-${oc.env:TEST_SECRET}.jsonl"]}},
        {"decontaminate": {"files": [f"http://u:{PASSWORD}@127.0.0.1:1/x.jsonl"]}},
        {"tokenizer": {"name": f"http://u:{PASSWORD}@127.0.0.1:1/tokenizer.json"}},
        {"tokenizer": {"name": "${oc.env:TEST_FOLDER}/tokenizer.json"}},
        {"tokenizer": {"eod": "${oc.env:TEST_SECRET}", "mask": "${oc.env:TEST_SECRET}"}},
        {
            "sources": [{"path": "${oc.env:TEST_FOLDER}/*.jsonl", "text_key": "${oc.env:TEST_SECRET}", "name": "s"}],
            "max_reject_fraction": 0,
        },
        {"sources": [{"path": f"http://u:{PASSWORD}@127.0.0.1:1/x.jsonl?sig={PASSWORD}"}]},
        {"sources": [{"path": "${oc.env:TEST_FOLDER}", "format": "mds"}]},
        {"executor": {"name": "ray", "address": "127.0.0.1:1/${oc.env:TEST_SECRET}"}},
        {
            "executor": {
                "name": "slurm",
                "partition": "${oc.env:TEST_SECRET}",
                "setup": "export X=${oc.env:TEST_SECRET}",
            }
        },
    ],
)
def test_a_build_that_fails_leaves_its_secrets_nowhere(corpus: dict, tmp_path: Path, capfd, spoil: dict) -> None:
    status = main(["build", write(corpus | spoil, tmp_path / "build.yaml")])
    printed = "".join(capfd.readouterr())
    assert status != 0, printed
    assert SECRET not in printed
    assert PASSWORD not in printed
    assert holding(tmp_path / "out") == []
    assert holding(tmp_path / "work") == []


@pytest.mark.slow
def test_a_run_leaves_its_secrets_nowhere(make_pool, tmp_path: Path, capfd, monkeypatch) -> None:
    pool = make_pool(tokens(1, 1003), SEQ_LEN, name="toy")
    held_out = make_pool(tokens(2, 333), SEQ_LEN, name="toy-val")
    monkeypatch.setenv("TEST_SECRET", SECRET)
    (tmp_path / SECRET).symlink_to(pool.parent)
    (tmp_path / f"{SECRET}-cache").mkdir()
    config = tiny_run(
        "",
        held_out,
        run_name="x",
        variables={"a": "${oc.env:TEST_SECRET}", "b": f"https://u:{PASSWORD}@h/?sig={PASSWORD}"},
        train_loader={
            "dataset": {
                "path": f"{tmp_path}/${{oc.env:TEST_SECRET}}/{pool.name}",
                "cache": f"{tmp_path}/${{variables.a}}-cache",
            }
        },
        max_duration="0.2ep",
        save_folder=str(tmp_path / "run"),
        service={"url": f"http://u:{PASSWORD}@127.0.0.1:1/?token={PASSWORD}"},
        autoresume=True,
    )
    file = write(config, tmp_path / "run.yaml")
    for overrides in ([], ["max_duration=0.4ep"], [f"init_from=s3://u:{PASSWORD}@nowhere/x", "save_folder=null"]):
        main(["train", file, *overrides])
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed
    assert PASSWORD not in printed
    assert (tmp_path / "run" / "final" / "model.safetensors").exists()
    assert holding(tmp_path / "run") == []
    again = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert again["train_loader"]["dataset"]["path"] == f"{tmp_path}/${{oc.env:TEST_SECRET}}/{pool.name}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://user:p@ss:w@host/a@b", "https://***@host/a@b"),
        ("hf://datasets/a/b@main/c", "hf://datasets/a/b@main/c"),
        ("abfs://container@account/a", "abfs://container@account/a"),
        ("https://h/a?x=1&sig=abc%2F&se=2", "https://h/a?x=1&sig=***&se=2"),
        ("a.jsonl?X-Amz-Security-Token=abc", "a.jsonl?X-Amz-Security-Token=***"),
        ("https://u:${oc.env:P}@h/a?token=${oc.env:T}", "https://u:${oc.env:P}@h/a?token=${oc.env:T}"),
        ("https://${oc.env:U}:p@h", "https://***@h"),
        ("cannot read 'http://a:b@h/x': why@", "cannot read 'http://***@h/x': why@"),
    ],
)
def test_the_credentials_of_urls(text: str, shown: str) -> None:
    assert without_secrets(text, {}) == shown
    assert str(WorkError(text)) == shown


def test_what_comes_from_the_environment_is_known_wherever_it_went(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TEST_SECRET", "abc")
    file = tmp_path / "a.yaml"
    file.write_text("a: ${oc.env:TEST_SECRET}\nb: ['x/${a}']\nc: ${oc.env:TEST_NONE,abc}\nd: ${oc.decode:'1'}\n")
    loaded = load_yaml(file)
    assert loaded == {"a": "abc", "b": ["x/abc"], "c": "abc", "d": 1}
    assert loaded.written == {"abc": "${oc.env:TEST_SECRET}", "x/abc": "x/${oc.env:TEST_SECRET}"}


def test_a_configuration_without_secrets_is_recorded_as_before(tmp_path: Path) -> None:
    build = load_build("folder", ["sources.0.path=data"])
    assert build.record() == build.identity()
    signed = load_build("folder", ["sources.0.path=https://h/a.jsonl?sig=1"])
    assert signed.record() != load_build("folder", ["sources.0.path=https://h/a.jsonl?sig=2"]).record()
    assert signed.same(signed.identity())  # as version 0.1.0 wrote it
