"""Runs whose data and folder lie in an object store, and the whole way there, against the same on local folders."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.common.remote import patience
from epochal.datapipe.build import build
from epochal.shards.carve import carve
from epochal.shards.loader.cache import CACHE_VARIABLE
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import letters, tiny_run
from epochal.tests.support.stores import moto, new_bucket, refusal, s3rver, unsteady
from epochal.tests.support.training import interrupt
from epochal.train.checkpoint import load_model, open_checkpoint
from epochal.train.config import TrainConfig
from epochal.train.run_folder import RunFolder, read_metrics
from epochal.train.trainer import train

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

torch.set_num_threads(1)  # these models are too small to share out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for caches, which tests may empty at any time."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_of(data: str, validation: str, folder: str, **changes: Any) -> TrainConfig:
    """Return a tiny run; `data`, `validation` and `folder` are local or URLs."""
    options = {"save_folder": folder, "autoresume": True, "run_name": "run", "seed": 3}
    return TrainConfig.model_validate(tiny_run(data, validation, **(options | changes)))


def losses(folder: str) -> list[dict[str, float]]:
    """Return all figures of a run but those of the clock."""
    return [{k: v for k, v in row.items() if not k.startswith("throughput/")} for row in read_metrics(folder)]


def assert_same(run: str, other: str) -> None:
    """Compare all that two finished runs left: figures, receipt, models."""
    assert losses(run) == losses(other)
    assert storage.read_bytes(f"{run}/receipt.json") == storage.read_bytes(f"{other}/receipt.json")
    for name in ("best", "final"):
        (ours, card), (theirs, other_card) = load_model(f"{run}/{name}"), load_model(f"{other}/{name}")
        wanted = dict(theirs.named_parameters())
        assert all(torch.equal(p, wanted[n]) for n, p in ours.named_parameters())
        assert card.training == other_card.training
    mine, yours = (json.loads(storage.read_bytes(f"{folder}/result.json")) for folder in (run, other))
    assert mine["identity"] == yours["identity"]
    assert {**mine["result"], "folder": ""} == {**yours["result"], "folder": ""}


def all_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pools(make_pool, tmp_path: Path) -> tuple[str, str, str]:
    """Return the folder of two pools, and their paths in it."""
    make_pool(letters(1, 4003), 32, name="toy")
    make_pool(letters(2, 999), 32, name="toy-val")
    return str(tmp_path / "artifacts"), "pools/toy", "pools/toy-val"


def put(folder: str, url: str) -> None:
    storage.filesystem("s3").put(f"{folder}/", f"{url}/data/", recursive=True)


def test_a_run_at_a_url_interrupted_on_machines_with_empty_caches(s3, pools, tmp_path: Path, cache: Path) -> None:
    folder, data, validation = pools
    url = new_bucket("runs")
    put(folder, url)
    shape = {"layers": 1, "hidden": 16, "heads": 2, "ffn": 24, "dropout": 0.1}
    local = run_of(f"{folder}/{data}", f"{folder}/{validation}", str(tmp_path / "run"), model=shape)
    expected = train(local)
    there = run_of(f"{url}/data/{data}", f"{url}/data/{validation}", f"{url}/runs/a", model=shape)
    before = all_files(tmp_path)
    for steps in (3, 7, 10, 16):  # before a checkpoint, after one, while it is saved, at the end
        interrupt(there, steps)
        shutil.rmtree(cache)
    result = train(there)
    assert result["folder"] == f"{url}/runs/a"
    assert result["receipt"] == expected["receipt"]
    assert_same(f"{url}/runs/a", str(tmp_path / "run"))
    assert {path for path in all_files(tmp_path) - before if cache not in path.parents} == set()
    shutil.rmtree(cache)
    assert train(there) == result  # nothing is run again
    assert not any(cache.glob("runs/*/*"))
    assert main(["audit", f"{url}/runs/a/receipt.json"]) == 0
    checkpoints = [open_checkpoint(path, "cpu") for path in (f"{url}/runs/a", str(tmp_path / "run"))]
    assert checkpoints[0].fingerprint == checkpoints[1].fingerprint
    assert checkpoints[0].card.training["steps"] == result["steps"] == 16
    more = {"save_folder": f"{url}/runs/b", "init_from": f"{url}/runs/a/final", "max_duration": "1ep"}
    assert train(there.model_copy(update=more))["receipt"]["valid"]


def test_a_run_killed_at_any_write_to_the_store(
    s3, pools, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data, validation = pools
    url = new_bucket("kills")
    local = run_of(f"{folder}/{data}", f"{folder}/{validation}", str(tmp_path / "run"))
    train(local)
    there = run_of(f"{folder}/{data}", f"{folder}/{validation}", f"{url}/run")
    plain, left = storage.make_object, [0]

    def killed(action: Any, target: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        plain(action, target)

    monkeypatch.setattr(storage, "make_object", killed)
    kills = 0
    while True:
        left[0] = kills
        try:
            train(there)
            break
        except KeyboardInterrupt:
            kills += 1
            shutil.rmtree(cache, ignore_errors=kills % 2 == 0)
    assert kills > 8
    assert_same(f"{url}/run", str(tmp_path / "run"))


def test_what_lies_at_the_url_rules_and_is_checked(s3, pools, tmp_path: Path, cache: Path) -> None:
    folder, data, validation = pools
    url = new_bucket("rules")
    there = run_of(f"{folder}/{data}", f"{folder}/{validation}", f"{url}/run")
    interrupt(there, 12)
    with pytest.raises(RequestError, match=r"s3://.* holds checkpoints: add autoresume=true"):
        train(there.model_copy(update={"autoresume": False}))
    with pytest.raises(RequestError, match=r"holds another run: plan\.seed is 3 there and 4 here"):
        train(there.model_copy(update={"seed": 4}))
    local = RunFolder(f"{url}/run", str(cache))
    assert local.newest() == "ba10-rank0.pt"
    (Path(local.local) / "ba10-rank0.pt").write_bytes(b"of another machine")
    (Path(local.local) / "ba15-rank0.pt").write_bytes(b"never published")
    local.fetch()
    assert sorted(os.listdir(local.local)) == ["ba10-rank0.pt", "hashes.json", "latest-rank0.pt", "metrics.jsonl"]
    assert read_metrics(local.local)[-1]["step"] == 10
    storage.write_atomic(f"{url}/run/ba10-rank0.pt", b"damaged")
    shutil.rmtree(cache)
    with pytest.raises(WorkError, match="what arrived does not have the xxh64") as caught:
        train(there)
    assert "\n" not in str(caught.value)
    storage.remove(f"{url}/run/ba10-rank0.pt")
    with pytest.raises(WorkError, match=r"ba10-rank0\.pt is gone, which published\.json names"):
        train(there)


def test_the_store_fails_now_and_then_while_a_run_publishes(s3, pools, tmp_path: Path, cache: Path) -> None:
    folder, data, validation = pools
    train(run_of(f"{folder}/{data}", f"{folder}/{validation}", str(tmp_path / "run")))
    url = new_bucket("unsteady")
    there = run_of(f"{folder}/{data}", f"{folder}/{validation}", f"{url}/run")
    unsteady(s3, seed=1, share=0.4)
    train(there)
    counts = unsteady(s3)
    assert len(counts) == 5, counts  # requests, and four kinds of fault
    assert_same(f"{url}/run", str(tmp_path / "run"))
    # Gone for good after some writes: one line, and the next attempt goes on from what is there.
    other = there.model_copy(update={"save_folder": f"{url}/other"})
    until = 0
    while not storage.exists(f"{url}/other/result.json"):
        unsteady(s3, until=until)
        said = refusal(lambda: train(other))
        assert said is None or re.fullmatch(r"cannot write s3://.* after 5 attempts: [^\n]*", said)
        shutil.rmtree(cache, ignore_errors=True)
        until += 2
    assert until > 8
    unsteady(s3)
    assert_same(f"{url}/other", str(tmp_path / "run"))


@pytest.mark.parametrize("server", ["moto", "s3rver"])
def test_the_whole_way_with_every_artifact_at_a_url(server: str, tmp_path: Path, cache: Path, capsys) -> None:
    serving = moto() if server == "moto" else s3rver(tmp_path / "server")
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(60))]
    inputs = write_jsonl(tmp_path / "in", [*lines, *lines[:5]], ["a.jsonl", "b.jsonl"])
    shape = {"seq_len": 64, "samples_per_shard": 64, "validation_tokens": 2_000}
    options = {"max_duration": "2ep", "eval_interval": "4ba", "save_interval": "4ba", "device_eval_batch_size": 2}
    local = build(settings(tmp_path, inputs, **shape), quiet=True)
    subset = carve(local.pool, 2_001)[0]
    train(run_of(subset, str(local.validation), str(tmp_path / "run"), **options))
    assert main(["plan", subset, "--epochs", "2", "--batch-tokens", "512", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    with serving:
        url = new_bucket("faulty-unsteady")
        storage.filesystem("s3").put(str(tmp_path / "in") + "/", f"{url}/in/", recursive=True)
        before = all_files(tmp_path)
        source = {"name": "s", "path": f"{url}/in/*.jsonl"}
        remote = build(settings(tmp_path, source, out=f"{url}/data", tasks=2, **shape), quiet=True)
        there = carve(remote.pool, 2_001, out=f"{url}/data/subsets/p-2001")[0]
        assert main(["plan", there, "--epochs", "2", "--batch-tokens", "512", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == plan
        config = run_of(there, str(remote.validation), f"{url}/runs/a", **options)
        for steps in (5, 8):
            interrupt(config, steps)
            shutil.rmtree(cache)
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        assert main(["train", str(tmp_path / "train.yaml")]) == 0
        assert_same(f"{url}/runs/a", str(tmp_path / "run"))
        mine = {p for p in all_files(tmp_path) - before if not {cache, tmp_path / "server"} & set(p.parents)}
        assert mine == {tmp_path / "train.yaml"}
