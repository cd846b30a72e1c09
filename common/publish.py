"""The one way to publish a folder, local or at an fsspec URL: hashed as it is written, there whole or not at all.

A local folder is renamed into place. An object store has no rename: there the manifest is written last, and until then
a file `unfinished` says whose the others are, so that the same command may begin again over what a killed one left.
"""

import builtins
import contextlib
import errno
import functools
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import Field

from . import storage
from .config import Record
from .errors import RequestError, WorkError
from .hashing import FileHash, xxh64
from .remote.patience import ATTEMPTS, patiently

MANIFEST_NAME = "manifest.json"
"""The file that makes a folder valid; written last where there is no rename."""

UNFINISHED_NAME = "unfinished"
FILLED = ".partial-copy"
"""What the name of a folder ends with that is being filled by several processes."""
_PIECE = 1 << 22
_FLUSHED_AT_ONCE = 16


class FileInfo(Record):
    """Size in bytes and xxh64 (16 hexadecimal digits) of one file."""

    bytes: int = Field(ge=0)
    xxh64: str

    @classmethod
    def of(cls, data: builtins.bytes) -> "FileInfo":
        """Return that of a file that holds `data`."""
        return cls(bytes=len(data), xxh64=xxh64(data))

    @classmethod
    def at(cls, path: str) -> "FileInfo":
        """Return that of the file at `path` (local or URL), read in pieces.

        Raises:
            FileNotFoundError: when there is no such file.
        """
        size, file_hash = storage.file_digest(path)
        return cls(bytes=size, xxh64=file_hash)


