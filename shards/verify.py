"""Verification: every hash and count of an artifact recomputed from its bytes."""

import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..common import storage
from ..common.errors import EpochalError, one_line, printable
from ..common.hashing import xxh64
from ..common.progress import Progress
from ..common.publish import MANIFEST_NAME
from ..common.remote.patience import ATTEMPTS
from . import mds
from .artifact import HUB_OWN, Artifact, Shard, may_ask, open_artifact, read_any_manifest, read_manifest
from .documents import DOCUMENTS, DOCUMENTS_NAME, has_documents, iter_documents
from .formats.registry import read_files
from .formats.rows import TokenDigest, Tokens, read_rows
from .manifest import ExportManifest, Manifest, export_fingerprint, fingerprint
from .order.base import Repetition
from .order.stored import order_from_dict
from .tokenizer_file import TOKENIZER_NAME, artifact_tokenizer
from .without.check import check_without


def verify(root: str, progress: bool = False) -> list[str]:
    """Return every problem found in the artifact at `root`, one line each; an empty list means it is whole.

    Checked: the manifest's own checksum; size and xxh64 of every file it lists; for a view every shard of the pool it
    refers to; the fingerprint; that the tokenizer.json beside the ids is the tokenizer that made them; that the shards
    hold exactly the stated tokens, ids below the vocabulary, PAD only after the last token; for a pool that each
    document ends with EOD where documents.parquet says; for what was carved without documents that none of them is in
    it and, where its pool is at hand, that its shards are what that pool's become without them. For an export: the
    manifest's checksum, every file, the fingerprint; that the bytes, read back in their format, are exactly the stated
    tokens with the stated digest; and, where the subset is still where it was, that its own tokens, read from its
    shards in the same order, are the same. Memory is bounded by a shard, or some row groups, whatever the size.

    Raises:
        RequestError: when there is no artifact.
    """
    if not storage.exists(storage.join(root, MANIFEST_NAME)):
        read_manifest(root)  # raises: there is nothing to verify
    try:
        m = read_any_manifest(root)
        if isinstance(m, ExportManifest):
            return _verify_export(root, m, quiet=not progress)
        if m.layout == "wds":
            return _verify_wds(root, m)
        artifact = open_artifact(root)
    except EpochalError as error:
        return [str(error)]
    shard_files = {shard.basename for shard in artifact.shards}
    problems = list(_check_files(root, artifact.manifest, shard_files))  # shards are read later, once
    if fingerprint(artifact.manifest) != artifact.manifest.fingerprint:
        problems.append("manifest.json: the fingerprint is not that of the content it lists")
    problems += check_content(artifact)
    if not problems:
        problems += check_without(root, artifact.manifest)
    total = sum(shard.bytes for shard in artifact.shards)
    with Progress("verify", total, "bytes", quiet=not progress) as shown:
        known = has_documents(artifact.manifest.files) and not any(p.startswith(DOCUMENTS) for p in problems)
        shard_problems = _check_shards(artifact, _EndsOfDocuments(artifact) if known else None, shown)
    problems += [p for p in shard_problems if p not in problems]
    return problems


def _verify_wds(root: str, m: Manifest) -> list[str]:
    """Return the problems of a subset in WebDataset files: their hashes, the fingerprint, the tokens they hold."""
    problems = list(_check_files(root, m, set()))
    if fingerprint(m) != m.fingerprint:
        problems.append("manifest.json: the fingerprint is not that of the content it lists")

    def count() -> list[str]:
        try:
            n = sum(int((ids != m.tokenizer.pad).sum()) for ids, _ in read_files(root, m))
        except _UNREADABLE as error:
            return [f"{m.layout}: it cannot be read: {one_line(error)}"]
        return [] if n == m.tokens else [f"its files hold {n:,} tokens, not the {m.tokens:,} that the manifest states"]

    return problems or list(check_without(root, m)) or _steadily(root, count)


_UNREADABLE = (EpochalError, ValueError, OSError, EOFError)


def _steadily(root: str, check: Callable[[], list[str]]) -> list[str]:
    """Return the problems that `check` finds in files whose hashes were right; of a store, which may send something
    else the second time, only those that it finds each time."""
    problems: list[str] = []
    for _ in range(ATTEMPTS if storage.is_url(root) else 1):
        problems = check()
        if not problems:
            break
    return problems


