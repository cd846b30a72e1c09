"""From shards to samples: whatever reads an artifact reads it here, and every shard is held against its hash.

`SampleReader` reads samples by id from where they lie in their shards, `read_shard` a whole shard for those that go
through all of them once. `verify` alone does neither: it has to say what is wrong with each.
"""

import mmap
import os
import resource
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.hashing import xxh64
from .. import mds
from ..artifact import Artifact, Shard
from ..file_array import FileArray
from ..manifest import Manifest
from .cache import ShardFile, default_cache, download, shard_files


class SampleReader:
    """Random access to the samples of some shards, each `seq_len` tokens of `dtype` (`uint16` or `uint32`).

    Attributes:
        verify: compare each shard with its hash at its first opening: once for all processes forked from this one.
        fetch: called with a shard's number when its file is not there; without it a missing file is an error.
    """

    def __init__(
        self,
        shards: Sequence[ShardFile],
        seq_len: int,
        dtype: str,
        verify: bool = True,
        fetch: Callable[[int], None] | None = None,
    ) -> None:
        self.shards = shards
        self.seq_len = seq_len
        self.dtype = dtype
        self.ends = np.cumsum([s.samples for s in shards], dtype=np.int64)
        self._starts = self.ends - np.array([s.samples for s in shards], np.int64)
        self._verify = verify
        self._fetch = fetch
        self._sound = shared_array(len(shards), np.uint8)
        self._opened: dict[int, FileArray] = {}

    @classmethod
    def of(cls, artifact: Artifact, cache: str | None = None, verify: bool = True) -> "SampleReader":
        """Return a reader of an artifact: in place, or from a URL by way of a cache folder (by default
        `cache.default_cache`), into which a shard comes when a sample of it is first read."""
        m = artifact.manifest
        remote = any(storage.is_url(shard.path) for shard in artifact.shards)
        files = shard_files(artifact, (cache or default_cache()) if remote else None)
        return cls(files, m.seq_len, m.dtype, verify, partial(_download, files) if remote else None)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": {}, "_sound": self._sound.copy()}

    def locate(self, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shard and the row in it of each sample in `ids` (shape (k,)), two int64 arrays (k,)."""
        wanted = np.asarray(ids, np.int64)
        shards = np.searchsorted(self.ends, wanted, side="right")
        return shards, wanted - self._starts[shards]

    def read(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the tokens of each sample in `ids` (shape (k,)), int64 of shape (k, seq_len).

        Raises:
            WorkError: when a shard is gone, damaged, or cannot be fetched.
        """
        shards, rows = self.locate(ids)
        out = np.empty((len(shards), self.seq_len), np.int64)
        sample = np.empty(self.seq_len, np.dtype(self.dtype).newbyteorder("<"))
        for i, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            samples = self._opened.get(shard)
            (self._open(shard) if samples is None else samples).read_into(sample, row)
            out[i] = sample
        return out

    def check(self, ids: ArrayLike) -> None:
        """Open the shards of `ids` now: processes forked later need not hash them.

        Raises:
            WorkError: like `read`.
        """
        for shard in np.unique(self.locate(ids)[0]).tolist():
            if shard not in self._opened:
                self._open(shard)

    def keep_only(self, resident: Callable[[int], bool]) -> None:
        """Close shards that are not resident any more, so that the disk gets their space back."""
        for shard in [s for s in self._opened if not resident(s)]:
            del self._opened[shard]

    def _open(self, shard: int) -> FileArray:
        info = self.shards[shard]
        for _ in range(100 if self._fetch else 1):
            try:
                self._check(shard)
                samples = mds.open_shard(info.path, self.seq_len, self.dtype)
            except FileNotFoundError:
                if self._fetch is None:
                    break
                self._fetch(shard)  # another process may evict it before we open it: hence the loop
                continue
            if len(samples) < info.samples:
                raise WorkError(f"shard {info.path} has {len(samples)} samples, the index says {info.samples}")
            while len(self._opened) >= _max_open():
                del self._opened[next(iter(self._opened))]
            self._opened[shard] = samples
            return samples
        if self._fetch is None:
            raise WorkError(f"shard {info.path} is gone: restore it, or build or carve again")
        raise WorkError(f"shard {info.source} is evicted again and again before it is read: raise cache_limit")

    def _check(self, shard: int) -> None:
        """Compare a shard with its hash, unless that was done before."""
        if not self._verify or self._sound[shard]:
            return
        info = self.shards[shard]
        sound = info.matches()
        if not sound and self._fetch is not None:
            os.unlink(info.path)  # a copy in the cache: get it again
            self._fetch(shard)
            sound = info.matches()
        if not sound:
            raise WorkError(
                f"shard {info.path} is damaged: its xxh64 is not {info.xxh64}; restore it, or build or carve again"
            )
        self._sound[shard] = 1


def _download(files: Sequence[ShardFile], shard: int) -> None:
    download(files[shard])


def read_shard(shard: Shard, manifest: Manifest) -> mds.Samples:
    """Return the samples of a shard that belong to the artifact of `manifest`, shape (samples, seq_len).

    The file is read whole from where it lies, path or URL.

    Raises:
        WorkError: when it is not what the index says.
    """
    return mds.decode_shard(read_checked(shard), manifest.seq_len, manifest.dtype)[: shard.samples]


def read_checked(shard: Shard) -> bytes:
    """Return the bytes of a shard file.

    Raises:
        WorkError: when they are not what the index says.
    """

    def problem(data: bytes) -> str | None:
        whole = len(data) == shard.bytes and xxh64(data) == shard.xxh64
        return None if whole else "is damaged (its hash differs): restore it or build the pool again"

    try:
        data = storage.read_bytes(shard.path, problem)
    except FileNotFoundError:
        raise WorkError(f"shard {shard.path} is missing: restore it or build the pool again") from None
    if wrong := problem(data):
        raise WorkError(f"shard {shard.path} {wrong}")
    return data


def shared_array(n: int, dtype: type) -> NDArray:
    """Return zeros of shape (n,) that forked processes share. The memory has no name, so nothing can be left over."""
    return np.frombuffer(mmap.mmap(-1, max(1, n) * np.dtype(dtype).itemsize), dtype)[:n]


def _max_open() -> int:
    """Return how many shards stay open: half of the file descriptors that are allowed are ours."""
    return max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
