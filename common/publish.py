"""Where the files of an export go: a local folder or an fsspec URL, hashed as they are written, published whole.

A local folder is renamed into place. An object store has no rename: there the manifest is written last, and until then
a file `unfinished` says whose the others are, so that the same command may begin again over what a killed one left.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import xxhash
from pydantic import Field

from . import storage
from .config import Record
from .errors import RequestError, WorkError

MANIFEST_NAME = "manifest.json"
"""The file that makes a folder valid; written last where there is no rename."""

UNFINISHED_NAME = "unfinished"


class FileInfo(Record):
    """Size in bytes and xxh64 (16 hexadecimal digits) of one file."""

    bytes: int = Field(ge=0)
    xxh64: str


class _HashedFile(io.RawIOBase):
    """Writes through to `raw`, the file at `path`, front to back only, counting and hashing."""

    def __init__(self, raw: Any, path: str) -> None:
        self._raw = raw
        self._path = path
        self._hash = xxhash.xxh64()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with storage.explained(self._path):
            self._raw.write(data)
        self._hash.update(data)
        n = memoryview(data).nbytes
        self._bytes += n
        return n

    def tell(self) -> int:
        return self._bytes

    def info(self) -> FileInfo:
        return FileInfo(bytes=self._bytes, xxh64=self._hash.hexdigest())


class Sink:
    """A folder being filled. `files` holds size and hash of every file that was written whole."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, FileInfo] = {}

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
        self.files[name] = file.info()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with self.create(name) as file:
            file.write(data)


@contextlib.contextmanager
def publishing(out: str, request: str) -> Iterator[Sink]:
    """Yield a sink whose files appear at `out` together, or, when the body fails, not at all.

    request: names what is being made; an interrupted attempt at the same one is begun again. The body must write the
    manifest last. Raises RequestError when `out` exists.
    """
    if not storage.is_url(out):
        with storage.publishing(storage.local_path(out)) as folder:
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


def _claim(out: str, request: str) -> None:
    marker = storage.join(out, UNFINISHED_NAME)
    if storage.exists(out):
        whole = storage.exists(storage.join(out, MANIFEST_NAME))
        if whole or not storage.exists(marker) or storage.read_bytes(marker) != request.encode():
            raise RequestError(f"{out} exists and holds something else: choose another --out or remove it")
        _clear(out)
    storage.write_atomic(marker, request.encode())


def _clear(out: str) -> None:
    """Remove an unfinished folder; the file that says whose it is goes last."""
    for name in storage.names(out):
        if name != UNFINISHED_NAME:
            storage.remove(storage.join(out, name))
    storage.remove(storage.join(out, UNFINISHED_NAME))
