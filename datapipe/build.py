"""The build: sources to a pool and its validation pool, in four stages, resumable after each task.

    ingest   (tasks)        read, check, filter, decontaminate, sign, encode           -> parts
    match    (1 + buckets)  link exact duplicates; link near ones, a bucket a task     -> edges
    cluster  (here)         choose survivors, draw validation                          -> fates
    pack     (tasks)        canonical order, samples, shards                           -> shards, rows

Everything happens in a work folder beside the target, named by a digest of the request, and the finished pools are
renamed into place. Killed at any moment, the same command goes on with the tasks that are not done.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import filelock
import numpy as np

from ..shards import storage
from ..shards.artifact import read_manifest
from ..shards.errors import RequestError, WorkError
from ..shards.manifest import MANIFEST_NAME, digest
from ..tokenize.tokenizer import Tokenizer, load_tokenizer
from . import finish
from .cluster import TRAIN, VALIDATION, Corpus, decide, find_clusters, load_edges, write_duplicates
from .config import Build
from .decontaminate import build_index
from .executors import run_stage
from .filters import make_filters, try_filters
from .ingest import EngineDiffersError, Ingest, IngestSettings
from .match import Match, open_parts
from .pack import Pack, PoolLayout, auto_samples_per_shard
from .progress import watch
from .readers import Intake, Listing, list_source, make_reader

PARTITION_BYTES = 32 << 20
RUN_BYTES = 192 << 20


@dataclass(frozen=True)
class Built:
    """What a build has made; `new` is False when it was there already. `validation` is None when none was asked for."""

    pool: str
    validation: str | None
    new: bool


def build(config: Build, quiet: bool = False, say: Any = print) -> Built:
    """Build the pools that `config` describes, or return them when they are there already.

    quiet: no progress on standard error. say: what prints announcements. Raises RequestError or WorkError.
    """
    names = [config.name] + ([f"{config.name}-val"] if config.validation_tokens else [])
    targets = [os.path.abspath(os.path.join(storage.local_path(config.out), "pools", name)) for name in names]
    choice = config.tokenizer
    tokenizer = load_tokenizer(choice.name, choice.eod, choice.pad, choice.mask)
    try_filters(make_filters(config.filters))  # refused now rather than in a task
    listings = [listing for i, source in enumerate(config.sources) for listing in list_source(i, source)]
    request = _request_digest(config, listings, tokenizer)
    os.makedirs(os.path.dirname(targets[0]), exist_ok=True)
    with _lock(targets[0]):
        new = not _built_already(targets, request, config)
        work = _work_folder(targets[0], request, config)
        if new:
            _Run(config, work, listings, tokenizer, quiet, say).to_files(targets)
            storage.write_atomic(_record_path(targets[0]), json.dumps({"request": request}).encode())
        shutil.rmtree(work)
    return Built(targets[0], targets[1] if names[1:] else None, new)


def _request_digest(config: Build, listings: list[Listing], tokenizer: Tokenizer) -> str:
    """Return a digest of everything that decides the pool: settings, input files by name and size, tokenizer."""
    files = [[item.root, [[f.name, f.size] for f in item.files]] for item in listings]
    asked = [config.identity(), files, tokenizer.info.fingerprint, finish.versions(config, tokenizer)]
    return digest(asked)


@contextlib.contextmanager
def _lock(target: str) -> Iterator[None]:
    """Hold the target against a second build of it; the lock goes with the process, however it ends."""
    folder, name = os.path.split(target)
    lock = filelock.FileLock(os.path.join(folder, f".{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RequestError(f"another build of {target} is running: wait for it or choose another name") from None
    try:
        yield
    finally:
        lock.release()


def _record_path(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.request.json")


def _built_already(targets: list[str], request: str, config: Build) -> bool:
    """Return whether all targets are the finished work of this very request. Raises RequestError when one is not."""
    try:
        with open(_record_path(targets[0])) as f:
            asked = json.load(f).get("request")
    except (FileNotFoundError, ValueError):
        asked = None
    there = [target for target in targets if os.path.exists(target)]
    for target in there:
        if not os.path.exists(os.path.join(target, MANIFEST_NAME)):
            raise RequestError(f"{target} exists and is no artifact: choose another out= or name=, or remove it")
        if asked not in (None, request) or read_manifest(target).config != config.identity():
            raise RequestError(
                f"{target} was built from another configuration or other inputs: choose another out= or name=, "
                "or remove it to build again"
            )
    return asked == request and there == targets


def _work_folder(target: str, request: str, config: Build) -> str:
    """Return the folder that this request is worked on in; those of other requests for the same target are removed."""
    folder, name = os.path.split(target)
    key = hashlib.blake2b(f"{request} {config.tasks}".encode(), digest_size=6).hexdigest()
    work = os.path.join(folder, f".{name}.building-{key}")
    for other in os.listdir(folder):
        if other.startswith(f".{name}.building-") and os.path.join(folder, other) != work:
            shutil.rmtree(os.path.join(folder, other), ignore_errors=True)
    os.makedirs(work, exist_ok=True)
    return work


def _publish(staged: str, target: str) -> None:
    """Rename a finished pool into place; one that is there already must be the same."""
    if os.path.exists(target):
        if read_manifest(target).fingerprint != read_manifest(staged).fingerprint:
            raise RequestError(f"{target} exists and holds another pool: choose another out= or name=, or remove it")
        return
    os.rename(staged, target)


class _Run:
    """One pass through the stages in `work`."""

    def __init__(
        self, config: Build, work: str, listings: list[Listing], tokenizer: Tokenizer, quiet: bool, say: Any
    ) -> None:
        self.config, self.work, self.listings, self.quiet, self.say = config, work, listings, quiet, say
        self.tokenizer = tokenizer
        self.sources = [s.name for s in config.sources]
        self.dtype = "uint16" if tokenizer.info.vocab_size <= 1 << 16 else "uint32"
        self.input_bytes = sum(f.size for item in listings for f in item.files)

    def to_files(self, targets: list[str]) -> None:
        """Run what is not done yet, up to the finished pools in the work folder."""
        evaluation = self._index_evaluations()
        self._ingest(evaluation)
        near = self.config.deduplicate.near
        n_match = 1 + (near.buckets if near else 0)
        with watch(self.work, "match", n_match, "buckets", self.quiet):
            run_stage(self.work, "match", [Match(self.work)], n_match, self.config.workers)
        layouts, statistics = self._cluster(evaluation)
        with watch(self.work, "pack", sum(x.n_tokens for x in layouts), "tokens", self.quiet):
            pack = Pack(self.work, layouts, self.sources)
            run_stage(self.work, "pack", [pack], self.config.tasks, self.config.workers)
        for layout, target in zip(layouts, targets, strict=True):
            if os.path.exists(layout.folder):  # else it was published before an interruption
                finish.finish_pool(self.work, layout, os.path.basename(target), self.config, self.tokenizer, statistics)
                _publish(layout.folder, target)

    def _index_evaluations(self) -> dict[str, Any] | None:
        """Index the evaluation files once for all tasks; return what the manifest says of them."""
        chosen = self.config.decontaminate
        if chosen is None:
            return None
        path = os.path.join(self.work, "evaluation.pickle")
        index = build_index(chosen.files, chosen.ngram)
        storage.write_atomic(path, pickle.dumps(index))
        return {"ngram": chosen.ngram, "too_short": index.too_short, "files": index.file_summary()}

    def _ingest(self, evaluation: dict[str, Any] | None) -> None:
        stage = "ingest"
        if os.path.exists(os.path.join(self.work, "reference-engine")):
            self.tokenizer, stage = self.tokenizer.on_reference(), "ingest-reference"
        try:
            self._run_ingest(stage, evaluation is not None)
        except EngineDiffersError as error:
            self.say(f"{error}; encoding with the reference, Hugging Face tokenizers, instead (slower)")
            storage.write_atomic(os.path.join(self.work, "reference-engine"), b"")
            shutil.rmtree(os.path.join(self.work, "parts"))
            self._ingest(evaluation)
            return
        self._check_rejects()

    def _run_ingest(self, stage: str, decontaminated: bool) -> None:
        config = self.config
        partitions = 1 << max(0, (max(1, self.input_bytes // PARTITION_BYTES) - 1).bit_length())
        settings = IngestSettings(
            work=self.work,
            sources=tuple(self.sources),
            seed=config.seed,
            tokenizer=config.tokenizer,
            fast_engine=stage == "ingest",
            dtype=self.dtype,
            near=config.deduplicate.near,
            index_path=os.path.join(self.work, "evaluation.pickle") if decontaminated else None,
            partitions=min(partitions, 1 << 16),
            run_bytes=RUN_BYTES,
        )
        intake, filters = Intake(), make_filters(config.filters)
        readers = [make_reader(item, config.sources[item.source], intake, bool(filters)) for item in self.listings]
        pipeline = [*readers, *filters, Ingest(settings, intake, filters)]
        with watch(self.work, "ingest", self.input_bytes, "bytes", self.quiet):
            run_stage(self.work, stage, pipeline, config.tasks, config.workers)

    def _check_rejects(self) -> None:
        """Raise WorkError when more rows were unusable than allowed."""
        totals = finish.ingest_totals(open_parts(self.work))
        rows, rejected = sum(totals.rows.values()), sum(totals.rejected.values())
        if rejected > self.config.max_reject_fraction * rows:
            reason, count = max(totals.rejected.items(), key=lambda item: (item[1], item[0]))
            raise WorkError(
                f"{rejected:,} of {rows:,} rows cannot be used, more than max_reject_fraction "
                f"{self.config.max_reject_fraction:g} allows (most often: {reason}, {count:,} times): mend the input, "
                "or allow more"
            )
        if not sum(p.n_documents for p in open_parts(self.work)):
            raise WorkError("no document is left after reading and filtering: look at the sources and filters")

    def _cluster(self, evaluation: dict[str, Any] | None) -> tuple[list[PoolLayout], dict[str, Any]]:
        """Choose survivors and draw validation; return how each pool is cut and the statistics so far."""
        parts = open_parts(self.work)
        corpus = Corpus(parts, self.sources)
        clusters = find_clusters(corpus, load_edges(self.work))
        fates = decide(corpus, clusters, self.config.validation_tokens)
        with open(os.path.join(self.work, "fates.npy.partial"), "wb") as f:
            np.save(f, fates)
        os.replace(os.path.join(self.work, "fates.npy.partial"), os.path.join(self.work, "fates.npy"))
        near = self.config.deduplicate.near
        path = os.path.join(self.work, "duplicates.parquet")
        removed = write_duplicates(corpus, clusters, path, near.buckets * near.hashes if near else 0)
        statistics = finish.collect_statistics(corpus, fates, clusters, removed, evaluation)
        codes = [TRAIN] + ([VALIDATION] if self.config.validation_tokens else [])
        return [self._layout(corpus, fates, code) for code in codes], statistics

    def _layout(self, corpus: Corpus, fates: Any, code: int) -> PoolLayout:
        partitions = max(len(run.cuts) - 1 for part in corpus.parts for run in part.runs)
        mine = fates == code
        shift = np.uint64(64 - (partitions.bit_length() - 1)) if partitions > 1 else np.uint64(0)
        place = corpus.column("place_hi")[mine]
        partition = (place >> shift).astype(np.int64) if partitions > 1 else np.zeros(len(place), np.int64)
        tokens = np.bincount(partition, weights=corpus.column("tokens")[mine], minlength=partitions).astype(np.int64)
        samples = self.config.samples_per_shard
        seq_len = self.config.seq_len
        auto = auto_samples_per_shard(int(tokens.sum()), seq_len, self.dtype)
        return PoolLayout(
            folder=os.path.join(self.work, "pool" if code == TRAIN else "validation"),
            code=code,
            tokens=tokens.tolist(),
            seq_len=seq_len,
            dtype=self.dtype,
            pad=self.tokenizer.info.pad,
            samples_per_shard=auto if samples == "auto" else samples,
        )
