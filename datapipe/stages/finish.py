"""Finishing: from packed shards and the tasks' counts to a whole pool: index, tables, statistics, report, manifest."""

import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.publish import MANIFEST_NAME, FileInfo
from ...shards import mds
from ...shards.artifact import INDEX_NAME, Artifact, Shard
from ...shards.documents import DOCUMENTS_NAME
from ...shards.manifest import Content, Manifest, dump_manifest, fingerprint
from ...tokenize.tokenizer import Tokenizer
from ..config import Build
from ..external_sort import join_tables
from ..report import write_report
from .cluster import REMOVED, TRAIN, VALIDATION, Corpus, Removed, histogram
from .ingest import CONTAMINATED, REJECTED
from .pack import ROWS_NAME, PoolLayout, join_rows, read_written
from .parts import Part


@dataclass
class IngestTotals:
    """The counts of all ingest tasks together. rows, accepted: by source; rejected: by reason; filters: as
    `filters.removed_by` returns them, summed."""

    rows: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    filters: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0
    contaminated: int = 0
    text_bytes: int = 0


def ingest_totals(parts: Iterable[Part]) -> IngestTotals:
    """Sum the counts of the parts."""
    totals = IngestTotals()
    for part in parts:
        counts = part.counts
        for name in ("rows", "accepted", "rejected"):
            _add_to(getattr(totals, name), counts[name])
        totals.empty += counts["empty"]
        totals.contaminated += counts["contaminated"]
        totals.text_bytes += counts["text_bytes"]
        if not totals.filters:
            totals.filters = [{**row, "reasons": dict(row["reasons"])} for row in counts["filters"]]
            continue
        for row, more in zip(totals.filters, counts["filters"], strict=True):
            row["seen"] += more["seen"]
            row["removed"] += more["removed"]
            _add_to(row["reasons"], more["reasons"])
    return totals


def _add_to(counts: dict[str, int], more: dict[str, int]) -> None:
    for key, n in more.items():
        counts[key] = counts.get(key, 0) + n


@dataclass(frozen=True)
class DocumentCounts:
    """What became of documents. documents, tokens: int64 (3, sources), by fate; lengths: documents that stay, as
    `histogram` counts them; partitions: int64 (3, partitions), tokens by fate and range of place."""

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    partitions: NDArray[np.int64]


def count_documents(corpus: Corpus, fates: NDArray[np.uint8]) -> DocumentCounts:
    """Count all documents by what became of them, in one pass."""
    n_partitions, n_sources = corpus.parts[0].partitions, len(corpus.sources)
    bits = n_partitions.bit_length() - 1
    counts = DocumentCounts(
        np.zeros((3, n_sources), np.int64),
        np.zeros((3, n_sources), np.int64),
        np.zeros(64, np.int64),
        np.zeros((3, n_partitions), np.int64),
    )
    for first, documents in corpus.batches():
        fate = fates[first : first + len(documents)]
        source, tokens = documents["source"], documents["tokens"].astype(np.int64)
        place = documents["place_hi"] >> np.uint64(64 - bits) if bits else np.zeros(len(documents), np.uint64)
        np.add.at(counts.documents, (fate, source), 1)
        np.add.at(counts.tokens, (fate, source), tokens)
        np.add.at(counts.partitions, (fate, place.astype(np.int64)), tokens)
        counts.lengths[:] += histogram(tokens[fate != REMOVED])
    return counts


