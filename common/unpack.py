"""Files of text that may be compressed, read whole or not at all: what ends early or is damaged is never taken for the
end of the file, whatever the library behind it makes of it.

The first bytes say how a file is compressed, whatever its name; a file whose name says so and whose bytes do not is
refused. Memory is bounded: a little compressed data may stand for very much text.
"""

import bz2
import codecs
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 1 << 30
"""Of a line, or of a file that is one text. Longer ones are refused: a few kilobytes of gz can stand for any length."""

ENDINGS = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2", ".zip": "zip", ".lzma": "lzma"}
ENDINGS |= {".gzip": "gz", ".bgz": "gz", ".zstd": "zst", ".bzip2": "bz2"}
"""Compressions by the end of a file's name."""

OTHERS = {
    ".lz4": "lz4", ".br": "Brotli", ".sz": "Snappy", ".snappy": "Snappy", ".lzo": "LZO", ".z": "compress", ".7z": "7z",
    ".rar": "RAR", ".tar": "tar", ".tgz": "tar", ".tbz2": "tar", ".txz": "tar", ".tzst": "tar",
}  # fmt: skip
"""Compressions and archives that are not read, by the end of a file's name."""

_MAGIC = {b"\x1f\x8b": "gz", b"(\xb5/\xfd": "zst", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_MAGIC |= {b"BZh%c" % level + block: "bz2" for level in b"123456789" for block in (b"1AY&SY", b"\x17rE8P\x90")}
_MAGIC |= {b"%c*M\x18" % i: "zst" for i in range(0x50, 0x60)}  # a frame to be skipped may come first

_FOREIGN = {
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
    b"PAR1": "Parquet (format: parquet)",
    b"ARROW1": "an Arrow file",
    b'\x04"M\x18': "lz4: unpack it",
    b"\x1f\x9d": "compress (.Z): unpack it",
    b"\xff\x06\0\0sNaPpY": "Snappy: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it",
    b"Obj\x01": "Avro",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x04\x95": "a pickle, which is not opened",
    b"\x80\x05\x95": "a pickle, which is not opened",
    b"SQLite format 3": "an SQLite database",
    b"%PDF-": "a PDF",
}
_MARKUP = {b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<?xml": "XML", b"<": "HTML or XML"}

_READ = 1 << 17
_READ_ZST = 1 << 12
"""Bytes that a zst decoder is given at once: each may stand for 32 kB, and it has no bound on what it gives back."""


class DamagedError(ValueError):
    """A file cannot be read to its end, or is not what it should be; the message says why, to follow its name."""


def named_compression(name: str) -> str | None:
    """Return the compression that a file's name says, None where it says none."""
    return ENDINGS.get("." + name.rpartition(".")[2].lower()) if "." in name else None


def without_compression(name: str) -> str:
    """Return a file's name without the ending that says how it is compressed, if it has one."""
    return name.rpartition(".")[0] if named_compression(name) else name


def refused_name(name: str) -> str | None:
    """Return why no file of such a name is read: a compression or an archive that is not known here; else None."""
    stem, dot, last = name.lower().rpartition("/")[2].rpartition(".")
    kind = OTHERS.get(dot + last)
    if stem.endswith(".tar") and named_compression(name):
        kind = "tar"
    return None if kind is None else f"is {kind}, which is not opened here: unpack it"


def foreign(head: bytes, markup: bool) -> str | None:
    """Return what a file is, given its first bytes, if it is surely no text of rows; None where it may be.

    Args:
        markup: whether HTML and XML count: an error message of a server, where rows should be.
    """
    signs = _FOREIGN | (_MARKUP if markup else {})
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:32].lower()
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    return next((what for sign, what in signs.items() if start.startswith(sign.lower())), None)


def decompressed(raw: Any, name: str) -> io.BufferedReader:
    """Return what is in the opened file `raw`, unpacked; reading it raises DamagedError where it is not whole.

    Args:
        name: of the file.

    Raises:
        DamagedError: when its first bytes already show that it cannot be read.
    """
    packed = io.BufferedReader(raw, _READ)
    head = packed.peek(_READ)
    named, kind = named_compression(name), _kind(head)
    if named and not head:
        raise DamagedError("holds 0 bytes")
    if kind is None and named == "lzma":  # the one without a mark of its own
        kind = named
    if kind is None and named:
        what = foreign(head, markup=True)
        raise DamagedError(f"is {what}" if what else f"is not compressed as its name says ({named})")
    if kind is None:
        return packed
    if kind == "zst" and _needs_dictionary(head):
        raise DamagedError("is zst that was packed with a dictionary: unpack it with that")
    return io.BufferedReader(_Zipped(packed) if kind == "zip" else _Unpacked(packed, kind), _READ)


def unpacked(raw: Any, name: str, markup: bool = True) -> io.BufferedReader:
    """Return the text in the opened file `raw`, as `decompressed` does.

    Args:
        name: of the file.
        markup: refuse HTML and XML too, and what has zeros between its characters: no rows begin so.

    Raises:
        DamagedError: also when it is surely something else.
    """
    text = decompressed(raw, name)
    head = text.peek(_READ)
    what = foreign(head, markup)
    if what is None and (kind := _kind(head)):
        what = f"compressed twice: unpack it ({kind})"
    if what is None and markup and b"\0" in head[:4] and not marked_encoding(head):
        what = "binary, or UTF-16 without a mark: convert it to UTF-8"
    if what is not None:
        raise DamagedError(f"is {what}")
    return text


def lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Return the lines of `file` as UTF-8, ends kept; a line longer than `MOST_BYTES` comes in pieces."""
    encoding = marked_encoding(file.peek(4))
    if encoding is not None:
        return _recoded(file, encoding)
    read = file.readline
    return iter(lambda: read(MOST_BYTES), b"")


def marked_encoding(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 where a byte order mark says that a text is that."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def _recoded(file: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    text = io.TextIOWrapper(file, encoding, newline="\n")
    try:
        while line := text.readline(MOST_BYTES):
            yield line.encode()
    except UnicodeError:
        raise DamagedError(f"ends early or is damaged: it is not {encoding.upper()}, as its mark says") from None


def _kind(head: bytes) -> str | None:
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _needs_dictionary(head: bytes) -> bool:
    import zstandard

    try:
        return zstandard.get_frame_parameters(head).dict_id != 0
    except zstandard.ZstdError:  # a frame to be skipped, or a cut one
        return False


class _ZstFrame:
    """The decoder of a zst frame, with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        import zstandard

        self._invalid = zstandard.ZstdError
        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()

    def decompress(self, data: bytes, most: int) -> bytes:
        try:
            return self._decoder.decompress(data)
        except self._invalid:
            raise EOFError from None

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


_DECODERS: dict[str, Any] = {
    "gz": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "lzma": lzma.LZMADecompressor,
    "zst": _ZstFrame,
}
_INVALID = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, OSError, ValueError, struct.error)
"""What decoders raise when their input is not what it should be."""


