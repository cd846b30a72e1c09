"""Exports: a subset's tokens, all of them and none else, in the formats that other trainers and loaders read.

Files hold whole numbers of rows, so several processes may write them, each a stretch of rows; their bytes are the same
for any number of processes. The digest of all tokens in their order is one process's work.
"""

import functools
import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..common import storage
from ..common.errors import RequestError, WorkError, without_secrets
from ..common.hashing import digest
from ..common.progress import Progress
from ..common.publish import MANIFEST_NAME, Sink, publishing
from .artifact import Artifact, open_artifact, read_any_manifest
from .carve import relative_path
from .description.describe import describe
from .description.subject import Subject, kept_of
from .documents import DocumentStarts, find_documents
from .facts import facts_of
from .formats.registry import FORMATS
from .formats.rows import Rows, Stretch, TokenDigest, read_rows
from .manifest import ExportLayout, ExportManifest, ExportParent, Manifest, dump_manifest, export_fingerprint
from .order.amendment.amend import amend
from .order.amendment.skips import Written
from .order.base import Policy, Repetition
from .order.plan import Plan
from .processes import Say, in_processes
from .tokenizer_file import carry_tokenizer

FEW_TOKENS = 1 << 26
"""Tokens that one process writes before others have started."""

AS_FAST_ALONE = ("hf",)
"""Formats that one process writes at the speed of a disk."""

_STRETCHES = 4
"""For each process, so that none is left with the last of the work."""


def export(
    subset: str,
    layout: ExportLayout,
    out: str,
    passes: int | None = None,
    seed: int = 0,
    policy: Policy = "reshuffle",
    quiet: bool = True,
    skip: Written = (),
    workers: int | None = None,
) -> tuple[str, bool]:
    """Write the tokens of the pool or subset at `subset` to `out` (folder or URL) in the format `layout`.

    Without `passes` in canonical order, exactly its N tokens; with it, all samples in the order of the plan of `passes`
    whole passes, exactly passes * N tokens, less those of the spans of positions `skip` (see `amend`). PAD is never
    written. Returns (where it is, whether it is new): the same export already there is left as it is. Memory is bounded
    by a shard for each of `workers` processes (by default one for each core, or one for few tokens; at `memory://`
    always one), whatever the size.

    Raises:
        RequestError: when `out` holds something else.
        WorkError: when a shard is damaged.
    """
    if workers is not None and workers < 1:
        raise RequestError(f"--workers must be at least 1, got {workers}")
    artifact = open_artifact(subset)
    plan = _plan(artifact.manifest, passes, seed, policy, skip)
    out = storage.absolute(out)
    if out.startswith("memory://"):
        workers = 1  # what another process writes there is gone with it
    manifest = _manifest(artifact, layout, out, plan)
    if storage.exists(storage.join(out, MANIFEST_NAME)):
        _check_same(out, manifest)
        return out, False
    with (
        publishing(out, _request(manifest)) as sink,
        Progress("export", manifest.tokens, "tokens", quiet) as shown,
    ):
        tokens, digest_of_all = _write(sink, artifact, plan, manifest, workers, shown)
        if tokens != manifest.tokens:
            raise WorkError(f"{subset} gave {tokens:,} tokens, not its {manifest.tokens:,}: verify it")
        carry_tokenizer(sink, artifact.root, artifact.manifest)
        whole = manifest.model_copy(update={"token_digest": digest_of_all})
        whole = whole.model_copy(update={"fingerprint": export_fingerprint(whole)})
        _describe(sink, artifact, whole)
        whole = whole.model_copy(update={"files": dict(sink.files)})
        sink.write(MANIFEST_NAME, dump_manifest(whole).encode())
    return out, True


def _describe(sink: Sink, artifact: Artifact, m: ExportManifest) -> None:
    """Write the descriptions, and which documents there are where the format holds no rows that `datasets` reads."""
    subset = artifact.manifest
    table = find_documents(artifact.root, subset) if m.layout in ("megatron", "bin") and m.plan is None else None
    if table is not None:
        root, files, start = table
        DocumentStarts(root, files).copy_window(sink, start, start + subset.tokens)
    describe(Subject(m, sink.files, sink.sha256, facts_of(subset.config), kept_of(subset)), sink.write)


def _plan(subset: Manifest, passes: int | None, seed: int, policy: Policy, skip: Written) -> Repetition | None:
    if passes is None:
        return None
    if passes < 1:
        raise RequestError(f"--passes must be at least 1, got {passes}")
    return amend(Plan.for_artifact(subset, passes * subset.tokens, seed, policy), skip)


