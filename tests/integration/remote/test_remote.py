import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.common.remote import patience
from epochal.common.remote.patience import patiently
from epochal.datapipe.build import build
from epochal.shards.artifact import open_artifact, read_export
from epochal.shards.carve import carve
from epochal.shards.description.describe import DESCRIPTIONS
from epochal.shards.export import export
from epochal.shards.loader.cache import CACHE_VARIABLE
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.manifest import Parent
from epochal.shards.order.plan import Plan
from epochal.shards.verify import verify
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.loading import check_run, flat, interrupted, plan_for, read_until_error, tokens_of
from epochal.tests.support.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)


@pytest.fixture
def put(make_pool, tmp_path: Path, s3: str):
    """Return `put(bucket)`, which stores a pool and a view of it there; it returns (URL, the same view locally)."""
    view = carve(str(make_pool(3000)), 901)[0]

    def put_there(bucket: str) -> tuple[str, str]:
        bucket += f"-{random.randrange(10**9)}"
        store = storage.filesystem("s3")
        store.mkdir(bucket)
        store.put(str(tmp_path / "artifacts") + "/", f"{bucket}/data/", recursive=True)
        return f"s3://{bucket}/data/subsets/{Path(view).name}", view

    return put_there


def files_under(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def parent_of(view: str) -> Parent:
    parent = open_artifact(view).manifest.parent
    assert parent is not None
    return parent


def shard_bytes(view: str) -> int:
    return max(s.bytes for s in open_artifact(view).shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_view_is_read_through_a_cold_cache(put, tmp_path: Path, workers: int) -> None:
    url, view = put("clean")
    plan = plan_for(view)
    cache = tmp_path / "deep" / "cache"
    outside = files_under(tmp_path / "artifacts")
    dataset = RepeatedDataset(url, plan, global_batch=8, cache=str(cache))
    check_run(flat(dataset.loader(workers)), plan, tokens_of(view))
    folders = {p.parent.relative_to(cache).as_posix() for p in files_under(cache)}
    assert folders == {open_artifact(view).manifest.fingerprint, parent_of(view).fingerprint}
    assert len(files_under(cache)) == 8
    assert files_under(tmp_path / "artifacts") == outside
    assert {p for p in tmp_path.iterdir() if p.is_dir()} == {tmp_path / "artifacts", tmp_path / "deep"}


def test_the_default_cache_and_the_command_line(put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    url, view = put("clean")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    plan = plan_for(view, epochs=1)
    check_run(list(RepeatedDataset(url, plan, global_batch=8)), plan, tokens_of(view))
    assert len(files_under(tmp_path / "cache")) == 8
    assert main(["order", url, "--seed", "1", "--count", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == plan.ids(range(9)).tolist()


def rank_in_cache(rank: int, url: str, plan: Plan, cache: str, limit: int, workers: int) -> tuple[list[dict], int]:
    """Return this rank's samples, and the most bytes of shards it saw in the cache."""
    dataset = RepeatedDataset(url, plan, global_batch=8, cache=cache, cache_limit=limit, download_attempts=9)
    samples, most = [], 0
    for batch in dataset.loader(workers):
        samples += flat([batch])
        most = max(most, sum(p.stat().st_size for p in Path(cache).rglob("shard.*.mds") if p.exists()))
    return samples, most


@pytest.mark.processes
@pytest.mark.parametrize(("n_ranks", "workers"), [(1, 0), (2, 0), (2, 2)])
@pytest.mark.parametrize("bucket", ["clean", "faulty"])
def test_a_cache_smaller_than_the_subset_and_faults(
    put, tmp_path: Path, bucket: str, n_ranks: int, workers: int
) -> None:
    url, view = put(bucket)
    plan = plan_for(view, epochs=2.2)
    limit, cache = 5 * shard_bytes(view), tmp_path / "cache"
    assert limit < sum(s.bytes for s in open_artifact(view).shards)
    ranks = run_ranks(n_ranks, rank_in_cache, tmp_path, url, plan, str(cache), limit, workers)
    samples = sorted((s for r in ranks for s in r[0]), key=lambda s: s["position"])
    check_run(samples, plan, tokens_of(view))
    # Shards that are on their way are not yet counted against the limit: one for each process.
    assert max(r[1] for r in ranks) <= limit + n_ranks * max(1, workers) * shard_bytes(view)
    assert sum(p.stat().st_size for p in files_under(cache)) <= limit + n_ranks * max(1, workers) * shard_bytes(view)


@pytest.mark.processes
def test_twenty_interruptions_through_s3_with_faults_and_a_small_cache(put, tmp_path: Path) -> None:
    url, view = put("faulty")
    plan = plan_for(view, epochs=5.37)
    options = {"cache": str(tmp_path / "cache"), "cache_limit": 5 * shard_bytes(view), "download_attempts": 9}
    samples, receipt = interrupted(url, plan, tmp_path, [1] * 7 + [2], options, times=20)
    check_run(samples, plan, tokens_of(view))
    assert receipt.check() is None


def test_a_shard_that_disappears_is_an_error(put, tmp_path: Path) -> None:
    url, view = put("clean")
    plan = plan_for(view)
    artifact = open_artifact(url)
    dataset = RepeatedDataset(url, plan, global_batch=8, cache=str(tmp_path / "cache"))
    storage.filesystem("s3").rm(artifact.shards[2].path)
    ids, problem = read_until_error(dataset.loader())
    assert "shard.00002.mds is gone from where the artifact lies" in problem
    assert ids == plan.ids(range(len(ids))).tolist()
    assert len(problem.splitlines()) == 1


def test_a_shard_that_is_wrong_at_its_source_never_reaches_the_cache(put, tmp_path: Path) -> None:
    url, view = put("clean")
    path = open_artifact(url).shards[2].path
    data = storage.read_bytes(path)
    storage.filesystem("s3").pipe_file(path, data[:-1] + bytes([data[-1] ^ 1]))
    dataset = RepeatedDataset(url, plan_for(view), global_batch=8, cache=str(tmp_path / "cache"))
    _, problem = read_until_error(dataset.loader())
    assert "after 5 attempts: what arrived does not have the xxh64" in problem
    assert not [p for p in files_under(tmp_path / "cache") if p.name == "shard.00002.mds" or "partial" in p.name]


def test_a_damaged_file_in_the_cache_is_fetched_again(put, tmp_path: Path) -> None:
    url, view = put("clean")
    plan, cache = plan_for(view, epochs=1), tmp_path / "cache"
    list(RepeatedDataset(url, plan, global_batch=8, cache=str(cache)))
    byte, short, gone, *_ = files_under(cache)
    byte.write_bytes(byte.read_bytes()[:-1] + b"\x07")
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    check_run(list(RepeatedDataset(url, plan, global_batch=8, cache=str(cache))), plan, tokens_of(view))


def test_files_that_vanish_from_the_cache_during_the_run_are_fetched_again(put, tmp_path: Path) -> None:
    url, view = put("clean")
    plan, cache = plan_for(view), tmp_path / "cache"
    dataset = RepeatedDataset(url, plan, global_batch=8, cache=str(cache))
    iterator = iter(dataset)
    samples = [next(iterator)]
    shutil.rmtree(cache / parent_of(view).fingerprint)
    check_run([*samples, *iterator], plan, tokens_of(view))


def test_subsets_of_one_pool_share_the_cache(put, tmp_path: Path) -> None:
    url, view = put("clean")
    cache, plan = str(tmp_path / "cache"), plan_for(view)
    first = RepeatedDataset(url, plan, global_batch=8, cache=cache)
    second = RepeatedDataset(url, plan, global_batch=8, cache=cache)
    for a, b in zip(first, second, strict=True):
        assert a["sample_id"] == b["sample_id"]
    assert len(files_under(tmp_path / "cache")) == 8


def test_a_store_that_does_not_answer_is_one_clear_error(put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, view = put("clean")
    tries = []

    def fail(*args) -> None:
        tries.append(1)
        raise ConnectionError("connection refused\nby the store")

    dataset = RepeatedDataset(url, plan_for(view), global_batch=8, cache=str(tmp_path / "c"), cache_limit=10**6)
    monkeypatch.setattr(storage, "copy_file", fail)
    _, problem = read_until_error(dataset.loader())
    assert problem.endswith("after 5 attempts: connection refused by the store")
    assert len(problem.splitlines()) == 1
    assert len(tries) == 5
    monkeypatch.setattr(storage, "read_bytes", fail)
    with pytest.raises(WorkError, match=r"cannot read s3://.* after 2 attempts"):
        RepeatedDataset(url, dataset.plan, global_batch=8, download_attempts=2)


def test_local_troubles_are_not_retried() -> None:
    tries = []

    def full() -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        patiently(full, "download it", 5)
    assert len(tries) == 1


def test_an_index_that_points_outside_is_refused(put, tmp_path: Path) -> None:
    url, view = put("clean")
    plan = plan_for(view)
    index = json.loads(storage.read_bytes(f"{url}/index.json"))
    for name in ("../../../../secret.mds", "/etc/passwd", "../other/shard.00000.mds", "shard.00000.mds/../../x.mds"):
        index["shards"][0]["raw_data"]["basename"] = name
        storage.filesystem("s3").pipe_file(f"{url}/index.json", json.dumps(index).encode())
        with pytest.raises(RequestError, match="refused"):
            RepeatedDataset(url, plan, global_batch=8, cache=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_artifact_through_a_cache(make_pool, tmp_path: Path, prefix: str) -> None:
    view = carve(str(make_pool(3000)), 901)[0]
    plan, cache = plan_for(view), tmp_path / "cache"
    dataset = RepeatedDataset(prefix + view, plan, global_batch=8, cache=str(cache), cache_limit=5 * shard_bytes(view))
    check_run(list(dataset), plan, tokens_of(view))
    assert sum(p.stat().st_size for p in files_under(cache)) <= 5 * shard_bytes(view)
    assert all(os.path.exists(s.path) for s in open_artifact(view).shards)


def test_leftovers_of_killed_downloads_are_removed(make_pool, tmp_path: Path) -> None:
    view = carve(str(make_pool(3000)), 901)[0]
    folder = tmp_path / "cache" / open_artifact(view).manifest.fingerprint
    folder.mkdir(parents=True)
    old, new = folder / "shard.00000.mds.aaaa.partial", folder / "shard.00000.mds.bbbb.partial"
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    RepeatedDataset(view, plan_for(view), global_batch=8, cache=str(tmp_path / "cache"))
    assert [p.name for p in files_under(folder)] == [new.name]


def test_any_fsspec_store_works(make_pool, tmp_path: Path) -> None:
    # memory:// stands for gs:// and hf://, which go the same way but need an account or the network.
    view = carve(str(make_pool(3000)), 901)[0]
    store = storage.filesystem("memory")
    store.put(str(tmp_path / "artifacts") + "/", "/data/", recursive=True)
    plan = plan_for(view)
    root = f"memory://data/subsets/{Path(view).name}"
    check_run(
        flat(RepeatedDataset(root, plan, global_batch=8, cache=str(tmp_path / "c")).loader(2)), plan, tokens_of(view)
    )


def test_an_export_from_s3_to_s3_is_the_local_one(put, tmp_path: Path) -> None:
    url, view = put("exports")
    for layout, passes in (("megatron", None), ("parquet", 2), ("wds", None)):
        local, _ = export(view, layout, str(tmp_path / layout), passes)
        out, new = export(url, layout, f"{url}-{layout}", passes)
        assert new
        assert verify(out) == []
        mine, theirs = read_export(local), read_export(out)
        assert (theirs.fingerprint, theirs.files) == (mine.fingerprint, mine.files)
        assert not storage.exists(f"{out}/unfinished")


@pytest.mark.processes
@pytest.mark.parametrize("bucket", ["clean", "faulty"])
def test_a_build_whose_every_file_is_remote(s3: str, tmp_path: Path, bucket: str) -> None:
    rows = [{"id": f"d{i}", "text": text, "score": i / 7} for i, text in enumerate(real_documents(122))]
    lines = [json.dumps(row).encode() for row in rows]
    chosen = {"name": "s", "where": "score > 0.2"}
    glob = write_jsonl(tmp_path / "in", [*lines, *lines[:10]], ["a.jsonl", "b.jsonl"])
    shape = {"seq_len": 64, "samples_per_shard": 64, "validation_tokens": 3_000, "keep": ["score"]}
    local = build(settings(tmp_path, {**chosen, "path": glob}, **shape), quiet=True)
    bucket += f"-{random.randrange(10**9)}"
    store = storage.filesystem("s3")
    store.mkdir(bucket)
    store.put(str(tmp_path / "in") + "/", f"{bucket}/in/", recursive=True)
    before = files_under(tmp_path)
    source = {**chosen, "path": f"s3://{bucket}/in/*.jsonl"}
    config = settings(tmp_path, source, out=f"s3://{bucket}/data", tasks=3, **shape)
    remote = build(config, quiet=True)
    assert not build(config, quiet=True).new
    assert remote.pool == f"s3://{bucket}/data/pools/p"
    for here, there in ((local.pool, remote.pool), (str(local.validation), str(remote.validation))):
        assert open_artifact(here).manifest.fingerprint == open_artifact(there).manifest.fingerprint
        assert sorted(os.listdir(here)) == storage.names(there)
        for name in os.listdir(here):
            if name not in {"manifest.json", "report.html", *DESCRIPTIONS}:  # the path of the source
                assert Path(here, name).read_bytes() == patient_bytes(f"{there}/{name}")
    assert storage.names(f"s3://{bucket}/data/pools") == [".p.request.json", "p", "p-val"]
    view, new = carve(remote.pool, 9_001, out=f"s3://{bucket}/data/subsets/p-9001")
    assert new
    assert not carve(remote.pool, 9_001, out=view)[1]
    assert files_under(tmp_path) == before
    same = carve(local.pool, 9_001)[0]
    plan = plan_for(same, epochs=1.5)
    assert open_artifact(view).manifest.fingerprint == open_artifact(same).manifest.fingerprint
    dataset = RepeatedDataset(view, plan, global_batch=8, cache=str(tmp_path / "cache"), download_attempts=9)
    check_run(list(dataset), plan, tokens_of(same))


def patient_bytes(url: str) -> bytes:
    """Return the bytes at `url`, read again until two readings agree: a faulty bucket answers badly now and then."""
    seen: list[bytes] = []
    while True:
        with contextlib.suppress(Exception):
            data = storage.read_bytes(url)
            if data in seen:
                return data
            seen.append(data)
