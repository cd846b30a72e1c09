"""Artifacts from one place to another: pushed to a store or the hub, pulled to a folder. One way for all of them.

Nothing is seen at the target before all of it has been held against its hashes: a folder is renamed into place, a
store gets its manifest last, the hub one commit. An interrupted transfer is gone on with by the same command.
"""

import contextlib
import functools
import io
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.progress import Progress
from ...common.publish import MANIFEST_NAME, FileInfo, Sink
from ..artifact import read_manifest
from ..carve import write_subset
from ..documents import DocumentStarts, table_files
from ..manifest import ExportManifest, Manifest
from ..without.found import WITHOUT_NAME
from .contents import Contents, View, contents_of, form_of
from .fetch import OTHER, Watch
from .folder import Folder
from .hub import Hub, pinned
from .store import Store

AT_ONCE = 4
"""Files that are on their way at a time."""


class Target(Protocol):
    """Where an artifact goes: `Folder`, `Store` or `Hub`, which say what each of these does there."""

    root: str

    def published(self) -> Manifest | ExportManifest | None: ...

    def claimed(self, request: str) -> Any: ...

    def add(self, name: str, info: FileInfo, source: str, watch: Watch) -> bool: ...

    def add_bytes(self, name: str, data: bytes) -> bool: ...

    def publish(self, text: bytes, names: Collection[str]) -> None: ...

    def tidy(self, request: str) -> None: ...


@dataclass(frozen=True)
class Transferred:
    """What a transfer did.

    Attributes:
        root: where the artifact is now.
        new: whether it was not there before.
        manifest: what it is.
        files: how many it has, the manifest apart.
        kept: files that an interrupted attempt had brought there already.
        bytes: of all files.
    """

    root: str
    new: bool
    manifest: Manifest | ExportManifest
    files: int
    kept: int
    bytes: int


def push(source: str, target: str, refer: str | None = None, public: bool = False, quiet: bool = True) -> Transferred:
    """Send the pool, subset or export at `source` to `target`.

    Args:
        source: folder or URL.
        target: folder, fsspec URL, or `hf://datasets/USER/NAME[@BRANCH][/FOLDER]`.
        refer: for a view of a pool, where that pool has been pushed to: the view goes there as a view of it. Without,
            a view gets the shards of its pool and stands alone; the fingerprint is the same.
        public: whether a data set of the hub that is made is seen by everybody.
        quiet: show no progress.

    Raises:
        RequestError: when something else is at `target`.
        WorkError: when a file of the source is damaged, or a store fails for good.
    """
    target = storage.absolute(_bare(target))
    return _transfer(source, _target(target, public), refer, "push", quiet)


def pull(source: str, folder: str, refer: str | None = None, quiet: bool = True) -> Transferred:
    """Bring the pool, subset or export at `source` to the local `folder`, which appears as a whole; as `push`.

    Raises:
        RequestError: when something else is at `folder`.
        WorkError: when what arrives is damaged, or a store fails for good.
    """
    if storage.is_url(folder):
        raise RequestError(f"{folder} is no folder of this machine: to send an artifact there, use push")
    return _transfer(source, Folder(storage.absolute(_bare(folder))), refer, "pull", quiet)


def _bare(place: str) -> str:
    """Return a path or URL without `/` at its end, but where that is all of it (`/`, `s3://`)."""
    bare = place.rstrip("/")
    return bare if bare and storage.is_url(bare) == storage.is_url(place) else place


def _target(root: str, public: bool) -> Target:
    if root.startswith("hf://"):
        return Hub(root, public)
    if public:
        raise RequestError(f"--public is for data sets of the hub: {root} is none")
    return Store(root) if storage.is_url(root) else Folder(root)


def _transfer(source: str, target: Target, refer: str | None, step: str, quiet: bool) -> Transferred:
    contents = contents_of(pinned(_bare(source)), target.root, refer)
    there = target.published()
    if there is not None:
        if form_of(there) != form_of(contents.manifest):
            raise RequestError(OTHER.format(target.root))
        target.tidy(contents.request())
        return _done(target, there, False, 0)
    with target.claimed(contents.request()), Progress(step, contents.bytes(), "bytes", quiet) as shown:
        watch = _Watch(shown)
        if contents.view is None:
            kept = _send_files(contents, target, watch)
            target.publish(contents.text, contents.manifest.files)
            return _done(target, contents.manifest, True, kept)
        return _send_view(contents, contents.view, target, watch)


def _done(target: Target, m: Manifest | ExportManifest, new: bool, kept: int) -> Transferred:
    return Transferred(target.root, new, m, len(m.files), kept, sum(info.bytes for info in m.files.values()))


class _Watch:
    """Shows the bytes that arrive on several threads, and stops these when the command ends early."""

    def __init__(self, shown: Progress) -> None:
        self._shown, self._lock = shown, threading.Lock()
        self.stopped = False

    def __call__(self, n: int) -> None:
        if self.stopped:
            raise WorkError("stopped")
        with self._lock:
            self._shown.advance(n)


def _send_files(contents: Contents, target: Target, watch: _Watch) -> int:
    """Send the files as they lie; return how many were there already."""

    def send(name: str) -> bool:
        return target.add(name, contents.manifest.files[name], storage.join(contents.root, name), watch)

    return sum(not sent for sent in _side_by_side(send, sorted(contents.manifest.files), watch))


def _side_by_side(work: Callable[[str], bool], names: list[str], watch: _Watch) -> list[bool]:
    """Return what `work` returns of each name, done on some threads; the first failure ends the others."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        futures = [threads.submit(work, name) for name in names]
        try:
            return [future.result() for future in as_completed(futures)]
        except BaseException:
            watch.stopped = True
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class _Sink(Sink):
    """Has the files of a subset that is being written go to a target, its manifest as the last."""

    def __init__(self, target: Target, watch: _Watch) -> None:
        super().__init__(target.root)
        self.kept = 0
        self._target, self._watch = target, watch

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[io.RawIOBase]:
        """Yield a new file to be written from front to back; it goes to the target as a whole."""
        with tempfile.TemporaryDirectory(prefix="epochal-") as folder:
            here = Sink(folder)
            with here.create(name) as file:
                yield file
            self.files |= here.files
            self.sha256 |= here.sha256
            self.kept += not self._target.add(name, here.files[name], storage.join(folder, name), self._watch)

    def _put(self, name: str, data: bytes) -> None:
        if name == MANIFEST_NAME:
            self._target.publish(data, self.files)
            return
        self.kept += not self._target.add_bytes(name, data)
        self._watch(len(data))


def _send_tables(view: View, sink: Sink) -> None:
    """Send the tables of a view that was carved without documents, which are its own, as they are."""
    files = read_manifest(view.root).files
    for name in (*table_files(files), WITHOUT_NAME):
        with storage.open_read(storage.join(view.root, name)) as file, sink.create(name) as target:
            shutil.copyfileobj(file, target)
        if sink.files[name] != files[name]:
            raise WorkError(f"{storage.join(view.root, name)} is damaged: its hash is not the manifest's; restore it")


def _send_view(contents: Contents, view: View, target: Target, watch: _Watch) -> Transferred:
    sink = _Sink(target, watch)
    manifest = cast(Manifest, contents.manifest)
    documents = DocumentStarts(view.pool.root, view.pool.manifest.files)
    tables = functools.partial(_send_tables, view)
    write_subset(sink, view.pieces, view.tail, manifest, view.pool, documents, tables)
    files = {name: info for name, info in sink.files.items() if name != MANIFEST_NAME}
    return _done(target, manifest.model_copy(update={"files": files}), True, sink.kept)
