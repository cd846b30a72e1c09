"""Where a pool is not renamed into place but copied: by tasks, resumed by files, the manifest last."""

import json
import os
import shutil
from pathlib import Path

import pytest

from epochal.common import storage
from epochal.common.errors import RequestError
from epochal.common.publish import MANIFEST_NAME, UNFINISHED_NAME, copy_files
from epochal.datapipe import target
from epochal.datapipe.build import BuildResult, build
from epochal.datapipe.config import Build
from epochal.shards.verify import verify
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.corpora import real_documents, write_jsonl


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildResult, Build]:
    tmp_path = tmp_path_factory.mktemp("plain")
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(60))]
    glob = write_jsonl(tmp_path / "in", lines, ["a.jsonl", "b.jsonl"])
    config = settings(tmp_path, glob, validation_tokens=2_000, samples_per_shard=20)
    return build(config, quiet=True), config


@pytest.fixture
def config(plain: tuple[BuildResult, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """The same build, its work on what is taken for another disk."""
    monkeypatch.setattr(target, "rename_folder", lambda *_: False)
    return plain[1].model_copy(update={"out": str(tmp_path / "out"), "work": str(tmp_path / "work")})


def check(plain: BuildResult, built: BuildResult) -> None:
    for a, b in ((plain.pool, built.pool), (plain.validation, built.validation)):
        assert a is not None
        assert b is not None
        assert same_files(a, b)
        assert [name for name in os.listdir(os.path.dirname(b)) if "partial" in name] == []


def stopped_after(files: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have copying stop when so many files have been copied; return the list that those of the pool are put into."""
    copied: list[str] = []

    def copy(source: str, folder: str, names: list[str]) -> None:
        for name in names:
            if len(copied) == files:
                raise KeyboardInterrupt
            copy_files(source, folder, [name])
            if source.endswith("/pool"):
                copied.append(name)

    monkeypatch.setattr(target, "copy_files", copy)
    return copied


@pytest.mark.processes
@pytest.mark.parametrize("tasks", [1, 3])
def test_tasks_copy_the_files_that_renaming_gives(plain, config: Build, monkeypatch: pytest.MonkeyPatch, tasks: int):
    monkeypatch.setattr(target, "SMALL_COPY", 0)
    check(plain[0], build(config.model_copy(update={"tasks": tasks, "workers": 2}), quiet=True))


def test_a_copy_that_was_stopped_goes_on_with_what_is_missing(plain, config: Build, monkeypatch: pytest.MonkeyPatch):
    copied = stopped_after(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build(config, quiet=True)
    assert not os.path.exists(f"{config.out}/pools/p")
    (folder,) = Path(config.out, "pools").glob(".p.*.partial-copy")
    assert sorted(copied) == sorted(os.listdir(folder))
    (folder / copied[0]).write_bytes(b"cut")
    (folder / f"{copied[1]}.0123.partial").write_bytes(b"of a task that was killed")

    again = stopped_after(10**6, monkeypatch)
    check(plain[0], build(config, quiet=True))
    assert set(again) & set(copied) == {copied[0]}


def test_files_that_were_taken_away_meanwhile_are_copied_again(plain, config: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target, "SMALL_COPY", 0)
    theirs = target.copy_files

    def manifest_fails(source: str, folder: str, names: list[str]) -> None:
        if names == [MANIFEST_NAME]:
            raise KeyboardInterrupt
        theirs(source, folder, names)

    monkeypatch.setattr(target, "copy_files", manifest_fails)
    with pytest.raises(KeyboardInterrupt):
        build(config, quiet=True)
    monkeypatch.setattr(target, "copy_files", theirs)
    (folder,) = Path(config.out, "pools").glob(".p.*.partial-copy")
    shutil.rmtree(folder)
    check(plain[0], build(config, quiet=True))


def test_what_another_request_left_is_removed(plain, config: Build, monkeypatch: pytest.MonkeyPatch):
    stopped_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build(config.model_copy(update={"seed": 7}), quiet=True)
    stopped_after(10**6, monkeypatch)
    check(plain[0], build(config, quiet=True))


def test_a_store_holds_no_pool_until_its_last_file(plain, config: Build, monkeypatch: pytest.MonkeyPatch):
    config = config.model_copy(update={"out": "memory://target/out"})
    copied = stopped_after(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build(config, quiet=True)
    assert storage.names("memory://target/out/pools/p") == sorted([*copied, UNFINISHED_NAME])
    with pytest.raises(RequestError, match="holds what another build left unfinished: remove it, or choose"):
        build(config.model_copy(update={"seed": 7}), quiet=True)
    again = stopped_after(10**6, monkeypatch)
    built = build(config, quiet=True)
    assert not set(again) & set(copied)
    assert verify(built.pool) == []
    assert storage.names(built.pool) == sorted(os.listdir(plain[0].pool))
