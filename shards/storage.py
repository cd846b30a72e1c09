"""Where artifacts lie: local folders and fsspec URLs, read alike; published whole or not at all."""

import contextlib
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from .errors import RequestError


def is_url(path: str) -> bool:
    """Return whether `path` names an fsspec file system (`s3://...`); `file://` counts as local."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """Return `path` without `file://`."""
    return path.removeprefix("file://")


def filesystem(protocol: str) -> Any:
    """Return the fsspec file system of `protocol`; credentials come from the environment as fsspec documents.

    fsspec keeps the instances itself, one set a process: one that was inherited through fork would refuse to work.
    """
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise RequestError(f"cannot open {protocol}:// here: {error}") from None


def join(root: str, name: str) -> str:
    """Return `root/name` with `..` resolved, for local paths and URLs."""
    if is_url(root):
        protocol, rest = root.split("://", 1)
        return f"{protocol}://{posixpath.normpath(posixpath.join(rest, name))}"
    return os.path.normpath(os.path.join(local_path(root), name))


def exists(path: str) -> bool:
    """Return whether a file or folder is at `path`."""
    if is_url(path):
        return bool(filesystem(path.split("://", 1)[0]).exists(path))
    return os.path.exists(local_path(path))


def read_bytes(path: str) -> bytes:
    """Return the bytes of the file at `path` (local or URL). Raises FileNotFoundError."""
    if is_url(path):
        return bytes(filesystem(path.split("://", 1)[0]).cat_file(path))
    with open(local_path(path), "rb") as f:
        return f.read()


def copy_file(source: str, target: str) -> None:
    """Copy the file at `source` (local or URL) to the local path `target`. Raises FileNotFoundError."""
    if is_url(source):
        filesystem(source.split("://", 1)[0]).get_file(source, target)
    else:
        shutil.copyfile(local_path(source), target)


def write_atomic(path: str, data: bytes) -> None:
    """Write a local file so that readers see the old one or the new one, never a part."""
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def publishing(target: str) -> Iterator[str]:
    """Yield a new folder beside `target`; on success rename it to `target`, on failure remove it.

    Raises RequestError when `target` exists: nothing of the user's is ever replaced.
    """
    if os.path.exists(target):
        raise RequestError(f"{target} exists and holds something else: choose another --out or remove it")
    parent, name = os.path.split(os.path.abspath(target))
    os.makedirs(parent, exist_ok=True)
    folder = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
    os.mkdir(folder)
    try:
        yield folder
        if os.path.exists(target):
            raise RequestError(f"{target} appeared meanwhile: choose another --out or remove it")
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
