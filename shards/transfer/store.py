"""An object store as the target: files first, each read back and held against its hash, the manifest last."""

import contextlib
from collections.abc import Collection, Iterator

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.publish import MANIFEST_NAME, UNFINISHED_NAME, FileInfo
from ..artifact import read_any_manifest
from ..manifest import ExportManifest, Manifest
from .fetch import OTHER, Watch, at_hand


class Store:
    """The folder at the URL `root`. Until its manifest is there, a file named `unfinished` says what is being made."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._there: set[str] = set()

    def published(self) -> Manifest | ExportManifest | None:
        """Return what is there; None for nothing, or an unfinished transfer.

        Raises:
            RequestError: when something else is there.
        """
        self._there = set(storage.files_below(self.root)) if storage.exists(self.root) else set()
        if MANIFEST_NAME not in self._there and (not self._there or UNFINISHED_NAME in self._there):
            return None
        if MANIFEST_NAME not in self._there:
            raise RequestError(OTHER.format(self.root))
        return read_any_manifest(self.root)

    @contextlib.contextmanager
    def claimed(self, request: str) -> Iterator[None]:
        """Say in the store what is being made, and take over what an attempt at the same has left.

        Raises:
            RequestError: when something else is being made there.
        """
        marker = storage.join(self.root, UNFINISHED_NAME)
        if UNFINISHED_NAME not in self._there:
            storage.write_atomic(marker, request.encode())
        elif storage.read_bytes(marker) != request.encode():
            raise RequestError(
                f"{self.root} holds an unfinished transfer of something else: choose another place or remove it"
            )
        yield

    def add(self, name: str, info: FileInfo, source: str, watch: Watch) -> bool:
        """Send the file at `source` (local or URL); return False where it is there already, whole."""
        target = storage.join(self.root, name)
        if self._holds(name, info):
            watch(info.bytes)
            return False
        with at_hand(source, info, watch) as path:
            storage.upload(path, target)
        self._check(target, info)
        return True

    def add_bytes(self, name: str, data: bytes) -> bool:
        """Write a file that is at hand; return False where it is there already, whole."""
        info, target = FileInfo.of(data), storage.join(self.root, name)
        if self._holds(name, info):
            return False
        storage.write_atomic(target, data)
        self._check(target, info)
        return True

    def publish(self, text: bytes, names: Collection[str]) -> None:
        """Write the manifest, which vouches for the files of these names; others of an earlier attempt are removed."""
        for name in self._there - {*names, MANIFEST_NAME, UNFINISHED_NAME}:
            storage.remove(storage.join(self.root, name))
        self.add_bytes(MANIFEST_NAME, text)
        with contextlib.suppress(WorkError):  # the artifact is whole, and the next attempt removes it
            storage.remove(storage.join(self.root, UNFINISHED_NAME))

    def tidy(self, request: str) -> None:
        """Remove what an attempt left that was killed after the manifest was written."""
        if UNFINISHED_NAME in self._there:
            storage.remove(storage.join(self.root, UNFINISHED_NAME))

    def _holds(self, name: str, info: FileInfo) -> bool:
        if name not in self._there:
            return False
        try:
            return storage.file_digest(storage.join(self.root, name)) == (info.bytes, info.xxh64)
        except FileNotFoundError:
            return False

    def _check(self, target: str, info: FileInfo) -> None:
        """Raise WorkError when the store does not give back what it was given."""
        try:
            found = storage.file_digest(target, (info.bytes, info.xxh64))
        except FileNotFoundError:
            found = (0, "")
        if found != (info.bytes, info.xxh64):
            raise WorkError(f"{target} is not what was sent: the store gave back other bytes; run the command again")
