"""A local folder as the target: filled in a hidden one beside it, which an interrupted attempt leaves to the next."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator

from ...common import storage
from ...common.errors import RequestError
from ...common.hashing import digest
from ...common.publish import MANIFEST_NAME, FileInfo
from ..artifact import is_artifact, read_any_manifest
from ..manifest import ExportManifest, Manifest
from .fetch import OTHER, Watch, fetch


class Folder:
    """The folder `root`, which appears as a whole when all of it has been checked."""

    def __init__(self, root: str) -> None:
        self.root = root
        parent, name = os.path.split(root)
        self._work = os.path.join(parent, f".{name}.partial")
        self._whole = os.path.join(self._work, "whole")

    def published(self) -> Manifest | ExportManifest | None:
        """Return what is there; None for nothing, or an empty folder.

        Raises:
            RequestError: when something else is there, or the place lies in another artifact.
        """
        if within := next((p for p in _above(self.root) if is_artifact(p)), None):
            raise RequestError(
                f"{self.root} lies in the artifact {within}, which would not be whole: choose a place beside"
            )
        empty = os.path.isdir(self.root) and not os.path.islink(self.root) and not os.listdir(self.root)
        if empty or not os.path.lexists(self.root):
            return None
        if not os.path.isfile(os.path.join(self.root, MANIFEST_NAME)):
            raise RequestError(OTHER.format(self.root))
        return read_any_manifest(self.root)

    @contextlib.contextmanager
    def claimed(self, request: str) -> Iterator[None]:
        """Have the hidden folder for this process alone, while the body runs.

        Raises:
            RequestError: when another process has it.
        """
        with _locked(self._work, self.root):
            os.makedirs(self._whole, exist_ok=True)
            yield

    def add(self, name: str, info: FileInfo, source: str, watch: Watch) -> bool:
        """Copy the file at `source` (local or URL); return False where it is there already, whole."""
        path = os.path.join(self._whole, name)
        if _is(path, info):
            watch(info.bytes)
            return False
        part = self._part(name)
        fetch(source, part, info, watch)
        self._move(part, path)
        return True

    def add_bytes(self, name: str, data: bytes) -> bool:
        """Write a file that is at hand; return False where it is there already, whole."""
        path = os.path.join(self._whole, name)
        if _is(path, FileInfo.of(data)):
            return False
        part = self._part(name)
        with storage.naming(part), open(part, "wb") as f:
            f.write(data)
        self._move(part, path)
        return True

    def publish(self, text: bytes, names: Collection[str]) -> None:
        """Let the folder appear, with the manifest and the files of these names.

        Raises:
            RequestError: when something has appeared there meanwhile.
        """
        for name in storage.files_below(self._whole):
            if name not in names:
                os.unlink(os.path.join(self._whole, name))
        self.add_bytes(MANIFEST_NAME, text)
        try:
            os.rename(self._whole, self.root)
        except OSError as error:
            if not os.path.lexists(self.root):
                raise
            raise RequestError(f"{self.root} appeared meanwhile: choose another folder or remove it") from error
        shutil.rmtree(self._work, ignore_errors=True)

    def tidy(self, request: str) -> None:
        """Remove what an attempt left that was killed after the folder had appeared."""
        if os.path.isdir(self._work):
            with contextlib.suppress(RequestError), _locked(self._work, self.root):
                shutil.rmtree(self._work, ignore_errors=True)

    def _part(self, name: str) -> str:
        return os.path.join(self._work, f"{digest(name)}.part")

    def _move(self, part: str, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(part, path)


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the nearest first."""
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _is(path: str, info: FileInfo) -> bool:
    """Return whether the local file at `path` is that one; another size is no reason to read it."""
    return os.path.isfile(path) and os.path.getsize(path) == info.bytes and FileInfo.at(path) == info


@contextlib.contextmanager
def _locked(folder: str, out: str) -> Iterator[None]:
    """Hold the lock of a local folder, which is made where it is missing; a process that dies loses it."""
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have published and removed the folder since it was opened here.
            mine = os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise RequestError(f"another command is writing {out}: let it end, or choose another folder")
        yield
    finally:
        os.close(descriptor)