def collect_statistics(
    corpus: Corpus, counts: DocumentCounts, removed: Removed, evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what the manifest and the report say of the way from rows to pools; the same for any number of tasks."""
    totals = ingest_totals(corpus.parts)
    ends = {
        name: (int(counts.documents[fate].sum()), int(counts.tokens[fate].sum()))
        for name, fate in (("validation", VALIDATION), ("pool", TRAIN))
    }
    return {
        "waterfall": _waterfall(totals, removed, ends, int(counts.tokens.sum()), evaluation is not None),
        "sources": _by_source(corpus, counts, totals),
        "rejected": dict(sorted(totals.rejected.items())),
        "filters": totals.filters,
        "text_bytes": totals.text_bytes,
        "document_lengths": _histogram_rows(counts.lengths),
        "cluster_sizes": _histogram_rows(removed.sizes),
        "evaluation": evaluation,
    }


def _waterfall(
    totals: IngestTotals, removed: Removed, ends: dict[str, tuple[int, int]], tokens: int, decontaminated: bool
) -> list[dict[str, Any]]:
    """Return steps in order: {"step", "documents", "tokens"}, the first what was read, the next what each took away,
    the last what is in the pool. Tokens are known (not null) from encoding on."""
    steps: list[tuple[str, int, int | None]] = [
        ("rows read", sum(totals.rows.values()), None),
        ("unusable rows", -sum(totals.rejected.values()), None),
    ]
    steps += [(f"filter {row['name']}", -row["removed"], None) for row in totals.filters]
    steps.append(("empty", -totals.empty, None))
    if decontaminated:
        steps.append(("contaminated", -totals.contaminated, None))
    steps += [
        ("encoded", sum(totals.accepted.values()), tokens),
        ("exact duplicates", -removed.exact_documents, -removed.exact_tokens),
        ("near-duplicates", -removed.near_documents, -removed.near_tokens),
    ]
    if ends["validation"][0]:
        steps.append(("validation pool", -ends["validation"][0], -ends["validation"][1]))
    steps.append(("pool", *ends["pool"]))
    return [{"step": step, "documents": n, "tokens": t} for step, n, t in steps]


def _by_source(corpus: Corpus, counts: DocumentCounts, totals: IngestTotals) -> dict[str, dict[str, int]]:
    table = {}
    for i, name in enumerate(corpus.sources):
        row = {"rows": totals.rows.get(name, 0), "encoded": totals.accepted.get(name, 0)}
        kept = {"documents": counts.documents, "tokens": counts.tokens}
        table[name] = row | {what: int(n[[TRAIN, VALIDATION], i].sum()) for what, n in kept.items()}
    return table


def _histogram_rows(counts: NDArray[np.int64]) -> list[list[int]]:
    """Return [[lower edge, count], ...] over powers of two, from the first to the last that is not empty."""
    found = np.flatnonzero(counts)
    return [[1 << e, int(counts[e])] for e in range(found[0], found[-1] + 1)] if len(found) else []


def versions(config: Build, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the versions of what decides the bytes; for a `python` source those of all distributions it reads."""
    names = ["epochal", "datatrove", "numpy", "regex", "rensa", "tokenizers", tokenizer.engine_name]
    found = {name: _version(name) for name in names}
    if any(source.format == "python" for source in config.sources):
        found |= {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return dict(sorted(found.items())) | {"python": platform.python_version()}


@functools.cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def finish_pool(
    work: str, layout: PoolLayout, name: str, config: Build, tokenizer: Tokenizer, statistics: dict[str, Any]
) -> None:
    """Complete the pool in `layout.folder`: everything but its shards, which are there, and the manifest last."""
    folder = layout.folder
    written = read_written(folder)
    if [shard.number for shard in written] != list(range(layout.n_shards)):
        raise WorkError(f"{folder} lacks shards that its tasks reported: remove {work} and build again")
    n_documents = join_rows(folder, storage.join(folder, DOCUMENTS_NAME), [s.name for s in config.sources])
    entries = [
        mds.index_entry(mds.shard_name(s.number), s.samples, s.bytes, s.xxh64, layout.seq_len, layout.dtype)
        for s in written
    ]
    storage.write_atomic(storage.join(folder, INDEX_NAME), mds.dump_index(entries).encode(), flush=False)
    manifest = Manifest(
        kind="pool",
        name=name,
        fingerprint="",
        documents=n_documents,
        tokens=layout.n_tokens,
        samples=layout.n_samples,
        shards=len(written),
        seq_len=layout.seq_len,
        dtype=layout.dtype,  # type: ignore[arg-type]
        seed=config.seed,
        tokenizer=tokenizer.info,
        content=[Content(xxh64=s.xxh64, samples=s.samples) for s in written],
        config=config.identity(),
        statistics=statistics,
        versions=versions(config, tokenizer),
    )
    manifest = manifest.model_copy(update={"fingerprint": fingerprint(manifest)})
    if layout.code == TRAIN:
        _account_tables(work, folder)
        shards = tuple(
            Shard(mds.shard_name(s.number), storage.join(folder, mds.shard_name(s.number)), s.samples, s.bytes, s.xxh64)
            for s in written
        )
        write_report(Artifact(folder, manifest, shards), storage.join(folder, "report.html"))
    files = {mds.shard_name(s.number): FileInfo(bytes=s.bytes, xxh64=s.xxh64) for s in written}
    files |= _hash_files(folder, set(files) | {MANIFEST_NAME, ROWS_NAME})
    whole = dump_manifest(manifest.model_copy(update={"files": files}))
    storage.write_atomic(storage.join(folder, MANIFEST_NAME), whole.encode(), flush=False)
    if not storage.is_url(folder):
        _flush_to_disk(folder)


def _account_tables(work: str, folder: str) -> None:
    """Put the tables of what was left out beside the pool: duplicates, rejects, contaminated."""
    with storage.publishing_file(storage.join(folder, "duplicates.parquet")) as partial:
        storage.copy_file(storage.join(work, "duplicates.parquet"), partial)
    _join_tables(work, "rejects", REJECTED, folder)
    _join_tables(work, "contaminated", CONTAMINATED, folder)


def _join_tables(work: str, name: str, schema: pa.Schema, folder: str) -> None:
    """Join the tasks' tables into one."""
    parts = storage.join(work, "parts")
    paths = [storage.join(parts, n) for n in storage.names(parts) if n.endswith(f"-{name}.parquet")]
    join_tables(paths, storage.join(folder, f"{name}.parquet"), schema)


def _hash_files(folder: str, known: set[str]) -> dict[str, FileInfo]:
    found = {}
    for name in sorted(set(storage.names(folder)) - known):
        path = storage.join(folder, name)
        if name.endswith(".partial"):
            storage.remove(path)  # a killed task's unfinished shard
            continue
        found[name] = FileInfo.at(path)
    return found


def _flush_to_disk(folder: str) -> None:
    """Have the disk hold every file before the folder is renamed into place."""
    for name in os.listdir(folder):
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
