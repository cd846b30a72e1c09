"""A subset that is written straight to a target: files at hand and files written piece by piece."""

from pathlib import Path

from epochal.common.progress import Progress
from epochal.common.publish import FileInfo
from epochal.shards.transfer.folder import Folder
from epochal.shards.transfer.transfer import _Sink, _Watch


def test_files_of_both_ways_arrive_and_are_listed(tmp_path: Path) -> None:
    target = Folder(str(tmp_path / "out"))
    for kept in (0, 2):
        with target.claimed("x"):
            sink = _Sink(target, _Watch(Progress("push", 6, "bytes", quiet=True)))
            sink.write("whole", b"abc")
            with sink.create("in/pieces") as file:
                file.write(b"d")
                file.write(b"ef")
        assert sink.kept == kept
        assert sink.files == {"whole": FileInfo.of(b"abc"), "in/pieces": FileInfo.of(b"def")}
    with target.claimed("x"):
        sink.write("manifest.json", b"{}")
    assert (tmp_path / "out/in/pieces").read_bytes() == b"def"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in", "manifest.json", "whole"]