class _Unpacked(io.RawIOBase):
    """What the members of a compressed file hold, one after the other, each checked to its end. Zeros may follow the
    last one, nothing else."""

    def __init__(self, packed: io.BufferedReader, kind: str) -> None:
        self._packed, self._new = packed, _DECODERS[kind]
        self._member, self._at_once = self._new(), _READ_ZST if kind == "zst" else _READ
        self._input, self._output = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end of the file."""
        while not self._output:
            if self._member.eof and not self._begin():
                return 0
            self._output = memoryview(self._unpack(len(buffer)))
        n = min(len(buffer), len(self._output))
        buffer[:n], self._output = self._output[:n], self._output[n:]
        return n

    def _begin(self) -> bool:
        """Begin the next member, if there is one."""
        rest = self._member.unused_data.lstrip(b"\0")
        while not rest:
            data = self._packed.read(self._at_once)
            if not data:
                return False
            rest = data.lstrip(b"\0")
        self._input, self._member = rest, self._new()
        return True

    def _unpack(self, most: int) -> bytes:
        """Return the next piece of the member, perhaps an empty one."""
        member, at_end = self._member, False
        if not self._input and getattr(member, "needs_input", True):
            self._input = self._packed.read(self._at_once)
            at_end = not self._input
        try:
            data: bytes = member.decompress(self._input, most)
        except _INVALID:
            raise DamagedError("is damaged: it cannot be unpacked") from None
        self._input = getattr(member, "unconsumed_tail", b"")
        if at_end and not data and not member.eof:
            raise DamagedError("ends early")
        return data


class _Zipped(io.RawIOBase):
    """The one file in a zip, what macOS adds left aside."""

    def __init__(self, packed: io.BufferedReader) -> None:
        try:
            archive = zipfile.ZipFile(packed)
            files = [i for i in archive.infolist() if not i.is_dir() and not i.filename.startswith("__MACOSX/")]
            self._file = archive.open(files[0]) if len(files) == 1 else None
        except _INVALID as error:
            raise _damaged(error, "is damaged or ends early: it cannot be unpacked") from None
        except RuntimeError:
            raise DamagedError("is a zip with a password, or packed in a way that is not known here") from None
        if self._file is None:
            raise DamagedError(f"is a zip of {len(files)} files: unpack it")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end of the file, whose checksum is right."""
        assert self._file is not None
        try:
            data = self._file.read(len(buffer))
        except _INVALID as error:
            raise _damaged(error, "is damaged: it cannot be unpacked") from None
        buffer[: len(data)] = data
        return len(data)


def _damaged(error: Exception, reason: str) -> Exception:
    """Return what to raise for a decoder's error: the error itself where the disk or the network raised it."""
    return error if getattr(error, "errno", None) else DamagedError(reason)