def hashes_of(path: str) -> tuple[FileInfo, str]:
    """Return size and xxh64, and the SHA-256, of the file at `path` (local or URL), which is read once.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    hashed, sha256 = FileHash(), hashlib.sha256()
    with storage.open_read(path) as file:
        while piece := file.read(_PIECE):
            hashed.add(piece)
            sha256.update(piece)
    return FileInfo(bytes=hashed.bytes, xxh64=hashed.hexdigest()), sha256.hexdigest()


@contextlib.contextmanager
def fetched(path: str, listed: FileInfo) -> Iterator[str]:
    """Yield a local copy of the file at the URL `path`, which the body may open and keep open.

    Args:
        path: see above.
        listed: size and hash of the file; a store that sends something else is asked again.

    Raises:
        FileNotFoundError: when there is no such file.
        WorkError: when a store does not send it.
    """
    with tempfile.TemporaryDirectory(prefix="epochal-") as folder:
        copy = os.path.join(folder, path.rpartition("/")[2])

        def fetch() -> None:
            storage.copy_file(path, copy)
            if FileInfo.at(copy) != listed:
                raise OSError(f"what arrived does not have the xxh64 {listed.xxh64}")

        patiently(fetch, f"download {path}", ATTEMPTS, missing_too=True)
        yield copy


class _HashedFile(io.RawIOBase):
    """Writes through to `raw`, the file at `path`, front to back only, counting and hashing."""

    def __init__(self, raw: Any, path: str) -> None:
        self._raw = raw
        self._path = path
        self._hash = FileHash()
        self._sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with storage.explained(self._path):
            self._raw.write(data)
        self._sha256.update(data)
        return self._hash.add(data)

    def tell(self) -> int:
        return self._hash.bytes

    def info(self) -> FileInfo:
        return FileInfo(bytes=self._hash.bytes, xxh64=self._hash.hexdigest())

    def sha256(self) -> str:
        return self._sha256.hexdigest()


class Sink:
    """A folder being filled.

    Attributes:
        root: the folder, path or URL.
        files: size and xxh64 of every file that was written whole.
        sha256: of the same files, 64 hexadecimal digits.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, FileInfo] = {}
        self.sha256: dict[str, str] = {}

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[io.RawIOBase]:
        """Yield a new file to be written from front to back."""
        path = storage.join(self.root, name)
        if not storage.is_url(self.root):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with storage.explained(path):
            raw = storage.open_write(path)
        file = _HashedFile(raw, path)
        try:
            yield file
            with storage.explained(path):
                raw.close()
        except BaseException:
            storage.discard(raw)
            raise
        self.files[name], self.sha256[name] = file.info(), file.sha256()

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is at hand whole; a store that fails is asked again, which `create` cannot do."""
        self._put(name, data)
        self.files[name], self.sha256[name] = FileInfo.of(data), hashlib.sha256(data).hexdigest()

    def _put(self, name: str, data: bytes) -> None:
        path = storage.join(self.root, name)
        if storage.is_url(self.root):
            storage.write_atomic(path, data)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(data)


@contextlib.contextmanager
def publishing(out: str, request: str) -> Iterator[Sink]:
    """Yield a sink whose files appear at `out` together, or, when the body fails, not at all.

    Args:
        request: names what is being made; an interrupted attempt at the same one is begun again. The body must write
            the manifest last.

    Raises:
        RequestError: when `out` exists.
    """
    if not storage.is_url(out):
        with _renamed(os.path.abspath(storage.local_path(out))) as folder:
            yield Sink(folder)
        return
    _claim(out, request)
    sink = Sink(out)
    try:
        yield sink
    except BaseException:
        with contextlib.suppress(Exception):  # what cannot be removed now, the next attempt clears
            _clear(out)
        raise
    with contextlib.suppress(WorkError):  # the artifact is whole
        storage.remove(storage.join(out, UNFINISHED_NAME))


def rename_folder(folder: str, out: str) -> bool:
    """Publish a finished folder as `out` by renaming it; return False where it cannot be: they are not on one disk."""
    if storage.is_url(folder) or storage.is_url(out):
        return False
    os.makedirs(os.path.dirname(out), exist_ok=True)
    try:
        os.rename(folder, out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


@contextlib.contextmanager
def filling(out: str, request: str) -> Iterator[str]:
    """Yield a folder that the body, or processes that it starts, are to fill; it then is `out`. Where the body fails
    or is killed, what is there stays, and the next attempt at the same request finds it. The body must write the
    manifest last.

    Raises:
        RequestError: when `out` exists.
    """
    if storage.is_url(out):
        _claim(out, request, again=False)
        yield out
        with contextlib.suppress(WorkError):  # the artifact is whole
            storage.remove(storage.join(out, UNFINISHED_NAME))
        return
    parent, name = os.path.split(out)
    folder = os.path.join(parent, f".{name}.{xxh64(request.encode())[:8]}{FILLED}")
    for other in storage.names(parent):
        if other.startswith(f".{name}.") and other.endswith(FILLED) and other != os.path.basename(folder):
            storage.remove(os.path.join(parent, other))
    os.makedirs(folder, exist_ok=True)
    yield folder
    flush_folder(folder)
    _rename_new(folder, out)


def flush_folder(folder: str) -> None:
    """Have the disk hold every file of a local folder, before it is renamed into place."""

    def flush(name: str) -> None:
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as pool:  # file systems write together what is asked for together
        for _ in pool.map(flush, os.listdir(folder)):
            pass


@contextlib.contextmanager
def _renamed(out: str) -> Iterator[str]:
    """Yield a new folder beside `out`; on success rename it to `out`, on failure remove it."""
    if os.path.exists(out):
        raise RequestError(f"{out} exists and holds something else: choose another --out or remove it")
    parent, name = os.path.split(out)
    os.makedirs(parent, exist_ok=True)
    folder = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
    os.mkdir(folder)
    try:
        with storage.naming(out):
            yield folder
        _rename_new(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename_new(folder: str, out: str) -> None:
    if os.path.exists(out):
        raise RequestError(f"{out} appeared meanwhile: choose another --out or remove it")
    os.rename(folder, out)


def _claim(out: str, request: str, again: bool = True) -> None:
    """Say at the URL `out` that `request` is being made there. again: without what an earlier attempt left."""
    marker = storage.join(out, UNFINISHED_NAME)
    if storage.exists(out):
        whole = storage.exists(storage.join(out, MANIFEST_NAME))
        if whole or not storage.exists(marker) or storage.read_bytes(marker) != request.encode():
            raise RequestError(f"{out} exists and holds something else: choose another --out or remove it")
        if not again:
            return
        _clear(out)
    storage.write_atomic(marker, request.encode())


def _clear(out: str) -> None:
    """Remove an unfinished folder; the file that says whose it is goes last."""
    for name in storage.names(out):
        if name != UNFINISHED_NAME:
            storage.remove(storage.join(out, name))
    storage.remove(storage.join(out, UNFINISHED_NAME))


def copy_folder(source: str, target: str, last: str) -> None:
    """Copy the files of a folder (no folder in it) into another, each local or a URL, and file `last`, which makes the
    folder valid, after all others."""
    copy_files(source, target, [name for name in storage.names(source) if name != last])
    copy_files(source, target, [last])


def copy_files(source: str, target: str, names: Sequence[str]) -> None:
    """Copy files of a folder into another, each local or a URL: within a store by the store itself."""
    pairs = [(f"{source}/{name}", f"{target}/{name}") for name in names]
    if pairs and storage.is_url(target) and source.split("://")[0] == target.split("://")[0]:
        _copy_within(pairs)
        return
    for a, b in pairs:
        if storage.is_url(target) and not storage.is_url(source):
            storage.upload(a, b)
            continue
        with storage.publishing_file(b) as temporary:
            patiently(functools.partial(storage.copy_file, a, temporary), f"read {a}", ATTEMPTS, missing_too=True)


def _copy_within(pairs: list[tuple[str, str]]) -> None:
    """Have a store copy objects, each (from, to)."""
    store, where = storage.store_of(pairs[0][1]), pairs[0][1].rpartition("/")[0]
    copies = [list(side) for side in zip(*pairs, strict=True)]
    patiently(lambda: store.copy(*copies, on_error="raise"), f"copy to {where}", ATTEMPTS)
