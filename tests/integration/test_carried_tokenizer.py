"""The whole way with a tokenizer of one's own whose file is gone, from other folders than where things were made."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import epochal
from epochal.__main__ import main
from epochal.examples.demo import small_tokenizer
from epochal.shards.artifact import read_any_manifest, read_manifest
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import TINY_RUN
from epochal.tokenize.tokenizer import load_tokenizer

torch.set_num_threads(1)

LAYOUTS = ["wds", "parquet", "megatron", "bin", "hf"]
ITEMS = [{"query": f"After {i} comes", "choices": [str(i + 1), str(i), "x", "a y"], "gold": 0} for i in range(4)]


def write_tokenizer(path: Path) -> str:
    """Write a tokenizer whose end of documents has a name that nobody guesses; return the path."""
    spec = small_tokenizer(300)
    spec["added_tokens"][0]["content"] = "<end>"
    spec["model"]["vocab"]["<end>"] = spec["model"]["vocab"].pop("<|endoftext|>")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec, indent=1))
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pool, its validation pool, a view, a trained run; the tokenizer's file is gone."""
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"text": text}).encode() for text in real_documents(30, 400)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_jsonl(Path("in"), lines, ["a.jsonl"])
        write_tokenizer(Path("mine/tokenizer.json"))
        settings = [
            "sources.0.path=in/*.jsonl",
            "name=p",
            "seq_len=32",
            "validation_tokens=1000",
            "samples_per_shard=16",
        ]
        settings += ["tokenizer.name=mine/tokenizer.json", "tokenizer.eod=<end>", "tasks=1", "workers=1"]
        assert main(["build", "folder", *settings, "--quiet"]) == 0
        shutil.rmtree("mine")
        assert main(["carve", "artifacts/pools/p", "--unique-tokens", "3001"]) == 0
        Path("run.yaml").write_text(yaml.safe_dump(TINY_RUN | {"eval_tasks": {"tasks": ["hellaswag"], "data": "eval"}}))
        Path("eval").mkdir()
        Path("eval/hellaswag.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
        run = ["train_loader.dataset.path=artifacts/subsets/p-3001", "eval_loader.dataset.path=artifacts/pools/p-val"]
        run += ["save_folder=runs/a", "progress_bar=false", "eval_tasks.limit=2"]
        assert main(["train", "run.yaml", *run]) == 0
    return folder


def test_every_artifact_and_model_carries_it_and_a_view_has_its_pools(made: Path) -> None:
    pool = made / "artifacts" / "pools" / "p"
    file = (pool / "tokenizer.json").read_bytes()
    assert read_manifest(str(pool)).files["tokenizer.json"].bytes == len(file)
    for folder in ("artifacts/pools/p-val", "runs/a/best", "runs/a/final"):
        assert (made / folder / "tokenizer.json").read_bytes() == file
    assert not (made / "artifacts" / "subsets" / "p-3001" / "tokenizer.json").exists()
    info = read_manifest(str(pool)).tokenizer
    for folder in ("artifacts/pools/p", "artifacts/subsets/p-3001", "runs/a/final"):
        tokenizer = load_tokenizer(str(made / folder))
        assert tokenizer.info == info
        assert tokenizer.decode(tokenizer.encode(["def f(x): <end>"])[0].tolist()) == "def f(x): <end>"


@pytest.mark.slow
def test_models_are_used_from_anywhere(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(made / "runs" / "a")
    assert main(["generate", run, "def f(", "--max-new-tokens", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 4
    evaluate = ["evaluate", run, "--tasks", "hellaswag", "--data", str(made / "eval"), "--json"]
    assert main([*evaluate, "--loss", str(made / "artifacts" / "pools" / "p-val")]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["tasks"][0]["items"] == 4
    assert body["likelihoods"][0]["bytes"] > 0
    assert main(["export-model", run, "--out", "hf"]) == 0
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained("hf")
    ours = load_tokenizer(f"{run}/final")
    text = "def f(x): return x <end>"
    assert theirs(text, split_special_tokens=True)["input_ids"] == [ours.info.eod, *ours.encode([text])[0].tolist()]
    assert theirs.decode(ours.encode([text])[0].tolist()) == text
    assert (theirs.eos_token_id, theirs.bos_token) == (ours.info.eod, "<end>")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_comes_back_without_naming_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, capsys: pytest.CaptureFixture
) -> None:
    pool = str(made / "artifacts" / "pools" / "p")
    epochal.export(pool, layout, str(tmp_path / "away" / "export"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = "../away/export"
    assert epochal.verify(out) == []
    assert read_any_manifest(out).files["tokenizer.json"] == read_manifest(pool).files["tokenizer.json"]
    settings = [f"sources.0.path={out}", f"sources.0.format={layout}", "name=again", "validation_tokens=0"]
    settings += ["seq_len=32", "samples_per_shard=16", "tasks=1", "workers=1"]
    settings += ["sources.0.tokenized={}"] if layout == "parquet" else []
    capsys.readouterr()
    assert main(["build", "folder", *settings]) == 0
    assert f"tokenizer: that of {out}" in capsys.readouterr().out
    again = read_manifest("artifacts/pools/again")
    assert again.fingerprint == read_manifest(pool).fingerprint
    assert again.tokenizer == read_manifest(pool).tokenizer
    assert again.config["tokenizer"]["name"] == out
    assert epochal.verify("artifacts/pools/again") == []
    assert main(["build", "folder", *settings]) == 0
    assert "already there" in capsys.readouterr().out


def test_a_models_tokenizer_is_what_was_saved_where_its_ids_do_not_say_so(made: Path, tmp_path: Path, capsys) -> None:
    model = tmp_path / "model"
    shutil.copytree(made / "runs/a/final", model)
    spec = json.loads((model / "tokenizer.json").read_text())
    spec["decoder"] = {"type": "Fuse"}  # no id is another
    (model / "tokenizer.json").write_text(json.dumps(spec))
    for words in (["generate", str(model), "def"], ["export-model", str(model), "--out", str(tmp_path / "out")]):
        assert main(words) == 1
        assert f"{model}/tokenizer.json is damaged: it is not what was saved" in capsys.readouterr().err
    (model / "tokenizer.json").unlink()
    assert main(["generate", str(model), "def"]) == 1
    assert f"{model}/tokenizer.json is missing, which hashes.json names" in capsys.readouterr().err


@pytest.mark.slow
def test_subsets_come_back_too_and_copies_stand_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = made / "artifacts" / "pools" / "p"
    file = (pool / "tokenizer.json").read_bytes()
    copy = epochal.carve(str(pool), 2000, out=str(tmp_path / "copy"), materialize=True)[0]
    tars = epochal.carve(str(pool), 2000, out=str(tmp_path / "tars"), layout="wds")[0]
    monkeypatch.chdir(tmp_path)
    for folder in (copy, tars):
        assert Path(folder, "tokenizer.json").read_bytes() == file
        assert epochal.verify(folder) == []
    assert epochal.export(str(made / "artifacts/subsets/p-3001"), "bin", "bin")[1]
    assert Path("bin/tokenizer.json").read_bytes() == file
    found = set()
    for name, format_, path in (("a", "mds", copy), ("b", "wds", tars)):
        settings = [f"sources.0.path={path}", f"sources.0.format={format_}", f"name={name}", "validation_tokens=0"]
        assert main(["build", "folder", *settings, "seq_len=32", "tasks=1", "workers=1", "--quiet"]) == 0
        found.add(read_manifest(f"artifacts/pools/{name}").fingerprint)
    assert len(found) == 1


def test_text_is_built_with_the_tokenizer_of_a_pool_or_of_a_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = str(made / "artifacts" / "pools" / "p")
    lines = [json.dumps({"text": text}).encode() for text in real_documents(5, 300)]
    write_jsonl(Path("in"), lines, ["a.jsonl"])
    for name, of in (("a", pool), ("b", str(made / "runs" / "a" / "final"))):
        settings = ["sources.0.path=in/*.jsonl", f"name={name}", f"tokenizer.name={of}", "validation_tokens=0"]
        assert main(["build", "folder", *settings, "seq_len=32", "tasks=1", "workers=1", "--quiet"]) == 0
        assert read_manifest(f"artifacts/pools/{name}").tokenizer == read_manifest(pool).tokenizer
