"""Finish: make packed shards and tables a whole pool. Add index, report and descriptions and, last, the manifest."""

import functools
import importlib.metadata
import platform
from typing import Any

from ...common import storage
from ...common.errors import WorkError
from ...common.publish import MANIFEST_NAME, FileInfo, flush_folder, hashes_of
from ...common.remote.patience import ATTEMPTS, patiently
from ...shards import mds
from ...shards.artifact import INDEX_NAME, Artifact, Shard
from ...shards.description.describe import DESCRIPTIONS, describe
from ...shards.description.subject import Subject, kept_of
from ...shards.facts import facts_of
from ...shards.manifest import Content, Manifest, dump_manifest, fingerprint
from ...shards.tokenizer_file import TOKENIZER_NAME, dump_tokenizer
from ...tokenize.tokenizer import Tokenizer
from .. import left_out
from ..config import Build
from ..report import write_report
from ..tables.joined import written_files
from ..text.excerpts import Excerpts
from .cluster import TRAIN
from .pack import ROWS_NAME, Packed, PoolLayout, WrittenShard


def versions(config: Build, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the versions of what decides the bytes; for a `python` source those of all distributions it reads."""
    names = ["epochal", "datatrove", "numpy", "regex", "tokenizers", tokenizer.engine_name]
    if any(source.where is not None for source in config.sources):
        names.append("polars")
    known = {name: _version(name) for name in names}
    if any(source.format == "python" for source in config.sources):
        known |= {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return dict(sorted(known.items())) | {"python": platform.python_version()}


@functools.cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def finish_pool(
    work: str,
    layout: PoolLayout,
    packed: Packed,
    name: str,
    config: Build,
    tokenizer: Tokenizer,
    statistics: dict[str, Any],
    excerpts: Excerpts,
) -> None:
    """Complete the pool in `layout.folder`: all but its shards and tables, which are there, and the manifest last."""
    folder, written = layout.folder, packed.shards
    if [shard.number for shard in written] != list(range(layout.n_shards)):
        raise WorkError(f"{folder} lacks shards that its tasks reported: remove {work} and build again")
    _write_index(layout, written)
    manifest = _describe(layout, written, packed.n_rows, name, config, tokenizer, statistics)
    if layout.code == TRAIN:
        _copy_left_out(work, folder)
        pool = Artifact(folder, manifest, _shards(folder, written))
        write_report(pool, excerpts, storage.join(folder, "report.html"))
    storage.write_atomic(storage.join(folder, TOKENIZER_NAME), dump_tokenizer(tokenizer.spec), flush=False)
    files = _describe_files(folder, manifest, written)
    whole = dump_manifest(manifest.model_copy(update={"files": files}))
    storage.write_atomic(storage.join(folder, MANIFEST_NAME), whole.encode(), flush=False)
    if not storage.is_url(folder):
        flush_folder(folder)


def _write_index(layout: PoolLayout, written: list[WrittenShard]) -> None:
    """Write the index of the shards that MDS readers begin with."""
    entries = [
        mds.index_entry(mds.shard_name(s.number), s.samples, s.bytes, s.xxh64, layout.seq_len, layout.dtype)
        for s in written
    ]
    storage.write_atomic(storage.join(layout.folder, INDEX_NAME), mds.dump_index(entries).encode(), flush=False)


def _describe(
    layout: PoolLayout,
    written: list[WrittenShard],
    n_documents: int,
    name: str,
    config: Build,
    tokenizer: Tokenizer,
    statistics: dict[str, Any],
) -> Manifest:
    """Return the pool's manifest, which lacks only the list of its files."""
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
        tokenizer=tokenizer.info.model_copy(update={"name": config.public(tokenizer.info.name)}),
        content=[Content(xxh64=s.xxh64, samples=s.samples) for s in written],
        config=config.record(),
        statistics=config.public(statistics),
        versions=versions(config, tokenizer),
    )
    return manifest.model_copy(update={"fingerprint": fingerprint(manifest)})


def _shards(folder: str, written: list[WrittenShard]) -> tuple[Shard, ...]:
    names = [mds.shard_name(s.number) for s in written]
    return tuple(
        Shard(name, storage.join(folder, name), s.samples, s.bytes, s.xxh64)
        for name, s in zip(names, written, strict=True)
    )


def _copy_left_out(work: str, folder: str) -> None:
    """Put the table of files that were left out beside the pool."""
    with storage.publishing_file(storage.join(folder, left_out.NAME)) as partial:
        path = storage.join(work, left_out.NAME)
        fetch = functools.partial(storage.copy_file, path, partial)
        patiently(fetch, f"read {path}", ATTEMPTS, missing_too=True)


def _describe_files(folder: str, manifest: Manifest, written: list[WrittenShard]) -> dict[str, FileInfo]:
    """Write the descriptions of a pool whose other files are there; return the list of all files for its manifest."""
    files, sha256 = written_files(folder)
    files |= {mds.shard_name(s.number): FileInfo(bytes=s.bytes, xxh64=s.xxh64) for s in written}
    sha256 |= {mds.shard_name(s.number): s.sha256 for s in written}
    for name in _others(folder, {*files, *DESCRIPTIONS, MANIFEST_NAME, ROWS_NAME}):
        files[name], sha256[name] = hashes_of(storage.join(folder, name))
    subject = Subject(manifest, files, sha256, facts_of(manifest.config), kept_of(manifest))
    write = lambda name, data: storage.write_atomic(storage.join(folder, name), data, flush=False)  # noqa: E731
    return files | describe(subject, write)


def _others(folder: str, known: set[str]) -> list[str]:
    """Return the names of the files in a pool's folder but the `known` ones; remove what killed tasks left."""
    names = sorted(set(storage.names(folder)) - known)
    for name in names:
        if name.endswith(".partial"):
            storage.remove(storage.join(folder, name))  # a killed task's unfinished shard
    return [name for name in names if not name.endswith(".partial")]
