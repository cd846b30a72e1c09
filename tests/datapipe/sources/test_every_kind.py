"""One folder with a file of every kind of damage, name, compression and layout.

What is left out is said and listed, and nothing that can be read is lost.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from epochal.common.errors import WorkError
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.shards.artifact import read_manifest
from epochal.tests.support.builds import settings

N = 4
"""Rows of each file."""

READ, SAID = "", "said"
"""What is expected of a file: its rows are read; it is not read, which is no loss, and said so; or else the words with
which it is left out."""


def rows(name: str) -> list[dict]:
    return [{"id": f"{name}-{i}", "text": f"The text of file {name} with number {i} in it."} for i in range(N)]


def lines(name: str) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(name))


def cut(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def broken(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(255 - b for b in data[middle : middle + 8]) + data[middle + 8 :]


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zst_blocks(data: bytes, end: bool) -> bytes:
    """Return a zst frame of a block a line, whole or cut where a block and a line end."""
    frame = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    blocks = b"".join(
        frame.compress(line) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for line in data.splitlines(True)
    )
    return blocks + frame.flush() if end else blocks


def zst_long(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return frame.compress(data) + frame.flush()


SKIPPABLE = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
HTML = b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"

JSON_KINDS: dict[str, tuple[Callable[[str], bytes], str]] = {
    # names and layouts
    "plain.jsonl": (lines, READ),
    "no-ending": (lines, READ),
    "part-00000": (lines, READ),
    "capital.JSONL": (lines, READ),
    "deep/er/a.jsonl": (lines, READ),
    "year=2024/month=1/a.json": (lines, READ),
    "space at the end.jsonl ": (lines, READ),
    "brackets [1].jsonl": (lines, READ),
    "hash #1::x.jsonl": (lines, READ),
    "percent%20sign.jsonl": (lines, READ),
    "~tilde.jsonl": (lines, READ),
    "naïve-名.jsonl": (lines, READ),
    "_underscore.jsonl": (lines, READ),
    "dots.in.name.jsonl": (lines, READ),
    # lines as other programs leave them
    "crlf.jsonl": (lambda n: lines(n).replace(b"\n", b"\r\n"), READ),
    "blank.jsonl": (lambda n: lines(n).replace(b"\n", b"\n\n"), READ),
    "no-newline.jsonl": (lambda n: lines(n).rstrip(), READ),
    "mark.jsonl": (lambda n: b"\xef\xbb\xbf" + lines(n), READ),
    "utf16.jsonl": (lambda n: lines(n).decode().encode("utf-16"), READ),
    "utf32.jsonl": (lambda n: lines(n).decode().encode("utf-32"), READ),
    "nan.jsonl": (lambda n: lines(n).replace(b"}", b', "score": NaN, "max": -Infinity}'), READ),
    "commas.jsonl": (lambda n: lines(n).replace(b"}\n", b"},\n"), READ),
    "big-number.jsonl": (lambda n: lines(n).replace(b"}", b', "n": 123456789012345678901234567890}'), READ),
    "twice.jsonl": (lambda n: lines(n).replace(b"{", b'{"text": "not this", '), READ),
    # compressions
    "a.jsonl.gz": (lambda n: gzip.compress(lines(n)), READ),
    "two-members.jsonl.gz": (lambda n: b"".join(gzip.compress(x) for x in lines(n).splitlines(True)), READ),
    "zeros-behind.jsonl.gz": (lambda n: gzip.compress(lines(n)) + bytes(1000), READ),
    "gz-without-name.jsonl": (lambda n: gzip.compress(lines(n)), READ),
    "a.jsonl.zst": (lambda n: zstandard.compress(lines(n)), READ),
    "two-frames.jsonl.zst": (lambda n: b"".join(zstandard.compress(x) for x in lines(n).splitlines(True)), READ),
    "skippable.jsonl.zst": (lambda n: SKIPPABLE + zstandard.compress(lines(n)) + SKIPPABLE, READ),
    "blocks.jsonl.zst": (lambda n: zst_blocks(lines(n), True), READ),
    "long-window.jsonl.zst": (lambda n: zst_long(lines(n)), READ),
    "a.jsonl.xz": (lambda n: lzma.compress(lines(n)), READ),
    "two-streams.jsonl.xz": (lambda n: b"".join(lzma.compress(x) for x in lines(n).splitlines(True)), READ),
    "a.jsonl.lzma": (lambda n: lzma.compress(lines(n), lzma.FORMAT_ALONE), READ),
    "a.jsonl.bz2": (lambda n: bz2.compress(lines(n)), READ),
    "two-streams.jsonl.bz2": (lambda n: b"".join(bz2.compress(x) for x in lines(n).splitlines(True)), READ),
    "one-file.zip": (lambda n: zipped({"a.jsonl": lines(n), "__MACOSX/._a.jsonl": b"\0\5"}), READ),
    # files that end early
    "cut.jsonl": (lambda n: lines(n)[:-9], "ends early"),
    "cut.jsonl.gz": (lambda n: cut(gzip.compress(lines(n))), "ends early"),
    "cut-second.jsonl.gz": (lambda n: gzip.compress(lines(n)) + gzip.compress(lines(n))[:20], "ends early"),
    "cut.jsonl.zst": (lambda n: cut(zstandard.compress(lines(n))), "ends early"),
    "cut-at-block.jsonl.zst": (lambda n: zst_blocks(lines(n), False), "ends early"),
    "cut.jsonl.xz": (lambda n: cut(lzma.compress(lines(n))), "ends early"),
    "cut.jsonl.bz2": (lambda n: cut(bz2.compress(lines(n))), "ends early"),
    "cut.zip": (lambda n: cut(zipped({"a.jsonl": lines(n)})), "ends early"),
    "cut-utf16.jsonl": (lambda n: lines(n).decode().encode("utf-16")[:-1], "ends early"),
    "nothing.jsonl.gz": (lambda n: b"", "holds 0 bytes"),
    # damaged in the middle
    "broken.jsonl.gz": (lambda n: broken(gzip.compress(lines(n))), "is damaged"),
    "wrong-sum.jsonl.gz": (lambda n: gzip.compress(lines(n))[:-8] + bytes(8), "is damaged"),
    "garbage-behind.jsonl.gz": (lambda n: gzip.compress(lines(n)) + b"garbage", "is damaged"),
    "wrong-sum.jsonl.zst": (lambda n: zst_blocks(lines(n), True)[:-4] + b"abcd", "is damaged"),
    "broken.jsonl.xz": (lambda n: broken(lzma.compress(lines(n))), "is damaged"),
    "broken.jsonl.bz2": (lambda n: broken(bz2.compress(lines(n))), "is damaged"),
    "broken-second.jsonl.bz2": (lambda n: bz2.compress(lines(n)) + b"xx" + bz2.compress(lines(n)), "is damaged"),
    # what is no JSON lines
    "page.jsonl": (lambda n: HTML, "is an HTML page"),
    "page.jsonl.gz": (lambda n: HTML, "is an HTML page"),
    "packed-page.jsonl.gz": (lambda n: gzip.compress(HTML), "is an HTML page"),
    "error.jsonl": (lambda n: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML"),
    "pointer.jsonl": (lambda n: LFS, "git lfs pull"),
    "not-packed.jsonl.gz": (lines, "is not compressed as its name says"),
    "twice.jsonl.gz.gz": (lambda n: gzip.compress(gzip.compress(lines(n))), "compressed twice"),
    "array.json": (lambda n: json.dumps(rows(n)).encode(), "is a JSON array"),
    "pretty-array.json": (lambda n: json.dumps(rows(n), indent=2).encode(), "is a JSON array"),
    "pretty.json": (lambda n: json.dumps(rows(n)[0], indent=2).encode(), "is JSON over several lines"),
    "utf16-no-mark.jsonl": (lambda n: lines(n).decode().encode("utf-16-le"), "UTF-16 without a mark"),
    "two-files.zip": (lambda n: zipped({"a.jsonl": lines(n), "b.jsonl": lines(n)}), "is a zip of 2 files"),
    "a.tar.gz": (lambda n: gzip.compress(tarred(lines(n))), "is tar"),
    "a.tar": (lambda n: tarred(lines(n)), "is tar"),
    "hidden-tar.jsonl": (lambda n: tarred(lines(n)), "is a tar archive"),
    "a.jsonl.lz4": (lambda n: b"\x04\x22\x4d\x18", "is lz4"),
    # what is no data
    "empty.jsonl": (lambda n: b"", SAID),
    "_SUCCESS": (lambda n: b"", SAID),
    "_temporary/0/part-1.json": (lines, SAID),
    ".part-00000.crc": (lambda n: b"crc", SAID),
    "part-00000.crc": (lambda n: b"crc", SAID),
    "._plain.jsonl": (lambda n: b"\0\5\x16\7", SAID),
    ".DS_Store": (lambda n: b"\0\0\0\1Bud1", SAID),
    ".git/objects/x.jsonl": (lines, SAID),
    "README.md": (lambda n: b"# A data set", SAID),
    "table.parquet": (lambda n: b"PAR1", SAID),
}


def parquet(name: str, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(name)), file, **options)
    return file.getvalue()


def columns(name: str, kind: pa.DataType) -> bytes:
    file = io.BytesIO()
    text = pa.array([row["text"] for row in rows(name)]).cast(kind)
    pq.write_table(pa.table({"id": pa.array(range(N), pa.decimal128(9, 2)), "text": text}), file)
    return file.getvalue()


def twice(name: str) -> bytes:
    file = io.BytesIO()
    text = pa.array([row["text"] for row in rows(name)])
    pq.write_table(pa.table([text, text], names=["text", "text"]), file)
    return file.getvalue()


PARQUET_KINDS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "plain.parquet": (parquet, READ),
    "groups.parquet": (lambda n: parquet(n, row_group_size=1), READ),
    "no-ending": (parquet, READ),
    "brotli.parquet": (lambda n: parquet(n, compression="brotli"), READ),
    "no-dictionary.parquet": (lambda n: parquet(n, use_dictionary=False, data_page_version="2.0"), READ),
    "large.parquet": (lambda n: columns(n, pa.large_string()), READ),
    "view.parquet": (lambda n: columns(n, pa.string_view()), READ),
    "binary.parquet": (lambda n: columns(n, pa.binary()), READ),
    "coded.parquet": (lambda n: columns(n, pa.dictionary(pa.int32(), pa.string())), READ),
    "year=2024/part-0.parquet": (parquet, READ),
    "cut.parquet": (lambda n: cut(parquet(n)), "ends early"),
    "broken.parquet": (lambda n: parquet(n)[:4] + bytes(40) + parquet(n)[44:], "is damaged"),
    "footer.parquet": (lambda n: parquet(n)[:-60] + bytes(52) + parquet(n)[-8:], "is damaged"),
    "empty.parquet": (lambda n: b"", "holds 0 bytes"),
    "page.parquet": (lambda n: HTML, "is an HTML page"),
    "encrypted.parquet": (lambda n: b"PARE" + parquet(n)[4:-4] + b"PARE", "is encrypted"),
    "text.parquet": (lines, "is no Parquet file"),
    "two-columns.parquet": (twice, "has two columns named 'text'"),
    "_metadata": (lambda n: b"PAR1", SAID),
    "_common_metadata": (lambda n: b"PAR1", SAID),
    "dataset_infos.json": (lambda n: b"{}", SAID),
}


def one_text(name: str) -> bytes:
    return f"The whole text of {name}, from naïve beginnings to the end.".encode()


TEXT_KINDS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "plain.txt": (one_text, READ),
    "page.html": (lambda n: HTML + one_text(n), READ),
    "README.md": (one_text, READ),
    "mark.txt": (lambda n: b"\xef\xbb\xbf" + one_text(n), READ),
    "utf16.txt": (lambda n: one_text(n).decode().encode("utf-16"), READ),
    "utf16-big.txt": (lambda n: b"\xfe\xff" + one_text(n).decode().encode("utf-16-be"), READ),
    "a.txt.gz": (lambda n: gzip.compress(one_text(n)), READ),
    "a.txt.zst": (lambda n: zstandard.compress(one_text(n)), READ),
    "cut.txt": (lambda n: one_text(n)[: one_text(n).index(b"ve ") - 1], "ends early"),
    "cut-utf16.txt": (lambda n: one_text(n).decode().encode("utf-16")[:-1], "ends early"),
    "latin.txt": (lambda n: one_text(n).decode().encode("latin-1"), "in another encoding"),
    "cut.txt.zst": (lambda n: cut(zstandard.compress(one_text(n))), "ends early"),
    "cut.txt.gz": (lambda n: cut(gzip.compress(one_text(n))), "ends early"),
    "two.zip": (lambda n: zipped({"a.txt": one_text(n), "b.txt": one_text(n)}), "is a zip of 2 files"),
    "pointer.txt": (lambda n: LFS, "git lfs pull"),
}

KINDS = {"json": JSON_KINDS, "parquet": PARQUET_KINDS, "text": TEXT_KINDS}


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def config(tmp_path: Path) -> Build:
    """A build of one folder for each format with a file of every kind, one linked folder and a pipe."""
    for folder, kinds in KINDS.items():
        for name, (make, _) in kinds.items():
            put(tmp_path / "in" / folder / name, make(f"{folder}-{name}"))
    put(tmp_path / "elsewhere" / "linked.jsonl", lines("linked"))
    (tmp_path / "in" / "json" / "more").symlink_to("../../elsewhere")
    (tmp_path / "in" / "json" / ".hidden").mkdir()
    (tmp_path / "in" / "json" / ".hidden" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "in" / "json" / "pipe.jsonl")
    sources = [
        {"name": "json", "path": str(tmp_path / "in" / "json")},
        {"name": "parquet", "path": str(tmp_path / "in" / "parquet"), "format": "parquet"},
        {"name": "text", "path": str(tmp_path / "in" / "text"), "format": "text"},
    ]
    return settings(tmp_path, None, sources=sources, deduplicate={"near": None}, on_damaged="skip")


@pytest.mark.slow
def test_what_is_left_out_is_said_and_nothing_readable_is_lost(config: Build) -> None:
    assert sum(map(len, KINDS.values())) >= 60
    said: list[str] = []
    pool = build(config, quiet=True, say=said.append).pool
    expected = sum(reason == READ for kinds in KINDS.values() for _, reason in kinds.values())
    documents = (expected - sum(reason == READ for _, reason in TEXT_KINDS.values())) * N
    documents += sum(reason == READ for _, reason in TEXT_KINDS.values()) + N  # and the linked file
    table = {(s, f): reason for s, f, reason in pl.read_parquet(f"{pool}/left_out.parquet").rows()}
    damaged = {(s, f): why for s, kinds in KINDS.items() for f, (_, why) in kinds.items() if why not in (READ, SAID)}
    assert {key: damaged[key] for key in damaged if damaged[key] not in table.get(key, "")} == {}
    assert pl.read_parquet(f"{pool}/rejects.parquet").rows() == []
    assert read_manifest(pool).documents == documents
    assert read_manifest(pool).statistics["damaged_files"] == len(damaged)
    others = {("json", "_temporary/"), ("json", ".git/"), ("json", ".hidden/"), ("json", "pipe.jsonl")}
    others |= {
        (s, f) for s, kinds in KINDS.items() for f, (_, why) in kinds.items() if why == SAID and f.count("/") == 0
    }
    assert set(table) == set(damaged) | others
    assert any("left out: text.parquet is no Parquet file" in line for line in said)
    assert any("source 'json': 12 files are not read (hidden; " in line for line in said)
    assert read_manifest(pool).statistics["files_not_read"] == len(table)
    again: list[str] = []
    assert not build(config, quiet=True, say=again.append).new
    assert again == said


def test_a_damaged_file_stops_the_build_with_its_name_and_what_to_do(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.jsonl", lines("a"))
    put(tmp_path / "in" / "b.jsonl", lines("b")[:-9])
    config = settings(tmp_path, str(tmp_path / "in"))
    with pytest.raises(WorkError, match=r"^source 's': b.jsonl ends early.*\(row 2, from 0.*on_damaged=skip$"):
        build(config, quiet=True)
    assert not (tmp_path / "out" / "pools" / "p").exists()
    skipping = config.model_copy(update={"on_damaged": "skip"})
    assert read_manifest(build(skipping, quiet=True).pool).documents == N
    put(tmp_path / "in" / "c.tar.gz", b"")
    with pytest.raises(WorkError, match=r"c.tar.gz is tar, which is not opened here: unpack it"):
        build(settings(tmp_path, str(tmp_path / "in"), name="q"), quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [5])
def test_what_is_left_out_does_not_depend_on_the_number_of_tasks(config: Build, tmp_path: Path, tasks: int) -> None:
    pools = [
        build(config.model_copy(update={"tasks": n, "out": f"{tmp_path}/{n}"}), quiet=True, say=lambda line: None).pool
        for n in (1, tasks)
    ]
    for name in ("left_out.parquet", "documents.parquet"):
        assert Path(pools[0], name).read_bytes() == Path(pools[1], name).read_bytes()
