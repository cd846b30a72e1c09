"""A file from anywhere to this machine: never more bytes than its manifest says, held against its hash, resumable."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

from ...common import storage
from ...common.errors import WorkError
from ...common.hashing import FileHash, stream_hash
from ...common.publish import FileInfo
from ...common.remote.patience import ATTEMPTS, patiently

_PIECE = 1 << 22

Watch = Callable[[int], None]
"""Told how many bytes have arrived, negative where they have to be fetched again; it may raise to stop."""


OTHER = "{} exists and holds something else: choose another place or remove it"
"""Said of a target that is in use."""


def fetch(source: str, part: str, info: FileInfo, watch: Watch = lambda n: None) -> None:
    """Copy the file at `source` (local or URL) to the local path `part`, which may hold its beginning already.

    Args:
        source: see above.
        part: see above; removed when what arrived is not the file.
        info: size and hash of the file. Reading ends one byte after that size, whatever is sent.
        watch: see `Watch`.

    Raises:
        WorkError: when there is no such file, or only another one.
    """

    def attempt() -> None:
        hashed = _beginning(part, info)
        watch(hashed.bytes)
        try:
            _append(source, part, info, hashed, watch)
        except BaseException:
            watch(-hashed.bytes)
            raise
        if (hashed.bytes, hashed.hexdigest()) != (info.bytes, info.xxh64):
            watch(-hashed.bytes)
            os.unlink(part)
            raise (
                WorkError(damaged(source)) if not storage.is_url(source) else OSError("its hash is not the manifest's")
            )

    try:
        patiently(attempt, f"read {source}", ATTEMPTS if storage.is_url(source) else 1, missing_too=True)
    except FileNotFoundError:
        raise WorkError(f"{source} is missing: restore it") from None


def damaged(source: str) -> str:
    """Return what is said of a file that is not the one in its manifest."""
    return f"{source} is damaged: its hash is not the manifest's; restore it"


def _beginning(part: str, info: FileInfo) -> FileHash:
    """Return the hash of what an attempt before this one left in `part`; nothing where that cannot be a beginning."""
    if not os.path.exists(part):
        return FileHash()
    with open(part, "rb") as f:
        hashed = stream_hash(f)
    if hashed.bytes <= info.bytes:
        return hashed
    os.unlink(part)
    return FileHash()


def _append(source: str, part: str, info: FileInfo, hashed: FileHash, watch: Watch) -> None:
    with storage.naming(part), storage.open_read(source) as f, open(part, "ab") as out:
        f.seek(hashed.bytes)
        while hashed.bytes <= info.bytes and (piece := f.read(min(_PIECE, info.bytes + 1 - hashed.bytes))):
            out.write(piece)
            watch(hashed.add(piece))


@contextlib.contextmanager
def at_hand(source: str, info: FileInfo, watch: Watch = lambda n: None) -> Iterator[str]:
    """Yield the path of a local file with the bytes of the one at `source` (local or URL), which have that hash.

    Raises:
        WorkError: when there is no such file, or only another one.
    """
    if storage.is_url(source):
        with tempfile.TemporaryDirectory(prefix="epochal-") as folder:
            part = os.path.join(folder, "part")
            fetch(source, part, info, watch)
            yield part
        return
    try:
        if FileInfo.at(source) != info:
            raise WorkError(damaged(source))
    except FileNotFoundError:
        raise WorkError(f"{source} is missing: restore it") from None
    watch(info.bytes)
    yield storage.local_path(source)
