"""Where artifacts lie: local folders and fsspec URLs, read alike; a file is written whole or not at all."""

import contextlib
import functools
import inspect
import io
import os
import posixpath
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .errors import FULL, EpochalError, RequestError, WorkError, one_line
from .hashing import stream_hash
from .remote import web
from .remote.patience import ATTEMPTS, look_again, patiently
from .remote.patient_file import PatientFile

T = TypeVar("T")

PACKAGES = {"s3": "s3fs=={}", "gs": "gcsfs=={}", "gcs": "gcsfs=={}", "hf": "huggingface_hub", "az": "adlfs"}
"""What has to be installed for URLs of a protocol; {} is the version of fsspec, which some of them have to share."""


def is_url(path: str) -> bool:
    """Return whether `path` names an fsspec file system (`s3://...`); `file://` counts as local."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """Return `path` without `file://`, and with the home folder for a leading `~/`: in YAML and in `key=~/x` no shell
    has put it there."""
    path = path.removeprefix("file://")
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def absolute(path: str) -> str:
    """Return a local path from the root of its file system; a URL as it is."""
    return path if is_url(path) else os.path.abspath(local_path(path))


def filesystem(protocol: str) -> Any:
    """Return the fsspec file system of `protocol`; credentials come from the environment as fsspec documents.

    fsspec keeps the instances itself, one set a process: one that was inherited through fork would refuse to work.
    """
    import fsspec

    try:
        _, *needed = inspect.signature(fsspec.get_filesystem_class(protocol).__init__).parameters.values()
        if any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in needed):
            raise RequestError(f"cannot open {protocol}:// here: it needs more than a URL holds (a host, say)")
        return fsspec.filesystem(protocol)
    except ImportError:
        package = PACKAGES.get(protocol)
        mend = f"pip install {package.format(fsspec.__version__)}" if package else "install its fsspec package"
        raise RequestError(f"cannot open {protocol}:// here: {mend}") from None
    except ValueError as error:
        raise RequestError(f"cannot open {protocol}:// here: {error}") from None


def store_of(path: str) -> Any:
    """Return the fsspec file system of a URL; see `filesystem`."""
    return filesystem(path.split("://", 1)[0])


def join(root: str, name: str) -> str:
    """Return `root/name` with `..` resolved, for local paths and URLs; `name` itself where that is a URL."""
    if is_url(name):
        return name
    if is_url(root):
        protocol, rest = root.split("://", 1)
        return f"{protocol}://{posixpath.normpath(posixpath.join(rest, name))}"
    return os.path.normpath(os.path.join(local_path(root), name))


def exists(path: str) -> bool:
    """Return whether a file or folder is at `path`. A store's "no" is believed when it has said so three times."""
    if not is_url(path):
        return os.path.exists(local_path(path))
    try:  # fsspec's own `exists` takes any failure for "no"
        look_again(lambda: patiently(lambda: _information(path), f"look for {path}", ATTEMPTS))
    except FileNotFoundError:
        return False
    return True


def _information(path: str) -> dict[str, Any]:
    """Return what the store of a URL says of it now."""
    store = store_of(path)
    store.invalidate_cache(posixpath.dirname(path))
    info: dict[str, Any] = store.info(path)
    return info


def read_bytes(path: str, problem: Callable[[bytes], str | None] | None = None, may_lack: bool = False) -> bytes:
    """Return the bytes of the file at `path`, local or at a URL, where it is asked for until they are right.

    Args:
        path: see above.
        problem: says what is wrong with the bytes that a store sent, None when nothing is. Bytes that stay wrong are
            returned as they are, as those of a disk are: whoever asked says what to do.
        may_lack: there may be no such file, so that a store which says so three times is believed.

    Raises:
        FileNotFoundError: when there is no such file.
        WorkError: when a store does not send it.
    """
    if is_url(path):
        sent: list[bytes] = []

        def fetch() -> bytes:
            data = bytes(store_of(path).cat_file(path))
            wrong = problem(data) if problem else None
            if wrong:
                sent.append(data)
                raise OSError(wrong)
            return data

        try:
            if may_lack:
                return look_again(lambda: patiently(fetch, f"read {path}", ATTEMPTS))
            return patiently(fetch, f"read {path}", ATTEMPTS, missing_too=True)
        except WorkError:
            if sent:
                return sent[-1]
            raise
    with open(regular_path(path), "rb") as f:
        return f.read()


