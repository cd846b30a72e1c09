"""Exports: a subset's tokens, all of them and none else, in the formats that other trainers and loaders read."""

import importlib.metadata
from collections.abc import Iterable, Iterator

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
from .formats.rows import Rows, TokenDigest, read_rows
from .manifest import ExportLayout, ExportManifest, ExportParent, Manifest, dump_manifest, export_fingerprint
from .order.amendment.amend import amend
from .order.amendment.skips import Written
from .order.base import Policy, Repetition
from .order.plan import Plan
from .tokenizer_file import carry_tokenizer


def export(
    subset: str,
    layout: ExportLayout,
    out: str,
    passes: int | None = None,
    seed: int = 0,
    policy: Policy = "reshuffle",
    quiet: bool = True,
    skip: Written = (),
) -> tuple[str, bool]:
    """Write the tokens of the pool or subset at `subset` to `out` (folder or URL) in the format `layout`.

    Without `passes` in canonical order, exactly its N tokens; with it, all samples in the order of the plan of `passes`
    whole passes, exactly passes * N tokens, less those of the spans of positions `skip` (see `amend`). PAD is never
    written. Returns (where it is, whether it is new): the same export already there is left as it is. Memory is bounded
    by a shard, whatever the size.

    Raises:
        RequestError: when `out` holds something else.
        WorkError: when a shard is damaged.
    """
    artifact = open_artifact(subset)
    plan = _plan(artifact.manifest, passes, seed, policy, skip)
    out = storage.absolute(out)
    manifest = _manifest(artifact, layout, out, plan)
    if storage.exists(storage.join(out, MANIFEST_NAME)):
        _check_same(out, manifest)
        return out, False
    total = len(range(plan.positions)) if plan else artifact.manifest.samples
    stream = TokenDigest(manifest.dtype)
    with (
        publishing(out, _request(manifest)) as sink,
        Progress("export", manifest.tokens, "tokens", quiet) as shown,
    ):
        rows = _watched(read_rows(artifact, plan), stream, shown)
        FORMATS[layout].write(sink, rows, artifact.manifest, total, plan is not None)
        if stream.tokens != manifest.tokens:
            raise WorkError(f"{subset} gave {stream.tokens:,} tokens, not its {manifest.tokens:,}: verify it")
        carry_tokenizer(sink, artifact.root, artifact.manifest)
        whole = manifest.model_copy(update={"token_digest": stream.hexdigest()})
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
        root, info, start = table
        DocumentStarts(root, info).copy_window(sink, start, start + subset.tokens)
    describe(Subject(m, sink.files, sink.sha256, facts_of(subset.config), kept_of(subset)), sink.write)


def _plan(subset: Manifest, passes: int | None, seed: int, policy: Policy, skip: Written) -> Repetition | None:
    if passes is None:
        return None
    if passes < 1:
        raise RequestError(f"--passes must be at least 1, got {passes}")
    return amend(Plan.for_artifact(subset, passes * subset.tokens, seed, policy), skip)


def _watched(rows: Iterable[Rows], stream: TokenDigest, shown: Progress) -> Iterator[Rows]:
    for block in rows:
        stream.add(block.flat())
        yield block
        shown.update(stream.tokens)


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
