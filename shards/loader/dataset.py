"""The dataset of a run: StreamingDataset's downloads and cache under the order of a Plan.

A run is one epoch. Global batch b holds the positions [b * G, (b + 1) * G) whatever the ranks and workers; a rank reads
its share of them (see `order.shares`), and of its batches worker w of W reads every W-th, which is the order in which a
DataLoader asks its workers.
"""

import atexit
import contextlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch.distributed as dist
from filelock import FileLock
from numpy.typing import NDArray
from streaming.base.dataset import StreamingDataset, _ShardState
from streaming.base.distributed import get_world_size, maybe_init_dist
from streaming.base.shared import SharedMemory
from torch.utils.data import DataLoader

from ...common import storage
from ...common.errors import RequestError
from ..order.base import Order
from ..order.shares import Share
from ..order.stored import checked_position, position_in, state_of
from .agreement import agree, one_at_a_time
from .cache import default_cache
from .collate import NarrowLoader, collate
from .opening import artifacts_for
from .order_reader import OrderReader, check_not_packed
from .sample_reader import SampleReader, shared_array
from .stream import ArtifactStream
from .workers import OF_BATCHES, OF_SEMAPHORES, check_workers

STATE_VERSION = 1

Sample = dict[str, Any]

_IDS_AHEAD = 4096
"""Positions of a worker whose ids are computed in one go, after a quick start: enough to make them cheap."""

_DOWNLOADS_AHEAD = 4
"""Downloads that a worker runs beside the reading."""