def regular_path(path: str) -> str:
    """Return the local path of a file. A device or a pipe, which may never end or never begin, is refused.

    Raises:
        FileNotFoundError: when there is no such file.
        RequestError: for what is no regular file.
    """
    path = local_path(path)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise RequestError(f"{path} is no regular file (a device or a pipe): refused")
    return path


def open_read(path: str, size: int | None = None) -> Any:
    """Return the file at `path` (local or URL) opened to read bytes anywhere in it; a store that fails is asked again.

    Args:
        path: see above.
        size: in bytes, as the listing of the store said: other answers count as failed. None: it is not known.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    if is_url(path):
        return patient(lambda: store_of(path).open(path, "rb", **web.checks(path, size)), path, size)
    return open(regular_path(path), "rb")


def patient(open_it: Callable[[], Any], name: str, size: int | None = None) -> Any:
    """Return the file that `open_it` opens, which a store sends; opened again where it fails.

    Args:
        open_it: see above.
        name: of the file, for messages.
        size: as `open_read` takes it.
    """
    raw = PatientFile(open_it, lambda action: patiently(action, f"read {name}", ATTEMPTS, missing_too=True), size)
    return io.BufferedReader(raw, 1 << 20)


def open_write(path: str) -> Any:
    """Return a new file at `path` (local or URL) opened to write bytes from front to back."""
    if is_url(path):
        return store_of(path).open(path, "wb")
    return open(local_path(path), "wb")


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Have the error of a full disk, which names no file when it comes while one is written, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = path
        raise


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise WorkError of one line for what a store's client raises while the body writes `path`; local errors pass."""
    try:
        yield
    except EpochalError:
        raise
    except Exception as error:  # every store has exceptions of its own
        if not is_url(path):
            with naming(path):
                raise
        raise WorkError(f"cannot write {path}: {one_line(error)}") from error


def discard(file: Any) -> None:
    """Close a file from `open_write` whose writing failed; a store then has no object of it, not even a part."""
    if hasattr(file, "discard"):
        with contextlib.suppress(Exception):
            file.discard()
        with contextlib.suppress(AttributeError):
            file.closed = True  # closing it would store what it has
    else:
        file.close()


def file_digest(path: str, expected: tuple[int, str] | None = None, size: int | None = None) -> tuple[int, str]:
    """Return size in bytes and xxh64 of the file at `path` (local or URL), read in pieces.

    Args:
        path: see above.
        expected: what they should be; a store that sends something else is asked again.
        size: where only that is known, as `open_read` takes it.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    for _ in range(ATTEMPTS if expected and is_url(path) else 1):
        with open_read(path, size) as f:
            hashed = stream_hash(f)
        found = hashed.bytes, hashed.hexdigest()
        if found == expected:
            break
    return found


def stamp(path: str) -> str:
    """Return what changes when the file at `path` (local or URL) does, known without reading it: size and time of
    change, or the version that a store says; empty where it says none.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    if not is_url(path):
        info = os.stat(local_path(path))
        return f"{info.st_size} {info.st_mtime_ns}"
    return version(patiently(lambda: _information(path), f"look for {path}", ATTEMPTS, missing_too=True))


def version(info: dict[str, Any]) -> str:
    """Return size and version of an object, given what its store says of it; empty where it says no version."""
    mark = next((info[name] for name in ("ETag", "etag", "md5Hash", "blob_id") if info.get(name)), None)
    return "" if mark is None else f"{info.get('size')} {str(mark).strip(chr(34))}"


def upload(source: str, target: str) -> None:
    """Copy the local file `source` to the URL `target`: readers there see the old file or the new one, never a part.

    Raises:
        WorkError: when the store does not take it.
        RequestError: when there is no such bucket.
    """
    make_object(lambda: store_of(target).put_file(source, target), target)


def make_object(action: Callable[[], Any], target: str) -> None:
    """Do what makes the object at URL `target`, again when it fails: an object is replaced whole or not at all.

    Raises:
        WorkError: when the store does not take it.
        RequestError: when there is no such bucket.
    """
    try:
        patiently(action, f"write {target}", ATTEMPTS)
    except FileNotFoundError as error:
        raise RequestError(f"cannot write {target}: {one_line(error)}") from None


