"""A folder appears as a whole: what an attempt left is gone on with, two at once do not meet, nothing is left over."""

import os
from pathlib import Path

import pytest

from epochal.common.errors import RequestError
from epochal.common.publish import FileInfo
from epochal.shards.transfer.folder import Folder
from epochal.shards.transfer.transfer import pull
from epochal.shards.verify import verify


def test_what_an_attempt_left_is_gone_on_with(pool: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = Folder(str(out))
    with folder.claimed("request"):
        data = Path(pool, "shard.00002.mds").read_bytes()
        assert folder.add_bytes("shard.00002.mds", data)
        assert not folder.add_bytes("shard.00002.mds", data)
        folder.add_bytes("shard.00003.mds", b"damaged meanwhile")
        folder.add_bytes("of/another.version", b"x")
    assert not out.exists()
    done = pull(pool, str(out))
    assert (done.new, done.kept) == (True, 1)
    assert verify(str(out)) == []
    assert sorted(os.listdir(tmp_path)) == ["artifacts", "out"]


def test_an_artifact_is_not_put_into_another(pool: str, tmp_path: Path) -> None:
    for place in ("inside", "deep/er"):
        with pytest.raises(RequestError, match=f"lies in the artifact {pool}, which would not be whole"):
            pull(pool, str(Path(pool, place)))
    assert verify(pool) == []


def test_a_link_to_an_empty_folder_is_refused_before_anything_is_sent(pool: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to("empty")
    with pytest.raises(RequestError, match="exists and holds something else"):
        pull(pool, str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["artifacts", "empty", "out"]


def test_two_at_once_do_not_meet(pool: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Folder(out).claimed("x"), pytest.raises(RequestError, match="another command is writing"):
        pull(pool, out)
    assert pull(pool, out).new


def test_what_appears_meanwhile_is_left_alone(pool: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = Folder(str(out))
    with folder.claimed("x"):
        folder.add_bytes("a", b"a")
        out.mkdir()
        (out / "mine").write_text("mine")
        with pytest.raises(RequestError, match="appeared meanwhile"):
            folder.publish(b"{}", ["a"])
    assert os.listdir(out) == ["mine"]


def test_an_empty_folder_is_filled_and_another_is_refused(pool: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert pull(pool, str(tmp_path / "empty")).new
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(RequestError, match="holds something else"):
            pull(pool, str(tmp_path / name))
    with pytest.raises(RequestError, match="is no folder of this machine"):
        pull(pool, "s3://bucket/x")


def test_what_a_kill_after_the_rename_left_is_removed(pool: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    pull(pool, out)
    (tmp_path / ".out.partial").mkdir()
    assert not pull(pool, out).new
    assert not (tmp_path / ".out.partial").exists()


def test_files_in_folders_below(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    (tmp_path / "source").write_bytes(b"abc")
    with folder.claimed("x"):
        assert folder.add("a/b/c", FileInfo.of(b"abc"), str(tmp_path / "source"), lambda n: None)
        assert not folder.add("a/b/c", FileInfo.of(b"abc"), str(tmp_path / "source"), lambda n: None)
        folder.publish(b"{}", ["a/b/c"])
    assert (tmp_path / "out/a/b/c").read_bytes() == b"abc"
