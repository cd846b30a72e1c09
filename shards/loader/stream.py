"""An artifact as one of StreamingDataset's streams: where its shards come from and where they lie locally.

Stock streams join the index's file names to the cache folder unchecked, so `../../pools/toy/shard.00000.mds` of a view
would leave it, and they keep a download that fails its hash, to be served the next time. Here shards lie where
cache.py says.
"""

import contextlib
import glob
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.format.base.reader import Reader
from streaming.base.format.mds.reader import MDSReader
from streaming.base.stream import Stream
from streaming.base.world import World

from .. import mds
from ..artifact import Artifact
from .cache import ShardFile, download, shard_files

_STALE_SECONDS = 6 * 3600


class ArtifactStream(Stream):
    """The shards of `artifact`, read in place (`cache` is None) or through a cache folder.

    Attributes:
        attempts: how often a download is tried before it is an error.
    """

    def __init__(self, artifact: Artifact, cache: str | None, attempts: int = 5) -> None:
        self.artifact = artifact
        self.attempts = attempts
        self.cache = None if cache is None else os.path.abspath(cache)
        # A folder of its own: stock code refuses two streams with the same one.
        own = artifact.root if self.cache is None else os.path.join(self.cache, artifact.manifest.fingerprint)
        super().__init__(local=own, keep_zip=False)
        self.files = shard_files(artifact, self.cache)
        self._by_name = {os.path.relpath(f.path, self.local): f for f in self.files}

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

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        """Bring a shard into the cache, whole and with the right hash or not at all; return its local path.

        Raises WorkError after `attempts` failures, or at once when the shard is not there any more.
        """
        file = self._by_name[from_basename]
        download(file, self.attempts)
        return file.path


def _entry(name: str, file: ShardFile) -> dict[str, Any]:
    raw = {"basename": name, "bytes": file.bytes, "hashes": {"xxh64": file.xxh64}}
    return {"raw_data": raw, "zip_data": None, "samples": 1}
