"""A store that fails while artifacts are written to it: they come out whole, or not at all and with one line."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import EpochalError, RequestError, WorkError
from epochal.common.publish import publishing
from epochal.common.remote import patience
from epochal.datapipe import deduplicate
from epochal.datapipe.build import BuildResult, build
from epochal.shards.artifact import open_artifact, read_any_manifest, read_export
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.verify import verify
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.stores import forget_clients, new_bucket, refusal, unsteady

KINDS = {"requests", "internal error", "slow down", "cut in the body", "cut before the answer"}


@pytest.fixture(autouse=True)
def _short_pauses(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    yield
    unsteady(s3)


@pytest.fixture
def patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the client try again as often as it does when nobody says otherwise."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setenv("AWS_RETRY_MODE", "standard")
    forget_clients()
    yield
    forget_clients()


def until_done(s3: str, work: Callable[[], object], seed: int, step: int) -> int:
    """Do `work` with the store gone for good after a few more writes each time, until it succeeds; return how often
    it failed. Each failure must be one line of ours."""
    chance, writes, failures = random.Random(seed), 0, 0
    while True:
        unsteady(s3, until=writes)
        said = refusal(work)
        unsteady(s3)
        if said is None:
            return failures
        assert "\n" not in said
        assert re.search("cannot|failed|lost", said), said
        failures += 1
        writes += chance.randint(1, step)


def accepted(root: str) -> bool:
    """Return whether readers take what is at `root` for an artifact; what they take must be whole."""
    try:
        read_any_manifest(root)
    except RequestError:
        return False
    assert verify(root) == []
    return True


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, object]:
    """Return settings of a small build whose files are local, and long settled: their digests are remembered."""
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(60))]
    write_jsonl(tmp_path / "in", [*lines, *lines[:5]], ["a.jsonl"])
    os.utime(tmp_path / "in" / "a.jsonl", (1e9, 1e9))
    return {"seq_len": 64, "samples_per_shard": 64, "validation_tokens": 2_000}


def fingerprints(built: BuildResult) -> list[str]:
    return [open_artifact(root).manifest.fingerprint for root in (built.pool, str(built.validation))]


@pytest.mark.processes
@pytest.mark.usefixtures("patient_client")
def test_a_build_and_a_subset_in_a_store_that_fails_now_and_then(
    s3: str, inputs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)  # its duplicates are found in two tasks
    local = build(settings(tmp_path, f"{tmp_path}/in/*.jsonl", **inputs), quiet=True)
    url = new_bucket("unsteady")
    unsteady(s3, seed=5, share=0.1)
    remote = build(settings(tmp_path, f"{tmp_path}/in/*.jsonl", out=url, tasks=2, **inputs), quiet=True)
    view = carve(remote.pool, 2_001, out=f"{url}/subsets/view")[0]
    copy = carve(remote.pool, 2_001, out=f"{url}/subsets/copy", materialize=True)[0]
    assert set(unsteady(s3)) == KINDS
    assert fingerprints(remote) == fingerprints(local)
    assert [verify(root) for root in (remote.pool, str(remote.validation), view, copy)] == [[]] * 4
    assert storage.names(f"{url}/pools") == [".p.inputs.json", ".p.request.json", "p", "p-val"]


@pytest.mark.processes
def test_a_build_whose_store_goes_away_at_any_moment(s3: str, inputs: dict, tmp_path: Path) -> None:
    local = build(settings(tmp_path, f"{tmp_path}/in/*.jsonl", **inputs), quiet=True)
    url = new_bucket("unsteady")
    config = settings(tmp_path, f"{tmp_path}/in/*.jsonl", out=url, **inputs)
    seen = []

    def attempt() -> None:
        seen.append([accepted(f"{url}/pools/{name}") for name in ("p", "p-val")])
        build(config, quiet=True)

    assert until_done(s3, attempt, seed=2, step=12) > 4
    assert seen == sorted(seen)  # what is there stays there
    assert fingerprints(build(config, quiet=True)) == fingerprints(local)
    assert [accepted(f"{url}/pools/{name}") for name in ("p", "p-val")] == [True, True]


@pytest.fixture
def pool(make_pool, tmp_path: Path, s3: str) -> tuple[str, str]:
    """Return a pool at a URL, and locally."""
    local = make_pool(3000)
    url = new_bucket("unsteady")
    storage.filesystem("s3").put(f"{tmp_path}/artifacts/", f"{url}/data/", recursive=True)
    return f"{url}/data/pools/{local.name}", str(local)


@pytest.mark.parametrize("form", [{}, {"materialize": True}, {"layout": "wds"}])
def test_a_subset_whose_store_goes_away_at_any_moment(s3: str, pool, form: dict) -> None:
    out = f"{pool[0].partition('/pools')[0]}/subsets/x"

    def attempt() -> None:
        assert not accepted(out)
        carve(pool[0], 901, out=out, **form)

    assert until_done(s3, attempt, seed=1, step=1) >= 3
    assert accepted(out)
    assert read_any_manifest(out).fingerprint == read_any_manifest(carve(pool[1], 901, **form)[0]).fingerprint
    assert not carve(pool[0], 901, out=out, **form)[1]


@pytest.mark.parametrize("layout", ["wds", "parquet", "megatron", "bin", "hf"])
def test_an_export_whose_store_goes_away_at_any_moment(s3: str, pool, tmp_path: Path, layout: str) -> None:
    out = f"{pool[0]}-{layout}"

    def attempt() -> None:
        assert not accepted(out)
        export(pool[0], layout, out)

    assert until_done(s3, attempt, seed=1, step=1) >= 3
    assert accepted(out)
    assert read_export(out).files == read_export(export(pool[1], layout, str(tmp_path / "out"))[0]).files


@pytest.mark.usefixtures("patient_client")
def test_an_export_in_parts_through_a_store_that_fails_now_and_then(
    s3: str, make_pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"default_block_size": 5 << 20})  # the least that S3 takes as a part
    forget_clients()
    local = str(make_pool(6_000_000, seq_len=2048, samples_per_shard=512))
    out = f"{new_bucket('unsteady')}/big"
    unsteady(s3, seed=3, share=0.25)
    export(local, "bin", out)
    counts = unsteady(s3)
    assert counts["requests"] > 8
    assert len(counts) >= 3
    assert accepted(out)
    # Gone within the upload: no object, not even of the parts that had arrived.
    other = f"{new_bucket('unsteady')}/big"
    for until in (1, 2, 4):
        unsteady(s3, until=until)
        with pytest.raises(WorkError, match="cannot write s3://"):
            export(local, "bin", other)
        unsteady(s3)
        assert storage.names(other) in ([], ["unfinished"])
    export(local, "bin", other)
    assert read_export(other).files == read_export(out).files


def test_a_large_file_goes_up_in_parts_or_not_at_all(s3: str, tmp_path: Path, caplog) -> None:
    file, url = tmp_path / "weights", new_bucket("unsteady")
    file.write_bytes(random.Random(0).randbytes(1 << 20) * 120)  # above 100 MiB s3fs makes parts of it
    unsteady(s3, seed=2, share=0.3)
    storage.upload(str(file), f"{url}/weights")
    assert unsteady(s3)["requests"] > 4
    assert storage.file_digest(f"{url}/weights") == storage.file_digest(str(file))
    unsteady(s3, until=2)
    with pytest.raises(WorkError, match=r"cannot write s3://.*/other after 5 attempts") as caught:
        storage.upload(str(file), f"{url}/other")
    unsteady(s3)
    assert "\n" not in str(caught.value)
    assert not storage.exists(f"{url}/other")


def test_the_command_line_says_it_in_one_line(s3: str, pool, capsys) -> None:
    unsteady(s3, until=0)
    for words in (["carve", pool[0], "--unique-tokens", "901"], ["export", pool[0], "--format", "megatron"]):
        assert main([*words, "--out", f"{pool[0]}-x"]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert re.fullmatch(r"epochal: cannot write s3://[^\n]* after 5 attempts: [^\n]*\n", printed.err)
    unsteady(s3)
    assert main(["export", pool[0], "--format", "megatron", "--out", "s3://there-is-no-such-bucket/x"]) == 2
    assert re.fullmatch(r"epochal: cannot write s3://there-is-no-such-bucket/[^\n]*\n", capsys.readouterr().err)


def test_what_an_attempt_left_is_its_own_until_all_is_gone(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"{new_bucket('left')}/out"

    def stop_here(names: list[str]) -> None:
        with publishing(out, "request") as sink:
            for name in names:
                sink.write(name, b"x")
            raise KeyboardInterrupt

    removed = []

    def killed(path: str) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise KeyboardInterrupt

    plain = storage.remove
    monkeypatch.setattr(storage, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        stop_here(["a", "b", "c"])
    monkeypatch.setattr(storage, "remove", plain)
    with pytest.raises(RequestError, match="holds something else"), publishing(out, "another request"):
        pass
    with pytest.raises(KeyboardInterrupt):
        stop_here(["d"])
    assert not storage.exists(out)


def test_errors_are_ours() -> None:
    with pytest.raises(EpochalError, match="cannot open nowhere:// here"):
        storage.exists("nowhere://bucket/x")
