"""A build knows its inputs by what they hold: an edit is noticed whatever it leaves the same, a copy is not one."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.datapipe import inputs
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.datapipe.run import executors
from epochal.datapipe.sources.registry import list_source
from epochal.datapipe.sources.text import JsonlReader
from epochal.shards.artifact import read_manifest
from epochal.shards.documents import DOCUMENTS_NAME
from epochal.shards.export import export
from epochal.tests.support.builds import settings, stream
from epochal.tokenize.tokenizer import load_tokenizer

HOUR = 3600 * 10**9


def lines(word: str) -> bytes:
    return b"".join(b'{"text": "%s number %d of a few"}\n' % (word.encode(), i) for i in range(3))


def edit(path: Path, data: bytes) -> None:
    """Write other bytes into a file; its size and time of change stay the same."""
    before = path.stat()
    assert len(data) == before.st_size
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that is an hour old."""
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_bytes(lines("river"))
    old = path.stat().st_mtime_ns - HOUR
    os.utime(path, ns=(old, old))
    return path


def contents(config: Build, memory: str = "/nowhere") -> inputs.Stock:
    listings = [item for i, s in enumerate(config.sources) for item in list_source(i, s)]
    return inputs.take_stock(config, listings, memory, print)


def test_an_edit_in_place_is_another_input_and_a_copy_is_not(tmp_path: Path, source: Path) -> None:
    config = settings(tmp_path, str(source.parent))
    first = contents(config).contents
    shutil.copy(source, tmp_path / "copy")
    os.replace(tmp_path / "copy", source)
    os.utime(source)
    assert contents(config).contents == first
    edit(source, lines("stone"))
    assert contents(config).contents != first


def test_digests_are_remembered_until_anything_about_the_file_changes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, memory = settings(tmp_path, str(source.parent)), str(tmp_path / "memory.json")
    first = contents(config, memory)
    inputs.remember(memory, first.memory)
    monkeypatch.setattr(storage, "file_digest", lambda path, expected: pytest.fail("it was read again"))
    assert contents(config, memory).contents == first.contents
    monkeypatch.undo()
    edit(source, lines("stone"))
    assert contents(config, memory).contents != first.contents


def test_a_file_that_is_only_just_written_is_not_remembered(tmp_path: Path, source: Path) -> None:
    os.utime(source)
    assert contents(settings(tmp_path, str(source.parent))).memory == {}


def test_evaluation_files_count_too(tmp_path: Path, source: Path) -> None:
    evaluation = tmp_path / "e.jsonl"
    evaluation.write_bytes(lines("item"))
    config = settings(tmp_path, str(source), decontaminate={"files": [str(evaluation)]})
    first = contents(config).contents
    edit(evaluation, lines("term"))
    assert contents(config).contents != first


@pytest.mark.slow
def test_a_pool_of_other_text_is_not_already_there(tmp_path: Path, source: Path) -> None:
    config = settings(tmp_path, str(source.parent))
    assert build(config, quiet=True).new
    os.utime(source)
    assert not build(config, quiet=True).new
    edit(source, lines("stone"))
    with pytest.raises(RequestError, match="other inputs"):
        build(config, quiet=True)
    edit(source, lines("river"))
    assert not build(config, quiet=True).new


@pytest.mark.slow
def test_a_resumed_build_does_not_mix_old_and_new_text(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source.parent / "b.jsonl").write_bytes(lines("house"))
    config = settings(tmp_path, str(source.parent), tasks=2, deduplicate={"near": None})
    whole = executors._Local._run_for_rank

    def stops(self: object, rank: int, *rest: object) -> object:
        if rank == 1:
            raise WorkError("stopped")
        return whole(self, rank, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(executors._Local, "_run_for_rank", stops)
    with pytest.raises(WorkError, match="stopped"):
        build(config, quiet=True)
    monkeypatch.undo()
    edit(source, lines("stone"))
    text = load_tokenizer("gpt2").decode(stream(build(config, quiet=True).pool).tolist())
    assert text.count("stone") == text.count("house") == 3
    assert "river" not in text


def test_a_file_that_changes_while_it_is_read_stops_the_build(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = JsonlReader._rows

    def changing(self: JsonlReader, file: object) -> Iterator[object]:
        yield from rows(self, file)  # type: ignore[arg-type]
        source.write_bytes(lines("stone"))

    monkeypatch.setattr(JsonlReader, "_rows", changing)
    with pytest.raises(WorkError, match=r"a.jsonl was changed while the build read it"):
        build(settings(tmp_path, str(source.parent)), quiet=True)


@pytest.mark.slow
def test_a_stopped_build_goes_on_when_damaged_files_may_be_left_out(tmp_path: Path, source: Path) -> None:
    (source.parent / "b.jsonl").write_bytes(lines("house")[:-5])
    config = settings(tmp_path, str(source.parent), tasks=2)
    with pytest.raises(WorkError, match=r"b.jsonl ends early"):
        build(config, quiet=True)
    (work,) = (tmp_path / "out" / "pools").glob(".p.building-*")
    assert (work / "parts" / "part-00000").exists()
    skipping = config.model_copy(update={"on_damaged": "skip"})
    pool = build(skipping, quiet=True).pool
    assert read_manifest(pool).documents == 3
    assert json.loads((Path(pool) / "manifest.json").read_text())["config"]["on_damaged"] == "skip"
    with pytest.raises(RequestError, match="with on_damaged=skip, which is None now"):
        build(config, quiet=True)


@pytest.mark.parametrize("layout", ["wds", "parquet", "megatron", "bin", "hf"])
@pytest.mark.parametrize("limit", [None, 100])
def test_a_flipped_bit_in_an_export_of_ours_is_named(make_pool, tmp_path: Path, layout: str, limit: int | None) -> None:
    export(str(make_pool(3000)), layout, str(tmp_path / "e"))
    source = {"name": "s", "path": str(tmp_path / "e"), "format": layout, "tokenized": {}, "limit": limit}
    config = settings(tmp_path, source)
    contents(config)
    manifest = json.loads((tmp_path / "e/manifest.json").read_text())
    read = [
        tmp_path / "e" / name
        for name in manifest["files"]
        if name.endswith((".tar", "parquet", ".bin", ".idx", "arrow")) and name != DOCUMENTS_NAME  # no build reads it
    ]
    assert read
    for path in read:
        whole = path.read_bytes()
        half = len(whole) // 2
        path.write_bytes(whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :])
        with pytest.raises(WorkError, match="is damaged") as caught:
            contents(config)
        assert str(path) in str(caught.value)
        path.write_bytes(whole)
