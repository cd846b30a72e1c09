"""A file is read no further than it may be long, is gone on with, and arrives as it should be or not at all."""

from pathlib import Path

import fsspec
import pytest

from epochal.common.errors import WorkError
from epochal.common.publish import FileInfo
from epochal.shards.transfer import fetch as module
from epochal.shards.transfer.fetch import at_hand, fetch

DATA = bytes(range(256)) * 40
INFO = FileInfo.of(DATA)


@pytest.fixture
def url() -> str:
    """Return the URL of a file that holds DATA."""
    fsspec.filesystem("memory").pipe_file("/fetch/file", DATA)
    return "memory://fetch/file"


def served(data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file("/fetch/file", data)


def test_what_is_there_is_not_read_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, seen = tmp_path / "part", []
    part.write_bytes(DATA[:5000])
    served(b"x" * 5000 + DATA[5000:])  # the beginning would be noticed
    fetch(url, str(part), INFO, seen.append)
    assert part.read_bytes() == DATA
    assert sum(seen) == len(DATA)


def test_a_beginning_of_another_file_is_thrown_away(url: str, tmp_path: Path) -> None:
    part = tmp_path / "part"
    for wrong in (b"y" * 5000, DATA + b"y"):
        part.write_bytes(wrong)
        seen: list[int] = []
        fetch(url, str(part), INFO, seen.append)
        assert part.read_bytes() == DATA
        assert sum(seen) == len(DATA)


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b"", b"z" * 1_000_000])
def test_other_bytes_are_refused(url: str, tmp_path: Path, sent: bytes) -> None:
    served(sent)
    with pytest.raises(WorkError, match="after 5 attempts: its hash is not the manifest's"):
        fetch(url, str(tmp_path / "part"), INFO)
    assert not (tmp_path / "part").exists()


def test_a_source_that_never_ends_is_left_after_one_byte_too_many(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Endless:
        def __enter__(self) -> "Endless":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def seek(self, place: int) -> None:
            pass

        def read(self, n: int) -> bytes:
            read.append(n)
            return b"x" * n

    monkeypatch.setattr(module.storage, "open_read", lambda path: Endless())
    with pytest.raises(WorkError, match="hash is not the manifest's"):
        fetch(url, str(tmp_path / "part"), INFO)
    assert sum(read) == 5 * (len(DATA) + 1)


def test_local_files_are_checked_as_well(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA[:-1])
    for act in (lambda: fetch(str(file), str(tmp_path / "part"), INFO), lambda: at_hand(str(file), INFO).__enter__()):
        with pytest.raises(WorkError, match="file is damaged: its hash is not the manifest's; restore it"):
            act()
    file.unlink()
    for act in (lambda: fetch(str(file), str(tmp_path / "part"), INFO), lambda: at_hand(str(file), INFO).__enter__()):
        with pytest.raises(WorkError, match="file is missing: restore it"):
            act()


def test_an_empty_file_arrives(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    fetch(str(tmp_path / "empty"), str(tmp_path / "part"), FileInfo.of(b""))
    assert (tmp_path / "part").read_bytes() == b""