def _check_files(root: str, m: Manifest | ExportManifest, but: set[str]) -> Iterator[str]:
    """Yield a problem for each listed file that is missing or changed, `but` those, for a tokenizer that is not that of
    the ids, and for each file that is not listed: readers of a folder (`scan_parquet`, `load_dataset`) would take it
    for data."""
    damaged = set()
    for name, info in m.files.items():
        if name in but:
            continue
        try:
            found = storage.file_digest(storage.join(root, name), (info.bytes, info.xxh64))
        except FileNotFoundError:
            yield f"{name} is missing"
            continue
        except EpochalError as error:
            yield f"{name}: {error}"
            continue
        if found != (info.bytes, info.xxh64):
            yield f"{name} is damaged: its hash is not the manifest's"
            damaged.add(name)
    if TOKENIZER_NAME not in damaged:
        yield from _check_tokenizer(root, m)
    known = HUB_OWN if root.startswith("hf://") else frozenset()
    for name in storage.files_below(root):
        if name not in m.files and name not in known and name not in but and name != MANIFEST_NAME:
            yield f"{printable(name)} does not belong to it: move it elsewhere"


def _check_tokenizer(root: str, m: Manifest | ExportManifest) -> Iterator[str]:
    """Yield a problem when the tokenizer that goes with the ids cannot be read, or is another one."""
    try:
        artifact_tokenizer(root, m)
    except EpochalError as error:
        yield str(error)


def check_content(artifact: Artifact) -> Iterator[str]:
    """Yield a problem where index.json is not the content that the fingerprint covers."""
    m = artifact.manifest
    expected = [(c.xxh64, c.samples) for c in m.content] + ([(m.tail, 1)] if m.tail else [])
    indexed = [(s.xxh64, s.samples) for s in artifact.shards]
    if m.kind == "subset" and m.materialized and len(expected) == len(indexed):
        # The last copied shard is cut to its samples, so its file hash differs from the pool's.
        expected = [(s.xxh64, n) for s, (_, n) in zip(artifact.shards, expected, strict=True)]
    if expected != indexed:
        yield "index.json: its shards are not the content that the manifest lists"
    own = {s.basename: (s.bytes, s.xxh64) for s in artifact.shards if "/" not in s.basename}
    listed = {n: (f.bytes, f.xxh64) for n, f in m.files.items() if n in own or mds.SHARD_NAME.fullmatch(n)}
    if own != listed:
        yield "index.json: its shards are not the files that the manifest lists"


def _check_shards(artifact: Artifact, ends: "_EndsOfDocuments | None", shown: Progress) -> list[str]:
    """Return problems of the shard files themselves and of the token stream they hold."""
    m = artifact.manifest
    problems: list[str] = []
    position = 0
    for shard in artifact.shards:
        try:
            data = storage.read_bytes(shard.path, partial(_other, shard))
        except (FileNotFoundError, EpochalError) as error:
            missing = isinstance(error, FileNotFoundError)
            problems.append(f"{shard.basename} is missing" if missing else f"{shard.basename}: {error}")
            position += shard.samples * m.seq_len
            continue
        if _other(shard, data):
            problems.append(f"{shard.basename} is damaged: its hash is not the index's")
        else:
            samples = mds.decode_shard(data, m.seq_len, m.dtype)[: shard.samples]
            problems += _check_tokens(samples.reshape(-1), position, m, shard.basename)
            if ends is not None:
                ends.see(samples.reshape(-1), position)
        position += shard.samples * m.seq_len
        shown.advance(len(data))
    if ends is not None and not problems:
        problems += ends.problems()
    return problems


def _other(shard: Shard, data: bytes) -> str | None:
    """Return what is wrong with the bytes of a shard, None when they are those that the index states."""
    same = len(data) == shard.bytes and xxh64(data) == shard.xxh64
    return None if same else "its hash is not the index's"


def _check_tokens(tokens: NDArray[np.unsignedinteger], position: int, m: Manifest, name: str) -> Iterator[str]:
    real = tokens[: max(0, m.tokens - position)]
    if len(real) and (int(real.max()) >= m.tokenizer.vocab_size or bool((real == m.tokenizer.pad).any())):
        yield f"{name}: holds ids outside the vocabulary, or PAD before the last token"
    if not bool((tokens[len(real) :] == m.tokenizer.pad).all()):
        yield f"{name}: holds tokens after the {m.tokens:,} that the manifest states"