def _write(
    sink: Sink, artifact: Artifact, plan: Repetition | None, m: ExportManifest, workers: int | None, shown: Progress
) -> tuple[int, str]:
    """Write the files of tokens; return how many tokens they hold, and the digest of these."""
    workers = workers or _workers(m)
    job = _Job(sink.root, artifact.root, m.layout, plan)
    stretches = _stretches(artifact.manifest, m, workers)
    if len(stretches) == 1:
        stream = TokenDigest(m.dtype)
        job.write(sink, artifact, stretches[0], shown.advance, stream)
        return stream.tokens, stream.hexdigest()
    digested, *written = in_processes(
        functools.partial(_piece, job, stretches), 1 + len(stretches), workers, shown.update
    )
    for files, sha256 in written:
        sink.files |= files
        sink.sha256 |= sha256
    return digested


def _workers(m: ExportManifest) -> int:
    """Return how many processes are of use where nobody says it."""
    return 1 if m.tokens < FEW_TOKENS or m.layout in AS_FAST_ALONE else len(os.sched_getaffinity(0))


def _stretches(subset: Manifest, m: ExportManifest, workers: int) -> list[Stretch]:
    """Return all rows as stretches of whole files, one for a format of one file or a single process."""
    per_file, by_row = FORMATS[m.layout].rows_per_file(subset), m.plan is not None
    n_files = -(-m.samples // per_file) if per_file else 1
    if per_file is None or workers == 1 or n_files == 1:
        return [Stretch(0, m.samples, m.samples, by_row)]
    step = per_file * -(-n_files // (_STRETCHES * workers))
    return [Stretch(at, min(at + step, m.samples), m.samples, by_row) for at in range(0, m.samples, step)]


@dataclass(frozen=True)
class _Job:
    """What a process needs to know of an export.

    Attributes:
        root: the folder that is being filled.
        subset: where the rows come from.
    """

    root: str
    subset: str
    layout: ExportLayout
    plan: Repetition | None

    def write(
        self, sink: Sink, artifact: Artifact, stretch: Stretch, say: Say, stream: TokenDigest | None = None
    ) -> None:
        """Write the files of a stretch of rows, whose tokens also go to `stream`."""
        rows = read_rows(artifact, self.plan, range(stretch.start, stretch.stop))
        FORMATS[self.layout].write(sink, _watched(rows, say, stream), artifact.manifest, stretch)


def _piece(job: _Job, stretches: list[Stretch], number: int, say: Say) -> tuple[Any, Any]:
    """Do piece `number` of an export. The first is the digest of all tokens: (how many, digest); the others write a
    stretch each: (size and xxh64, SHA-256) of their files, by name."""
    artifact = open_artifact(job.subset)
    if number == 0:
        stream = TokenDigest(artifact.manifest.dtype)
        for block in read_rows(artifact, job.plan):
            stream.add(block.flat())
            say(0)
        return stream.tokens, stream.hexdigest()
    sink = Sink(job.root)
    job.write(sink, artifact, stretches[number - 1], say)
    return sink.files, sink.sha256


def _watched(rows: Iterable[Rows], say: Say, stream: TokenDigest | None) -> Iterator[Rows]:
    for block in rows:
        if stream is not None:
            stream.add(block.flat())
        yield block
        say(int(block.lengths.sum()))


def _manifest(artifact: Artifact, layout: ExportLayout, out: str, plan: Repetition | None) -> ExportManifest:
    """Return the manifest as far as it is known before a token is read."""
    m = artifact.manifest
    remote = storage.is_url(artifact.root) or storage.is_url(out)
    path = without_secrets(artifact.root, {}) if remote else relative_path(artifact.root, out)
    return ExportManifest(
        name=m.name,
        fingerprint="",
        layout=layout,
        documents=m.documents,
        tokens=plan.tokens if plan else m.tokens,
        unique_tokens=m.tokens,
        samples=plan.positions if plan else m.samples,
        seq_len=m.seq_len,
        dtype=m.dtype,
        tokenizer=m.tokenizer,
        parent=ExportParent(name=m.name, fingerprint=m.fingerprint, path=path),
        plan=plan.to_dict() if plan else None,
        token_digest="",
        versions={"epochal": importlib.metadata.version("epochal")},
    )


def _request(m: ExportManifest) -> str:
    return digest([m.layout, m.parent.fingerprint, m.plan["fingerprint"] if m.plan else None])


def _check_same(out: str, manifest: ExportManifest) -> None:
    there = read_any_manifest(out)
    if not isinstance(there, ExportManifest) or _request(there) != _request(manifest):
        raise RequestError(f"{out} exists and holds something else: choose another --out or remove it")
