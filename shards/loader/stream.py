"""An artifact as one of StreamingDataset's streams: where its shards come from and where they lie locally.

Stock streams join the index's file names to the cache folder unchecked, so `../../pools/toy/shard.00000.mds` of a view
would leave it, and they keep a download that fails its hash, to be served the next time. Here a shard in the cache is
`<cache>/<fingerprint of the pool or subset that holds it>/shard.NNNNN.mds` (names that `open_artifact` has checked),
and gets this name only after its hash was found right. Subsets of one pool therefore share what they have downloaded.
"""

import contextlib
import glob
import os
import time
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from streaming.base.format.base.reader import Reader
from streaming.base.format.mds.reader import MDSReader
from streaming.base.stream import Stream
from streaming.base.world import World

from ...common import storage
from ...common.errors import WorkError
from .. import mds
from ..artifact import Artifact
from .sample_reader import ShardFile

CACHE_VARIABLE = "EPOCHAL_CACHE"
_STALE_SECONDS = 6 * 3600


def default_cache() -> str:
    """Return the cache folder: $EPOCHAL_CACHE, or ~/.cache/epochal."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache", "epochal")


class ArtifactStream(Stream):
    """The shards of `artifact`, read in place (`cache` is None) or through a cache folder.

    attempts: how often a download is tried before it is an error.
    """

    def __init__(self, artifact: Artifact, cache: str | None, attempts: int = 5) -> None:
        self.artifact = artifact
        self.attempts = attempts
        self.cache = None if cache is None else os.path.abspath(cache)
        # A folder of its own: stock code refuses two streams with the same one.
        own = artifact.root if self.cache is None else os.path.join(self.cache, artifact.manifest.fingerprint)
        super().__init__(local=own, keep_zip=False)
        self.files = tuple(self._file(i) for i in range(len(artifact.shards)))
        self._by_name = {os.path.relpath(f.path, self.local): f for f in self.files}

    def _file(self, i: int) -> ShardFile:
        shard, manifest = self.artifact.shards[i], self.artifact.manifest
        path = shard.path
        if self.cache is not None:
            folder, _, name = shard.basename.rpartition("/")
            owner = manifest.parent.fingerprint if folder and manifest.parent else manifest.fingerprint
            path = os.path.join(self.cache, owner, name)
        return ShardFile(shard.path, path, shard.samples, shard.bytes, shard.xxh64)

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Reader]:
        """Return a reader for each shard. No file is touched.

        Each counts as one sample here: StreamingDataset then manages shards, and builds no table of all samples.
        """
        config = mds.shard_config(self.artifact.manifest.seq_len, self.artifact.manifest.dtype)
        return [MDSReader.from_json(self.local, None, config | _entry(name, f)) for name, f in self._by_name.items()]

    def set_up_local(self, shards: list[Reader], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Note which shards the cache has; remove files of a wrong size and what killed downloads left."""
        if self.cache is None:
            return
        for i, file in enumerate(self.files):
            with contextlib.suppress(FileNotFoundError):
                if os.path.getsize(file.path) == file.bytes:
                    cache_usage_per_shard[i] = file.bytes
                else:
                    os.unlink(file.path)
        for leftover in glob.glob(os.path.join(glob.escape(self.cache), "*", "*.partial")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.path.getmtime(leftover) > _STALE_SECONDS:
                    os.unlink(leftover)

    def get_index_size(self) -> int:
        """Return 0: the index is not kept in the cache."""
        return 0

    def fetch(self, shard: int) -> None:
        """Bring shard number `shard` into the cache; raises like `_download_file`."""
        self._download_file(os.path.relpath(self.files[shard].path, self.local))

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        """Bring a shard into the cache, whole and with the right hash or not at all; return its local path.

        Raises WorkError after `attempts` failures, or at once when the shard is not there any more.
        """
        file = self._by_name[from_basename]
        os.makedirs(os.path.dirname(file.path), exist_ok=True)
        try:
            storage.patiently(lambda: _fetch(file), f"download {file.source}", self.attempts)
        except FileNotFoundError:
            raise WorkError(f"shard {file.source} is gone from where the artifact lies: restore it") from None
        return file.path


def in_cache(artifact: Artifact, cache: str) -> Artifact:
    """Return `artifact` with every shard on this machine: one at a URL has them in the cache folder, downloaded unless
    they are there whole. Raises WorkError."""
    if not storage.is_url(artifact.root):
        return artifact
    stream = ArtifactStream(artifact, cache)
    os.makedirs(stream.local, exist_ok=True)
    with FileLock(os.path.join(stream.local, ".lock")):
        for i, file in enumerate(stream.files):
            if not _whole(file):
                stream.fetch(i)
    shards = zip(artifact.shards, stream.files, strict=True)
    return replace(artifact, shards=tuple(replace(shard, path=file.path) for shard, file in shards))


def _whole(file: ShardFile) -> bool:
    return os.path.exists(file.path) and mds.xxh64_file(file.path) == file.xxh64


def _entry(name: str, file: ShardFile) -> dict[str, Any]:
    raw = {"basename": name, "bytes": file.bytes, "hashes": {"xxh64": file.xxh64}}
    return {"raw_data": raw, "zip_data": None, "samples": 1}


def _fetch(file: ShardFile) -> None:
    temporary = f"{file.path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        storage.copy_file(file.source, temporary)
        if os.path.getsize(temporary) != file.bytes or mds.xxh64_file(temporary) != file.xxh64:
            raise ValueError(f"what arrived does not have the xxh64 {file.xxh64}")
        os.replace(temporary, file.path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