class RepeatedDataset(StreamingDataset):
    """Iterates a rank's share of `plan` over the artifact at `root`, or of a mixture over several.

    It yields samples, dicts of

        tokens     int64 array (seq_len,); PAD ids only at the end of the subset's last sample
        position   int, place in the whole run
        sample_id  int, place in the subset (in a mixture: plus the samples of the sources before it); with the policy
                   repack, place in what the pass packs
        n_tokens   int, real tokens, seq_len or less for the subset's last sample

    or, if `batched`, a rank's share of a whole batch at a time: the same keys, int64 arrays (k, seq_len) and (k,). Use
    `loader()` for a DataLoader with the batch size that belongs to either.

    Iterating raises WorkError when a shard is gone, damaged or cannot be downloaded.

    Attributes:
        root: path or URL (s3://, gs://, hf://, file://) of a pool or subset.
        plan: its `subset` must be that artifact. For a Mixture: the paths or URLs of its sources' artifacts, in their
            order.
        global_batch: samples of a step over all ranks.
        cache: folder for downloads; needed for nothing local, which is read in place unless `cache` is given; URLs use
            $EPOCHAL_CACHE or ~/.cache/epochal without it.
        cache_limit: bytes; at least four times the largest shard; coldest shards are evicted. As the order is shuffled
            over the whole subset, a limit below its size makes most samples a download.
        verify: compare each shard with its hash when it is first opened, which reads it once from end to end.
        replication: so many consecutive ranks get the same samples (for tensor parallelism).
        download_attempts: see ArtifactStream.

    Raises:
        RequestError: when the artifact, the plan, the batch and the ranks do not fit together; on every rank when it
            happens on one of them.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        plan: Order,
        *,
        global_batch: int,
        batched: bool = False,
        cache: str | None = None,
        cache_limit: int | None = None,
        verify: bool = True,
        replication: int | None = None,
        download_attempts: int = 5,
    ) -> None:
        destroy = maybe_init_dist()
        try:
            streams, problem = [], None
            try:
                ranks = get_world_size() // (replication or 1)
                rank_batch = Share(plan, global_batch, 0, ranks, empty=batched).rank_batch
                streams = _open_streams(root, plan, cache, cache_limit, download_attempts)
            except Exception as error:  # whatever it is, the other ranks must hear of it instead of waiting
                problem = error
            settings = {"global batch": global_batch, "batched": batched, "replication": replication}
            with one_at_a_time():
                agree(plan, settings, problem)
                assert streams, "a rank without streams has raised"
                super().__init__(
                    streams=streams,
                    batch_size=rank_batch,
                    cache_limit=cache_limit,
                    replication=replication,
                    predownload=rank_batch,
                )
                self._forget_names()
        finally:
            if destroy:
                dist.destroy_process_group()
        self.plan = plan
        self.global_batch = global_batch
        self.batched = batched
        self.artifacts = [stream.artifact for stream in streams]
        self._start = shared_array(1, np.int64)
        cached = next((stream.cache for stream in streams if stream.cache is not None), None)
        self._in_place = cached is None
        files = [file for stream in streams for file in stream.files]
        dtype = self.artifacts[0].manifest.dtype
        self._reader = SampleReader(files, plan.seq_len, dtype, verify, None if self._in_place else self._fetch)
        self._samples = OrderReader(plan, self.artifacts, [self._reader] * len(streams))
        self._count_samples()
        if cached is not None:
            for stream in streams:
                os.makedirs(stream.local, exist_ok=True)  # paths to a pool's shards lead through it
            self._cache_filelock_path = os.path.join(cached, ".lock")

    def _count_samples(self) -> None:
        """Set what StreamingDataset knows of samples, of which it was told one a shard."""
        self.samples_per_shard = np.array([f.samples for f in self._reader.shards], np.int64)
        self.sample_offset_per_shard = self.samples_per_shard.cumsum() - self.samples_per_shard
        for shard, file in zip(self.shards, self._reader.shards, strict=True):
            shard.samples = file.samples
        self.num_samples = self.epoch_size = self.plan.samples
        self.samples_per_stream[:] = [artifact.manifest.samples for artifact in self.artifacts]
        self.spanner: Any = _Spans(self._reader)

    def _forget_names(self) -> None:
        """Take the names off the shared memory, which all ranks have mapped by now: nothing can be left behind.

        Forked workers inherit the mapping; what is pickled (spawn) goes without it, see `__getstate__`.
        """
        arrays = (self._next_epoch.arr, self._cache_usage.arr, self._shared_barrier._arr)
        shared: list[SharedMemory] = [self._locals_shm, self._shard_states.shm, self._shard_access_times.shm]
        for memory in shared + [array.shm for array in arrays]:
            atexit.unregister(memory.cleanup)
            for block in memory.created_shms:
                with contextlib.suppress(FileNotFoundError):
                    block.unlink()
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # only then may another job look for free names: its ranks must all see the same ones

    def __getstate__(self) -> dict[str, Any]:
        if not self._in_place:
            raise RequestError("a dataset with a cache cannot be sent to a spawned process: use fork, or read in place")
        shared = ("_locals_shm", "_next_epoch", "_cache_usage", "_shared_barrier", "_shard_states")
        return {k: v for k, v in self.__dict__.items() if k not in (*shared, "_shard_access_times")}

    # -- sizes --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return what this rank yields over a whole run from position 0: samples, or batches if `batched`."""
        if self.batched:
            return self.steps
        return (self.steps - 1) * self._share.rank_batch + len(self._share.of(self.steps - 1))

    @property
    def steps(self) -> int:
        """Global batches of the whole run."""
        return self.plan.steps(self.global_batch)

    @property
    def max_seq_len(self) -> int:
        """Tokens of a sample, PAD included (the name that Composer looks for)."""
        return self.plan.seq_len

    @property
    def _share(self) -> Share:
        world = self._parallel_rank_world
        return Share(self.plan, self.global_batch, world.rank, world.num_ranks, empty=self.batched)

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Return the state after `num_samples` samples over all ranks, counted from the run's beginning or, if not
        `from_beginning`, from where this process began: the position and the plan. The arguments are Composer's.
        """
        position = num_samples if from_beginning else self.start_position + num_samples
        return state_of(self.plan, checked_position(position, self.plan))

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Continue at the position of a state, with any number of ranks and workers and any batch size.

        Raises:
            RequestError: when the state is none of ours, or of another plan or subset; it says what differs.
        """
        self._start[0] = position_in(obj, self.plan)

    @property
    def start_position(self) -> int:
        """Where iterating begins: 0, or the position that was loaded. Workers that live on see a new one."""
        return int(self._start[0])

    # -- reading ------------------------------------------------------------------------------------------------

    def loader(self, num_workers: int = 0, **options: Any) -> DataLoader:
        """Return a DataLoader of this dataset; `options` are DataLoader's. Batches are dicts of int64 tensors."""
        narrow = num_workers > 0 and options.get("collate_fn") is None
        check_workers(num_workers, "num_workers", OF_SEMAPHORES if narrow else OF_BATCHES)
        batch_size = None if self.batched else self.batch_size
        if narrow:
            options = {k: v for k, v in options.items() if k != "collate_fn"}
            return NarrowLoader(self, self._reader.dtype, batch_size, num_workers=num_workers, **options)
        if not self.batched:
            options = {"collate_fn": collate} | options
        return DataLoader(self, batch_size, num_workers=num_workers, **options)

    def get_item(self, sample_id: int, retry: int = 7) -> Sample:
        """Return one sample by its id: tokens, sample_id and n_tokens.

        Raises:
            RequestError: for the policy `repack`, whose samples have one in every pass.
        """
        check_not_packed(self.plan, "read it by its position")
        tokens = self._reader.read([sample_id])[0]
        return {"tokens": tokens, "sample_id": sample_id, "n_tokens": int(self.plan.n_tokens([sample_id])[0])}

    def __iter__(self) -> Iterator[Sample]:
        """Iterate this rank's, or this worker's, share of the run from `start_position`."""
        with contextlib.closing(self._batches()) as batches:
            for batch in batches:
                if self.batched:
                    yield batch
                    continue
                columns = (batch["tokens"], *(batch[k].tolist() for k in ("position", "sample_id", "n_tokens")))
                for tokens, position, sample_id, n_tokens in zip(*columns, strict=True):
                    yield {"tokens": tokens, "position": position, "sample_id": sample_id, "n_tokens": n_tokens}

    def _batches(self) -> Generator[Sample, None, None]:
        with self._downloads() as download:
            for positions, ids, sizes in self._blocks():
                if download:
                    self._download_ahead(download, self._samples.needed(positions, ids))
                begin = 0
                for size in sizes:
                    part = slice(begin, begin + size)
                    begin += size
                    yield self._batch(positions[part], ids[part])

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[int]]]:
        """Yield positions and ids of several of this worker's batches at a time, and the batches' sizes."""
        world, share = self._parallel_rank_world.detect_workers(), self._share
        start = self.start_position
        mine = range(world.worker_of_rank, share.batches(start), world.workers_per_rank)
        first, at_once = 0, 1
        while first < len(mine):
            spans = [share.of(step, start) for step in mine[first : first + at_once]]
            first, at_once = first + at_once, max(1, min(2 * at_once, _IDS_AHEAD // share.rank_batch))
            positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
            yield positions, self.plan.ids(positions).astype(np.int64), [len(span) for span in spans]

    def _batch(self, positions: NDArray[np.int64], ids: NDArray[np.int64]) -> Sample:
        if self.cache_limit:
            self._touch(self._samples.needed(positions, ids))
        tokens = self._samples.read(positions, ids)
        return {"tokens": tokens, "position": positions, "sample_id": ids, "n_tokens": self.plan.n_tokens(ids)}

    # -- downloads ----------------------------------------------------------------------------------------------

    def _fetch(self, shard_id: int) -> None:
        """Make sure that a shard's file is in the cache (called when it was not found)."""
        with FileLock(self._cache_filelock_path):
            file = self._reader.shards[shard_id]
            if self._shard_states[shard_id] == _ShardState.LOCAL and not os.path.exists(file.path):
                self._shard_states[shard_id] = _ShardState.REMOTE
                self.cache_usage -= file.bytes
        self.prepare_shard(shard_id)
        if self.cache_limit:
            states = self._shard_states.numpy()
            self._reader.keep_only(lambda i: states[i] == _ShardState.LOCAL)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Download a shard if it is not there; wait for whoever is at it, if `blocking`.

        Stock leaves a shard whose download failed in the state "being downloaded", and every other worker waiting.
        """
        try:
            super().prepare_shard(shard_id, blocking)
        except BaseException:
            self._shard_states[shard_id] = _ShardState.REMOTE
            raise

    def _touch(self, ids: NDArray[np.int64]) -> None:
        """Note that the shards of `ids` are in use, and drop maps of those that were evicted meanwhile."""
        shards = np.unique(self._reader.locate(ids)[0])
        states, times = self._shard_states.numpy(), self._shard_access_times.numpy()
        here = shards[states[shards] == _ShardState.LOCAL]
        times[here] = time.time_ns()
        self._reader.keep_only(lambda i: states[i] == _ShardState.LOCAL)

    @contextlib.contextmanager
    def _downloads(self) -> Iterator[ThreadPoolExecutor | None]:
        """Yield threads that download ahead; None where that is no use: in place, or with a cache that is too small."""
        if self._in_place or self.cache_limit:
            yield None
            return
        threads = ThreadPoolExecutor(_DOWNLOADS_AHEAD, thread_name_prefix="epochal-download")
        try:
            yield threads
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _download_ahead(self, threads: ThreadPoolExecutor, ids: NDArray[np.int64]) -> None:
        """Begin to download the shards of `ids` in the order of their first use."""
        shards, first = np.unique(self._reader.locate(ids)[0], return_index=True)
        states = self._shard_states.numpy()
        for shard in shards[np.argsort(first)].tolist():
            if states[shard] == _ShardState.REMOTE:
                threads.submit(self.prepare_shard, shard, False)


class _Spans:
    """StreamingDataset's map from sample to (shard, row), without its table of all samples."""

    def __init__(self, reader: SampleReader) -> None:
        self._reader = reader

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._reader.ends[-1]:
            raise IndexError(f"there is no sample {index}")
        shards, rows = self._reader.locate([index])
        return int(shards[0]), int(rows[0])


def _open_streams(
    root: str | Sequence[str], order: Order, cache: str | None, cache_limit: int | None, attempts: int
) -> list[ArtifactStream]:
    """Return a stream for each artifact that `order` reads, each held against its plan."""
    artifacts = artifacts_for(root, order, attempts)
    if len({artifact.manifest.dtype for artifact in artifacts}) > 1:
        raise RequestError("the sources of a mixture must have ids of one type: they have different tokenizers")
    if cache is None and any(storage.is_url(artifact.root) for artifact in artifacts):
        cache = default_cache()
    if cache_limit is not None:
        largest = max(shard.bytes for artifact in artifacts for shard in artifact.shards)
        if cache is None:
            raise RequestError("cache_limit is for a cache: name its folder, or read in place without a limit")
        if cache_limit < 4 * largest:
            raise RequestError(f"cache_limit must be at least {4 * largest} bytes, four of the largest shard")
    return [ArtifactStream(artifact, cache, attempts) for artifact in artifacts]
