"""A compressed file is read whole or not at all, wherever it is cut and whichever byte is wrong."""

import bz2
import contextlib
import gzip
import io
import lzma
import random
import zipfile

import pytest
import zstandard

from epochal.common import unpack
from epochal.common.unpack import DamagedError, foreign, lines, refused_name, unpacked

TEXT = b"".join(b'{"id": %d, "text": "%s"}\n' % (i, b"word " * i) for i in range(12))


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", data)
    return file.getvalue()


KINDS = {"gz": gzip.compress, "zst": zst, "xz": lzma.compress, "bz2": bz2.compress, "zip": zipped}


def read(data: bytes, name: str) -> bytes:
    return unpacked(io.BytesIO(data), name).read()


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind: str) -> None:
    data = KINDS[kind](TEXT)
    assert read(data, f"a.{kind}") == TEXT
    for n in range(len(data)):
        with pytest.raises(DamagedError):
            read(data[:n], f"a.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_byte_is_noticed_or_does_no_harm(kind: str) -> None:
    data, rng = KINDS[kind](TEXT), random.Random(0)
    for i in range(len(data)):
        wrong = bytearray(data)
        wrong[i] ^= rng.randrange(1, 256)
        with contextlib.suppress(DamagedError):
            assert read(bytes(wrong), f"a.{kind}") == TEXT  # a time or a name in a header


@pytest.mark.parametrize("kind", ["gz", "zst", "xz", "bz2"])
def test_members_follow_each_other_and_only_zeros_follow_them(kind: str) -> None:
    pack = KINDS[kind]
    members = b"".join(pack(line) for line in TEXT.splitlines(True))
    assert read(members + bytes(4096), f"a.{kind}") == TEXT
    for garbage in (b"x", b"garbage", members[:9], bytes(9) + b"x"):
        with pytest.raises(DamagedError):
            read(members + garbage, f"a.{kind}")


def test_a_little_compressed_data_is_unpacked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MOST_BYTES", 1 << 16)
    for kind in ("gz", "zst", "xz", "bz2"):
        pieces = list(lines(unpacked(io.BytesIO(KINDS[kind](b"a" * (1 << 20) + b"\n{}\n")), f"a.{kind}")))
        assert max(map(len, pieces)) == 1 << 16
        assert pieces[-1] == b"{}\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
def test_lines_in_utf_16_and_32_are_recoded(encoding: str) -> None:
    text = "a\u2028b\r\n\u00e9\U0001f600\n\nc"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    data = mark + text.encode(encoding)
    assert list(lines(unpacked(io.BytesIO(data), "a.jsonl"))) == text.encode().splitlines(True)


def test_names_of_what_is_not_opened() -> None:
    assert refused_name("a.jsonl") is None
    assert refused_name("in.tar/a.jsonl.gz") is None
    assert refused_name("tar") is None
    for name in ("a.tar", "a.tar.gz", "x/A.TGZ", "a.jsonl.lz4", "a.7z", "a.txt.Z", "a.tar.zst"):
        assert "unpack it" in (refused_name(name) or "")


def test_what_is_no_text_is_named() -> None:
    assert foreign(b'{"text": "<html>"}', markup=True) is None
    assert foreign(b"\n <!doctype HTML>", markup=True) == "an HTML page"
    assert foreign(b"<html>", markup=False) is None
    assert foreign(b"%PDF-1.7", markup=False) == "a PDF"


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b'\x04"M\x18d@\xa7', "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\x07\x01", "RAR"),
        (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
        (b"\x1f\x9d\x90", "compress"),
        (b"Obj\x01\x04\x14avro", "Avro"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"\x80\x04\x95\x10", "pickle"),
    ],
)
def test_other_kinds_of_files_are_told_by_their_first_bytes(start: bytes, what: str) -> None:
    with pytest.raises(DamagedError, match=what):
        unpacked(io.BytesIO(start + bytes(40)), "a.txt", markup=False)


def test_zst_that_needs_a_dictionary_says_so() -> None:
    dictionary = zstandard.train_dictionary(
        2000, [b"%d some words that come again %d" % (i, i * i) for i in range(999)]
    )
    packed = zstandard.ZstdCompressor(dict_data=dictionary).compress(TEXT)
    with pytest.raises(DamagedError, match="packed with a dictionary"):
        unpacked(io.BytesIO(packed), "a.jsonl.zst")


@pytest.mark.parametrize(("ending", "kind"), [("gzip", "gz"), ("bgz", "gz"), ("zstd", "zst"), ("bzip2", "bz2")])
def test_other_endings_of_the_same_compressions(ending: str, kind: str) -> None:
    assert unpack.named_compression(f"a.jsonl.{ending}") == kind
    assert read(KINDS[kind](TEXT), f"a.jsonl.{ending}") == TEXT