class _EndsOfDocuments:
    """Compares where EOD stands in the stream with where documents.parquet says that documents end."""

    def __init__(self, artifact: Artifact) -> None:
        self._root, self._manifest = artifact.root, artifact.manifest
        self._seen: list[NDArray[np.int64]] = []

    def see(self, tokens: NDArray[np.unsignedinteger], position: int) -> None:
        self._seen.append(np.flatnonzero(tokens == self._manifest.tokenizer.eod) + position)

    def _cut(self, seen: NDArray[np.int64]) -> bool:
        """Return whether the window of a subset cuts its last document, which then has no EOD."""
        m = self._manifest
        return m.kind == "subset" and (not len(seen) or int(seen[-1]) != m.tokens - 1)

    def problems(self) -> Iterator[str]:
        seen = np.concatenate(self._seen) if self._seen else np.zeros(0, np.int64)
        row, next_start = 0, 0
        for group in iter_documents(self._root, ["start", "tokens"]):
            starts, ends = group["start"], group["start"] + group["tokens"]
            expected = np.concatenate([[next_start], ends[:-1]])
            if ends[-1] == self._manifest.tokens and self._cut(seen):
                seen = np.append(seen, ends[-1] - 1)
            if self._manifest.without is not None:  # what fills no sample beside a whole shard is left out
                seen = np.union1d(seen, ends[ends % self._manifest.seq_len == 0] - 1)
            if not (np.array_equal(starts, expected) and np.array_equal(seen[row : row + len(ends)], ends - 1)):
                yield f"{DOCUMENTS_NAME}: documents do not end where the shards have EOD"
                return
            row, next_start = row + len(ends), int(ends[-1])
        if (row, next_start) != (self._manifest.documents, self._manifest.tokens) or row != len(seen):
            yield f"{DOCUMENTS_NAME}: its documents and tokens are not those that the manifest states"


# -- exports ---------------------------------------------------------------------------------------------------------


def _verify_export(root: str, m: ExportManifest, quiet: bool) -> list[str]:
    """Return the problems of an export: its files, its fingerprint, the tokens they hold and those of its subset."""
    subset = find_subset(root, m)
    problems = []
    if export_fingerprint(m) != m.fingerprint:
        problems.append("manifest.json: the fingerprint is not that of the content it lists")
    problems += _check_files(root, m, set())
    with Progress("verify", m.tokens * (2 if subset else 1), "tokens", quiet) as shown:
        if not problems:
            problems += _steadily(root, lambda: _check_exported(root, m, shown))
        if subset is not None:
            problems += _check_against(subset, m, shown)
    return problems


def _exported(root: str, m: ExportManifest) -> Iterator[Tokens]:
    """Yield the tokens of an export in order. Raises ValueError where a file is not whole, or where the documents of
    Megatron-LM's index are not those that EOD ends."""
    cut = False
    for ids, lengths in read_files(root, m):
        if m.layout == "megatron" and m.plan is None:
            ends = np.flatnonzero(ids == m.tokenizer.eod) + 1
            if cut or not np.array_equal(ends, lengths.cumsum()[: len(ends)]):
                raise ValueError("its documents are not those that end with EOD")
            cut = len(ends) < len(lengths)  # only the very last document may be cut by the subset's window
        yield ids


def _check_exported(root: str, m: ExportManifest, shown: Progress) -> list[str]:
    stream = TokenDigest(m.dtype)
    try:
        for tokens in _exported(root, m):
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < m.tokenizer.vocab_size:
                return [f"{m.layout}: it holds ids outside the vocabulary"]
            stream.add(tokens)
            shown.update(stream.tokens)
    except _UNREADABLE as error:
        return [f"{m.layout}: it cannot be read: {one_line(error)}"]
    if stream.tokens != m.tokens:
        return [f"its files hold {stream.tokens:,} tokens, not the {m.tokens:,} that the manifest states"]
    return [] if stream.hexdigest() == m.token_digest else ["its tokens are not those that the manifest states"]


def find_subset(root: str, m: ExportManifest) -> Artifact | None:
    """Return the subset that the export was made from, if it is there."""
    path = m.parent.path
    if not storage.is_url(path) and not os.path.isabs(path):
        path = storage.join(root, path)
    if not may_ask(path, root):
        return None
    try:
        artifact = open_artifact(path)
    except EpochalError:
        return None
    return artifact if artifact.manifest.fingerprint == m.parent.fingerprint else None


def _check_against(subset: Artifact, m: ExportManifest, shown: Progress) -> list[str]:
    stream = TokenDigest(m.dtype)
    try:
        plan = order_from_dict(m.plan) if m.plan else None
        if plan is not None and not isinstance(plan, Repetition):
            return ["manifest.json: its plan is a mixture, which is not exported"]
        for rows in read_rows(subset, plan):
            stream.add(rows.flat())
            shown.update(m.tokens + stream.tokens)
    except EpochalError as error:
        return [f"the subset cannot be read: {error}"]
    same = (stream.tokens, stream.hexdigest()) == (m.tokens, m.token_digest)
    return [] if same else [f"its tokens are not those of {subset.root}"]
