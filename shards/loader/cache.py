"""Where the shards of an artifact lie on this machine: in place or, for an artifact at a URL, in the cache folder.

A shard in the cache is `<cache>/<fingerprint of the pool or subset that holds it>/shard.NNNNN.mds` (names that
`open_artifact` has checked), and gets this name only after its hash was found right. Subsets of one pool therefore
share what they have downloaded.
"""

import contextlib
import os
import uuid
from dataclasses import dataclass, replace

from filelock import FileLock

from ...common import hashing, storage
from ...common.errors import WorkError
from ...common.remote.patience import ATTEMPTS, patiently
from ..artifact import Artifact

CACHE_VARIABLE = "EPOCHAL_CACHE"


@dataclass(frozen=True)
class ShardFile:
    """A shard as it lies, or will lie, on this machine.

    Attributes:
        source: where it comes from, path or URL (for messages).
        path: the local file.
        samples: leading samples that belong to the artifact.
        bytes: of the whole file.
        xxh64: of the whole file.
    """

    source: str
    path: str
    samples: int
    bytes: int
    xxh64: str

    def matches(self) -> bool:
        """Return whether the local file has its size and hash, reading it from end to end.

        Raises:
            FileNotFoundError: when there is no such file.
        """
        return os.path.getsize(self.path) == self.bytes and hashing.xxh64_file(self.path) == self.xxh64


def default_cache() -> str:
    """Return the cache folder: $EPOCHAL_CACHE, or ~/.cache/epochal."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "epochal")


def shard_files(artifact: Artifact, cache: str | None) -> tuple[ShardFile, ...]:
    """Return the files of an artifact's shards, in place (`cache` is None) or in a cache folder."""
    return tuple(
        ShardFile(s.path, _cached(artifact, s.basename, cache) if cache else s.path, s.samples, s.bytes, s.xxh64)
        for s in artifact.shards
    )


def _cached(artifact: Artifact, basename: str, cache: str) -> str:
    folder, _, name = basename.rpartition("/")
    manifest = artifact.manifest
    owner = manifest.parent.fingerprint if folder and manifest.parent else manifest.fingerprint
    return os.path.join(os.path.abspath(cache), owner, name)


def download(file: ShardFile, attempts: int = ATTEMPTS) -> None:
    """Bring a shard into the cache, whole and with the right hash or not at all.

    Raises:
        WorkError: after `attempts` failures, or at once when the shard is not there any more.
    """
    os.makedirs(os.path.dirname(file.path), exist_ok=True)
    try:
        patiently(lambda: _fetch(file), f"download {file.source}", attempts, missing_too=True)
    except FileNotFoundError:
        raise WorkError(f"shard {file.source} is gone from where the artifact lies: restore it") from None


def _fetch(file: ShardFile) -> None:
    partial = replace(file, path=f"{file.path}.{uuid.uuid4().hex[:8]}.partial")
    try:
        storage.copy_file(file.source, partial.path)
        if not partial.matches():
            raise ValueError(f"what arrived does not have the xxh64 {file.xxh64}")
        os.replace(partial.path, file.path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial.path)


def in_cache(artifact: Artifact, cache: str) -> Artifact:
    """Return `artifact` with every shard on this machine: one at a URL has them in the cache folder, downloaded unless
    they are there whole.

    Raises:
        WorkError: when the work failed.
    """
    if not storage.is_url(artifact.root):
        return artifact
    files = shard_files(artifact, cache)
    folder = os.path.join(os.path.abspath(cache), artifact.manifest.fingerprint)
    os.makedirs(folder, exist_ok=True)
    with FileLock(os.path.join(folder, ".lock")):
        for file in files:
            if not (os.path.exists(file.path) and file.matches()):
                download(file)
    shards = zip(artifact.shards, files, strict=True)
    return replace(artifact, shards=tuple(replace(shard, path=file.path) for shard, file in shards))
