"""A run that goes on without some documents is the run on a pool that never had them, wherever their samples are equal.

They are where every shard of the pool loses something: what is left is then one stretch. Where a shard stays whole
behind a stretch, up to a sample of tokens is left out before it, and the samples after it are others than those of a
pool built without the documents; the run is then the one on a pool of the tokens that are left.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.examples.demo import small_tokenizer
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.documents import DocumentStarts
from epochal.tests.support.builds import settings, stream
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import tiny_run
from epochal.tests.support.training import losses, tokens, weights
from epochal.train.config import TrainConfig
from epochal.train.run import prepare
from epochal.train.trainer import train

pytestmark = pytest.mark.slow
torch.set_num_threads(1)  # these models are too small to share out

SEQ_LEN, PER_SHARD = 16, 40


def run_on(folder: Path, data: str, objective: str, **changes: Any) -> TrainConfig:
    shape = {"layers": 1, "hidden": 32, "heads": 2, "ffn": 48}
    keys = {"objective": {"name": objective}, "model": shape, "save_folder": str(folder), "seed": 5}
    return TrainConfig.model_validate(tiny_run(data, **(keys | {"max_duration": "1.5ep"} | changes)))


def assert_same_run(folder: Path, one: str, other: str, objective: str) -> None:
    """Assert that a run that goes on with a finished one's weights is the same, to the bit, on two artifacts."""
    from_ = {"init_from": str(folder / "first" / "final")}
    configs = [run_on(folder / name, data, objective, **from_) for name, data in (("one", one), ("other", other))]
    plans = [prepare(config).plan for config in configs]
    assert plans[0].ids(range(plans[0].positions)).tolist() == plans[1].ids(range(plans[1].positions)).tolist()
    results = [train(config) for config in configs]
    assert [result["receipt"]["valid"] for result in results] == [True, True]
    assert losses(folder / "one") == losses(folder / "other")
    assert len(losses(folder / "one")) == results[0]["steps"]
    mine, theirs = weights(folder / "one"), weights(folder / "other")
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    before = weights(folder / "first")
    assert not all(torch.equal(value, before[name]) for name, value in mine.items())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Return a pool of several shards, a subset without a document of each of them, and a pool built without those."""
    from epochal.datapipe.build import build  # here: it needs what a machine that only trains may lack

    folder = tmp_path_factory.mktemp("built")
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer(256)))
    rows = [json.dumps({"id": f"doc{i}", "text": text}).encode() for i, text in enumerate(real_documents(40, 120))]
    source = {"name": "s", "path": write_jsonl(folder / "in", rows, ["0.jsonl"])}
    keys = {"seq_len": SEQ_LEN, "samples_per_shard": PER_SHARD, "deduplicate": {"near": None}}
    keys |= {"tokenizer": {"name": str(folder / "tokenizer.json")}}
    pool = build(settings(folder, source, **keys), quiet=True, say=lambda line: None).pool
    m, documents = read_manifest(pool), DocumentStarts(pool)
    assert m.shards > 3
    middles = [(shard * PER_SHARD + PER_SHARD // 2) * SEQ_LEN for shard in range(m.shards)]
    listed = {documents.rows(at, at + 1)[0]["id"] for at in [*middles[:-1], m.tokens - 1]}
    (folder / "list.txt").write_text("\n".join(sorted(listed)))
    never = settings(folder, source, name="never", exclude=[str(folder / "list.txt")], **keys)
    other = build(never, quiet=True, say=lambda line: None).pool
    left = read_manifest(other).tokens
    assert left < m.tokens
    subset, _ = carve(pool, left, out=str(folder / "without"), without=[str(folder / "list.txt")])
    return pool, subset, other


@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_it_is_the_run_on_a_pool_built_without_them(objective: str, built: tuple[str, str, str], tmp_path: Path):
    pool, subset, other = built
    assert read_manifest(subset).without.left_over == 0
    assert stream(subset).tolist() == stream(other).tolist()
    train(run_on(tmp_path / "first", pool, objective, max_duration="1ep"))
    assert_same_run(tmp_path, subset, other, objective)


def test_where_shards_stay_whole_it_is_the_run_on_a_pool_of_what_is_left(make_pool, tmp_path: Path):
    whole = tokens(1, 1600)  # documents of 50 tokens, shards of 8 samples
    pool = make_pool(whole, SEQ_LEN)
    (tmp_path / "list.txt").write_text("doc4\n")
    subset, _ = carve(str(pool), 1500, out=str(tmp_path / "without"), without=[str(tmp_path / "list.txt")])
    dropped = read_manifest(subset).without.left_over
    assert dropped == 14  # the shard of tokens 128 to 256 has 78 left: four samples, and 14 tokens
    never = np.delete(whole, range(200, 250))
    same = 256 - 50 - dropped
    assert stream(subset)[:same].tolist() == never[:same].tolist()
    assert stream(subset)[same : same + 100].tolist() == never[same + dropped : same + dropped + 100].tolist()
    train(run_on(tmp_path / "first", str(pool), "mdm", max_duration="1ep"))
    assert_same_run(tmp_path, subset, str(make_pool(stream(subset), SEQ_LEN, name="left")), "mdm")
