"""Every command on folders whose names mean something else in a pattern, a URL, a format or YAML."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from epochal.__main__ import main
from epochal.tests.support.corpora import HELLASWAG, real_documents
from epochal.tests.support.pools import TINY_RUN
from epochal.tests.support.servers import serving

NAMES = ["dump [2024] #3 100%20", "a::b {z} %(x)s q?* it's ~", "run:1, line\nend "]
FORMATS = ["wds", "parquet", "megatron", "bin", "hf"]


def _main(capfd: pytest.CaptureFixture[str], *argv: str) -> str:
    status = main(argv)
    text = capfd.readouterr()
    assert status == 0, f"{argv}: {text.err}"
    return text.out


@pytest.fixture(params=NAMES)
def folder(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an oddly named folder below the current one, with text and evaluation items in it."""
    return _folder(request.param, tmp_path, monkeypatch)


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the same, all the names in one path: for what takes seconds, and any of which would fail."""
    return _folder("/".join(NAMES), tmp_path, monkeypatch)


def _folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    rows = [json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(real_documents(40, 600))]
    Path(name, "in").mkdir()
    Path(name, "in", "a.jsonl").write_text("".join(rows))
    Path(name, "items.jsonl").write_text(json.dumps(HELLASWAG) + "\n")
    return f"./{name}"


def _build(source: str, name: str, root: str, *more: str) -> list[str]:
    small = ["seq_len=32", "tasks=1", "workers=1", "deduplicate.near=null", "max_reject_fraction=0"]
    places = [f"sources.0.path={source}", f"name={name}", f"out={root}/art", f"work={root}/work"]
    return ["build", "folder", "--quiet", *places, *small, *more]


def test_data_below_an_odd_name(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    items = json.dumps([f"{folder}/items.jsonl"])
    _main(capfd, *_build(f"{folder}/in", "p", folder, "validation_tokens=500", f"decontaminate.files={items}"))
    pool, subset = f"{folder}/art/pools/p", f"{folder}/art/subsets/s"
    _main(capfd, "carve", pool, "--unique-tokens", "2k", "--out", subset)
    shutil.move(subset, f"{folder}/s")
    shutil.move(f"{folder}/s", subset)
    _main(capfd, "carve", pool, "--unique-tokens", "2k", "--out", f"{folder}/copy", "--materialize", "--format", "wds")
    _main(capfd, "verify", pool, subset, f"{folder}/copy")
    _main(capfd, "plan", subset, "--epochs", "2", "--batch-tokens", "64")
    _main(capfd, "order", subset, "--count", "3")
    tokens = json.loads(_main(capfd, "show", subset, "--json"))["tokens"]
    for form in FORMATS:
        out = f"{folder}/e-{form}"
        _main(capfd, "export", subset, "--format", form, "--out", out)
        _main(capfd, "verify", out)
        more = [f"sources.0.format={form}", "sources.0.tokenized.tokenizer=gpt2", "validation_tokens=0"]
        _main(capfd, *_build(out, f"i-{form}", folder, *more))
        again = json.loads(_main(capfd, "show", f"{folder}/art/pools/i-{form}", "--json"))["tokens"]
        assert tokens - 32 <= again <= tokens + 1, form  # the last document is cut, and gets an end
    with serving(Path(folder, "art")) as client:
        artifacts = client.get("/artifacts")
    assert len(artifacts["artifacts"]) >= 3
    assert artifacts["problems"] == {}


def test_runs_below_odd_names(nested: str, make_pool, capfd: pytest.CaptureFixture[str]) -> None:
    make_pool(3000)
    make_pool(600, name="toy-val")
    shutil.move("artifacts", f"{nested}/artifacts")
    pool = f"{nested}/artifacts/pools/toy"
    base = Path(nested, "base.yaml")
    base.write_text(yaml.safe_dump(TINY_RUN))
    mixture = Path(nested, "mix.yaml")
    mixture.write_text(yaml.safe_dump({"sources": {"a": {"path": pool, "epochs": 2}}}))
    run = f"{nested}/run"
    data = [f"train_loader.dataset.path={pool}", f"eval_loader.dataset.path={pool}", "max_duration=1ep"]
    _main(capfd, "train", str(base), *data, f"save_folder={run}", "save_interval=1dur")
    _main(capfd, "audit", f"{run}/receipt.json")
    _main(capfd, "plan", str(mixture), "--batch-tokens", "64")
    _main(capfd, "evaluate", run, "--loss", pool, "--out", f"{nested}/results")
    first = next(Path(run).glob("*rank0.pt"))
    _main(capfd, "train", str(base), *data, f"save_folder={nested}/second", f"load_path={first}")
    _main(capfd, "train", str(base), *data, f"save_folder={nested}/third", f"init_from={run}/final")
    grid = {"name": "g", "out": f"{nested}/grid", "base": str(base), "pool": pool, "unique_tokens": [300]}
    Path(nested, "grid.yaml").write_text(yaml.safe_dump(grid | {"total_tokens": 600, "objectives": ["ar"]}))
    _main(capfd, "crossover", f"{nested}/grid.yaml")
    assert sorted(p.name for p in Path().iterdir()) == NAMES[:1]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A leading ~ is the home folder wherever a path is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("home/in").mkdir(parents=True)
    Path("home/in/a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in real_documents(40, 600)))
    Path("home/items.jsonl").write_text(json.dumps(HELLASWAG) + "\n")
    _main(capfd, *_build("~/in", "p", "~", "validation_tokens=500", "decontaminate.files=[~/items.jsonl]"))
    _main(capfd, "carve", "~/art/pools/p", "--unique-tokens", "1k", "--out", "~/s")
    _main(capfd, "export", "~/s", "--format", "bin", "--out", "~/e")
    _main(capfd, "verify", "~/s", "~/e")
    _main(capfd, "plan", "~/s", "--epochs", "2", "--batch-tokens", "64")
    Path("home/base.yaml").write_text(yaml.safe_dump(TINY_RUN))
    data = ["train_loader.dataset.path=~/s", "eval_loader.dataset.path=~/art/pools/p-val", "max_duration=1ep"]
    _main(capfd, "train", "~/base.yaml", *data, "save_folder=~/run", "save_interval=1dur")
    _main(capfd, "evaluate", "~/run", "--loss", "~/art/pools/p-val", "--out", "~/results")
    first = next(Path("home/run").glob("*rank0.pt")).name
    _main(capfd, "train", "~/base.yaml", *data, "save_folder=~/second", f"load_path=~/run/{first}")
    _main(capfd, "train", "~/base.yaml", *data, "save_folder=~/third", "init_from=~/run/final")
    grid = {"name": "g", "out": "~/grid", "base": "~/base.yaml", "pool": "~/art/pools/p", "unique_tokens": [300]}
    Path("home/grid.yaml").write_text(yaml.safe_dump(grid | {"total_tokens": 600, "objectives": ["ar"]}))
    _main(capfd, "crossover", "~/grid.yaml")
    assert [p.name for p in Path().iterdir()] == ["home"]
