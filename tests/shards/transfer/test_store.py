"""A store that fails, lies or is used by others: the artifact comes out whole, or not at all and with one line."""

import re
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import EpochalError, RequestError, WorkError
from epochal.shards.transfer.transfer import pull, push
from epochal.shards.verify import verify
from epochal.tests.support.stores import new_bucket, refusal, unsteady


def test_a_store_that_goes_away_at_any_moment(s3: str, pool: str) -> None:
    target, writes, kept = f"{new_bucket('unsteady')}/pool", 0, []
    while True:
        unsteady(s3, until=writes)
        said = refusal(lambda: kept.append(push(pool, target).kept))
        assert said is None or re.search("cannot write s3://[^\n]*after 5 attempts", said)
        unsteady(s3)
        if kept:
            break
        assert not storage.exists(f"{target}/manifest.json")
        writes += 3
    assert kept[0] > 5
    assert verify(target) == []
    assert storage.names(target) == sorted(storage.names(pool))


def test_what_another_is_making_is_left_alone(s3: str, pool: str, view: str) -> None:
    target = f"{new_bucket('push')}/x"
    unsteady(s3)
    storage.write_atomic(f"{target}/unfinished", b"of somebody else")
    with pytest.raises(RequestError, match="holds an unfinished transfer of something else"):
        push(pool, target)
    storage.remove(target)
    storage.write_atomic(f"{target}/notes.txt", b"mine")
    with pytest.raises(RequestError, match="holds something else"):
        push(pool, target)
    assert storage.names(target) == ["notes.txt"]


def test_leftovers_are_removed(s3: str, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from epochal.shards.transfer.store import Store

    target = f"{new_bucket('push')}/x"
    plain = Store.publish

    def killed(self: Store, text: bytes, names: object) -> None:
        self.add_bytes("of another version", b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        push(pool, target)
    monkeypatch.setattr(Store, "publish", plain)
    assert "of another version" in storage.names(target)
    assert push(pool, target).kept == 14
    assert verify(target) == []
    storage.write_atomic(f"{target}/unfinished", b"killed before this was removed")
    assert verify(target) != []
    assert not push(pool, target).new
    assert verify(target) == []


def test_a_store_that_gives_back_other_bytes(s3: str, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{new_bucket('push')}/x"
    upload = storage.upload

    def changed(source: str, url: str) -> None:
        if url.endswith("shard.00004.mds"):
            storage.write_atomic(url, b"x")
        else:
            upload(source, url)

    monkeypatch.setattr(storage, "upload", changed)
    with pytest.raises(WorkError, match=r"shard\.00004\.mds is not what was sent: the store gave back other bytes"):
        push(pool, target)
    assert not storage.exists(f"{target}/manifest.json")


def test_what_arrives_badly_is_asked_for_again(s3: str, pool: str, tmp_path: Path) -> None:
    target = f"{new_bucket('faulty')}/x"
    push(pool, target)
    pull(target, str(tmp_path / "back"))
    assert verify(str(tmp_path / "back")) == []


def test_a_hostile_source_writes_nothing_outside(s3: str, pool: str, tmp_path: Path) -> None:
    from epochal.shards.artifact import read_any_manifest
    from epochal.shards.manifest import dump_manifest

    m = read_any_manifest(pool)
    outside = dict(m.files) | {"../../escaped": m.files["index.json"]}
    target = f"{new_bucket('hostile')}/x"
    storage.write_atomic(f"{target}/manifest.json", dump_manifest(m.model_copy(update={"files": outside})).encode())
    with pytest.raises(WorkError, match="is no file below the artifact's folder"):
        pull(target, str(tmp_path / "deep" / "back"))
    large = m.model_copy(
        update={"files": {name: info.model_copy(update={"bytes": 1}) for name, info in m.files.items()}}
    )
    other = f"{new_bucket('hostile')}/x"
    push(pool, other)
    storage.write_atomic(f"{other}/manifest.json", dump_manifest(large).encode())
    with pytest.raises(EpochalError, match=r"its hash is not the manifest's|damaged"):
        pull(other, str(tmp_path / "deep" / "back"))
    assert not (tmp_path / "deep" / "back").exists()
    assert not (tmp_path / "escaped").exists()


def test_no_such_bucket_is_one_line(s3: str, pool: str, capsys) -> None:
    assert main(["push", pool, "s3://there-is-no-such-bucket/x"]) == 2
    assert re.fullmatch(r"epochal: cannot write s3://there-is-no-such-bucket/[^\n]*\n", capsys.readouterr().err)