def remove(path: str) -> None:
    """Remove the file or folder at `path` (local or URL), if it is there."""
    if is_url(path):
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: store_of(path).rm(path, recursive=True), f"remove {path}", ATTEMPTS)
    elif os.path.isdir(local_path(path)):
        shutil.rmtree(local_path(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(local_path(path))


def names(folder: str) -> list[str]:
    """Return the names of what lies in a folder (local or URL), sorted; none when there is no such folder."""
    try:
        if is_url(folder):
            found = (posixpath.basename(path.rstrip("/")) for path in _listed(folder, detail=False))
            return sorted(name for name in found if name)
        return sorted(os.listdir(local_path(folder)))
    except FileNotFoundError:
        return []


def sizes(folder: str) -> dict[str, int]:
    """Return the size in bytes of each file in a folder (local or URL); none when there is no such folder."""
    try:
        if is_url(folder):
            files = [info for info in _listed(folder, detail=True) if info["type"] == "file"]
            return {posixpath.basename(info["name"]): info["size"] for info in files}
        return {entry.name: entry.stat().st_size for entry in os.scandir(local_path(folder)) if entry.is_file()}
    except FileNotFoundError:
        return {}


def _listed(folder: str, detail: bool) -> Any:
    """Return what a store says lies in the folder at a URL."""
    # Another process may have written there since this one looked.
    listed = functools.partial(store_of(folder).ls, folder, detail=detail, refresh=True)
    return look_again(lambda: patiently(listed, f"list {folder}", ATTEMPTS))


def files_below(folder: str) -> list[str]:
    """Return the files in a folder (local or URL) and its folders, as paths from there, sorted."""
    if is_url(folder):
        store = store_of(folder)
        root = store._strip_protocol(folder).rstrip("/")
        paths = patiently(lambda: store.find(folder, refresh=True), f"list {folder}", ATTEMPTS)
        return sorted(path.removeprefix(root).lstrip("/") for path in paths)
    root = local_path(folder)
    return sorted(os.path.relpath(os.path.join(where, name), root) for where, _, here in os.walk(root) for name in here)


def read_ranges(spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Return bytes `start` to `stop` of the file at each URL, (URL, start, stop), fetched side by side."""
    found: list[bytes] = [b""] * len(spans)
    wanted = [i for i, (_, start, stop) in enumerate(spans) if stop > start]
    if wanted:
        paths, starts, stops = zip(*(spans[i] for i in wanted), strict=True)
        store = store_of(paths[0])

        def fetch() -> None:
            pieces = store.cat_ranges(list(paths), list(starts), list(stops), on_error="raise")
            for i, data in zip(wanted, pieces, strict=True):
                if len(data) != spans[i][2] - spans[i][1]:
                    raise OSError(f"{spans[i][0]} ends early: {len(data)} bytes from {spans[i][1]} on")
                found[i] = data

        patiently(fetch, f"read {paths[0]}", ATTEMPTS, missing_too=True)
    return found


def copy_file(source: str, target: str) -> None:
    """Copy the file at `source` (local or URL) to the local path `target`.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    if is_url(source):
        store_of(source).get_file(source, target)
    else:
        shutil.copyfile(regular_path(source), target)


@contextlib.contextmanager
def publishing_file(path: str, flush: bool = False) -> Iterator[str]:
    """Yield the path of a new local file; when the body succeeds it is published as `path` (local or URL), so that
    readers see the old file or the new one, never a part.

    Args:
        flush: have the disk hold it first.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="epochal-") as folder:
            temporary = os.path.join(folder, posixpath.basename(path))
            yield temporary
            upload(temporary, path)
        return
    path = local_path(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with naming(path):
            yield temporary
        if flush:
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_atomic(path: str, data: bytes, flush: bool = True) -> None:
    """Write a file (local or URL) so that readers see the old one or the new one, never a part."""
    if is_url(path):
        make_object(lambda: store_of(path).pipe_file(path, data), path)
        return
    with publishing_file(path, flush) as temporary, open(temporary, "wb") as f:
        f.write(data)
