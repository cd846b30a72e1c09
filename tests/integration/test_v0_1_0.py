"""What version 0.1.0 wrote is read, gone on with and answered as 0.1.0 did; `v0_1_0/make.py` made it."""

import contextlib
import json
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import epochal
from epochal.__main__ import main
from epochal.examples.demo import small_tokenizer
from epochal.shards.mds import open_shard
from epochal.shards.order.receipt import Receipt

torch.set_num_threads(1)  # these models are too small to share out

ARCHIVE = Path(__file__).parent / "v0_1_0" / "v0_1_0.tar.gz"
SUBSET = "artifacts/subsets/tiny-10k"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Unpack what 0.1.0 wrote into the working folder; return the answers that it gave."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with contextlib.closing(sqlite3.connect(tmp_path / "artifacts" / ".service" / "epochal.db")) as database, database:
        database.execute("UPDATE locations SET path = replace(path, '/v0_1_0', ?)", [str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("answers.json").read_text())


def printed(capsys: pytest.CaptureFixture, *words: str) -> Any:
    """Return what a command prints with --json."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_artifacts_and_exports_are_whole(old: dict, capsys: pytest.CaptureFixture):
    for path in ("artifacts/pools/tiny", "artifacts/pools/tiny-val", SUBSET, "exported"):
        assert epochal.verify(path) == []
    known = {(a["kind"], a["name"]): a["fingerprint"] for a in old["service"]["artifacts"]["artifacts"]}
    for kind, path in (("pool", "artifacts/pools/tiny"), ("subset", SUBSET)):
        assert printed(capsys, "show", path)["fingerprint"] == known[kind, Path(path).name]


def test_carving_again_is_the_same_subset_byte_for_byte(old: dict):
    out, new = epochal.carve("artifacts/pools/tiny", 10_001, out="artifacts/subsets/again")
    assert new
    before, after = epochal.open_artifact(SUBSET), epochal.open_artifact(out)
    assert after.manifest.fingerprint == before.manifest.fingerprint
    assert [s.xxh64 for s in after.shards] == [s.xxh64 for s in before.shards]
    assert Path(out, "index.json").read_bytes() == Path(SUBSET, "index.json").read_bytes()
    assert epochal.carve("artifacts/pools/tiny", 10_001, out=SUBSET) == (str(Path(SUBSET).resolve()), False)


def test_exporting_again_gives_the_same_tokens(old: dict):
    epochal.export(SUBSET, "parquet", "again")
    manifests = [json.loads(Path(folder, "manifest.json").read_text()) for folder in ("exported", "again")]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    assert epochal.export(SUBSET, "parquet", "exported")[1] is False


def test_plans_and_mixtures_are_the_same_orders(old: dict):
    saved = json.loads(Path("plan.json").read_text())
    plan = epochal.Plan.from_dict(saved)
    assert plan.to_dict() == saved
    assert plan.ids(range(plan.positions)).tolist() == old["plan_ids"]
    manifest = epochal.open_artifact(SUBSET).manifest
    assert epochal.Plan.for_artifact(manifest, 40_004, 7).fingerprint == saved["fingerprint"]
    saved = json.loads(Path("mixture.json").read_text())
    mixture = epochal.Mixture.from_dict(saved)
    assert mixture.to_dict() == saved
    assert mixture.ids(range(mixture.positions)).tolist() == old["mixture_ids"]


def test_the_file_of_a_mixture_is_the_same_mixture(old: dict, capsys: pytest.CaptureFixture):
    planned = printed(capsys, "plan", "mixture.yaml", "--batch-tokens", "1024")
    assert json.loads(Path("mixture.json").read_text())["fingerprint"] == planned["plan"]["fingerprint"]


def test_the_loader_yields_the_subset(old: dict):
    plan = epochal.Plan.from_json(Path("plan.json").read_text())
    dataset = epochal.RepeatedDataset(SUBSET, plan, global_batch=16)
    rows = next(iter(dataset.loader()))
    assert rows["sample_id"].tolist() == old["plan_ids"][:16]
    shards = epochal.open_artifact(SUBSET).shards
    first = open_shard(shards[0].path, 64, "uint16")
    inside = [i for i, id_ in enumerate(rows["sample_id"].tolist()) if id_ < shards[0].samples]
    assert inside
    for i in inside:
        assert rows["tokens"][i].tolist() == first[rows["sample_id"][i]].tolist()


def test_an_interrupted_run_goes_on_to_the_same_end(old: dict):
    assert not Path("runs/interrupted/result.json").exists()
    steps = [json.loads(line) for line in Path("runs/interrupted/metrics.jsonl").read_text().splitlines()]
    result = epochal.train("interrupted.yaml")
    expected = old["result"]
    assert result["receipt"] == expected["receipt"]
    for key in ("steps", "tokens", "unique_tokens", "parameters"):
        assert result[key] == expected[key]
    for kind, value in expected["validation"].items():
        assert result["validation"][kind] == pytest.approx(value, abs=1e-4)
    lines = Path("runs/interrupted/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[:3]] == steps[:3]
    assert len(lines) > len(steps)


def test_a_finished_run_is_over(old: dict):
    assert epochal.train("interrupted.yaml", ["run_name=whole", "save_folder=runs/whole"]) == old["result"]


def test_a_model_is_evaluated_as_it_was(old: dict, capsys: pytest.CaptureFixture):
    words = ["--loss", "artifacts/pools/tiny-val", "--loss-noise-samples", "2", "--out", "again"]
    (row,) = printed(capsys, "evaluate", "runs/whole", *words)["likelihoods"]
    (before,) = old["evaluated"]["likelihoods"]
    assert row["nats"] == pytest.approx(before["nats"], rel=1e-5)
    for key in ("kind", "tokens", "data", "model"):
        assert row[key] == before[key]


def test_what_carries_no_tokenizer_is_read_with_its_file(old: dict, capsys: pytest.CaptureFixture):
    words = ["generate", "runs/whole", "def", "--max-new-tokens", "2"]
    imported = ["build", "folder", "sources.0.path=exported", "sources.0.format=parquet", "sources.0.tokenized={}"]
    imported += ["name=again", "seq_len=64", "validation_tokens=0", "tasks=1", "workers=1", "--json"]
    for command in (words, imported):
        assert main(command) == 2
        assert "carries no tokenizer.json" in capsys.readouterr().err
    Path("small.json").write_text(json.dumps(small_tokenizer(256)))
    assert printed(capsys, *words, "--tokenizer", "small.json")["tokens"] == 2
    m = printed(capsys, *imported[:-1], "tokenizer.name=small.json")
    assert m["tokens"] == 10_002  # the last document got its EOD
    assert epochal.verify("artifacts/pools/again") == []
    # What is made from now on carries it.
    assert Path("artifacts/pools/again/tokenizer.json").exists()


@pytest.mark.parametrize("run", ["whole", "reported"])
def test_receipts_are_audited(old: dict, run: str, capsys: pytest.CaptureFixture):
    assert printed(capsys, "audit", f"runs/{run}/receipt.json")["ok"]
    receipt = Receipt.from_json(Path(f"runs/{run}/receipt.json").read_text())
    assert receipt.to_json() == Path(f"runs/{run}/receipt.json").read_text()


@pytest.mark.processes
@pytest.mark.parametrize("indexed", [True, False], ids=["its index", "indexed anew"])
def test_the_database_answers_as_it_did(old: dict, indexed: bool):
    from epochal.tests.support.servers import serving

    if not indexed:
        shutil.rmtree("artifacts/.service/documents")
    service = old["service"]
    with serving(Path("artifacts")) as client:
        artifacts = {a["fingerprint"]: a for a in client.get("/artifacts")["artifacts"]}
        for before in service["artifacts"]["artifacts"]:
            now = artifacts.pop(before["fingerprint"])
            assert {key: now[key] for key in before} == before
        assert not artifacts
        run = client.get("/runs/reported")
        for key in ("fingerprint", "plan", "state", "position", "tokens", "loss", "kind", "digest"):
            assert run[key] == service["run"][key]
        before = service["run"]["ancestry"]  # where an ancestor stops was called `stop`
        assert run["ancestry"] == [{"position" if k == "stop" else k: v for k, v in a.items()} for a in before]
        told = ("position", "tokens", "loss", "digest")
        reports = [[[r[key] for key in told] for r in answer["reports"]] for answer in (run, service["run"])]
        assert reports[0] == reports[1]
        for key, before in service["seen"].items():
            assert client.seen(key=key)["documents"] == before["documents"]
        assert client.histogram("reported")["tokens"] == service["histogram"]["tokens"]
        plan = Receipt.from_json(Path("runs/reported/receipt.json").read_text()).plan
        assert client.get(f"/plans/{run['plan']}/order", start=0, count=16)["ids"] == plan.ids(range(16)).tolist()
