"""Carving: a subset of exactly N unique tokens as a window of a pool's canonical order, without copying tokens.

Replicate r's window begins at the shard nearest below r's place in van der Corput's sequence (0, 1/2, 1/4, 3/4, ...)
of the pool: a start that does not depend on N, so for one replicate smaller subsets are prefixes of larger ones, and
the first R replicates stay disjoint up to 1 / 2^ceil(log2 R) of the pool each, which is the most that nested windows
can do. A window is made of whole shards of the pool, then a shard of which only the first samples count, then, when
N is no multiple of seq_len, one sample of its own that PAD fills up.
"""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..common import storage
from ..common.errors import RequestError, printable, without_secrets
from ..common.hashing import xxh64
from ..common.publish import MANIFEST_NAME, Sink, publishing
from ..common.units import format_count
from . import mds
from .artifact import INDEX_NAME, Artifact, Shard, open_artifact, read_manifest
from .description.describe import describe
from .description.subject import Subject, carried, kept_of
from .documents import DOCUMENTS_NAME, DocumentStarts
from .facts import facts_of
from .formats import webdataset
from .formats.registry import FORMATS
from .formats.rows import Rows
from .loader.sample_reader import read_checked, read_shard
from .manifest import Content, Manifest, Parent, dump_manifest, fingerprint
from .tokenizer_file import carry_tokenizer

Layout = Literal["mds", "wds"]


@dataclass(frozen=True)
class Window:
    """`tokens` stream positions of a pool, from the first token of sample `start_sample`, which begins a shard."""

    replicate: int
    start_sample: int
    tokens: int


def carve(
    pool: str,
    tokens: int,
    replicate: int = 0,
    out: str | None = None,
    materialize: bool = False,
    layout: Layout = "mds",
) -> tuple[str, bool]:
    """Carve a subset of exactly `tokens` unique tokens from the pool at `pool`.

    Returns (folder of the subset, whether it is new): the same subset already at `out` is left as it is. `out` defaults
    to `subsets/<pool>-<tokens>[-r<replicate>]` beside `pools/`. With `materialize` the shards are copied, so that the
    folder stands alone; layout `wds` writes WebDataset tar files instead, which stand alone too.

    Raises:
        RequestError: when the pool has too few tokens or `out` holds something else.
    """
    source = open_artifact(pool)
    window = locate_window(source, tokens, replicate)
    form = "-wds" if layout == "wds" else "-full" if materialize else ""
    out = out or default_out(source, tokens, replicate, form)
    out = out.rstrip("/") if storage.is_url(out) else os.path.abspath(storage.local_path(out))
    if storage.is_url(out) and not form and not storage.is_url(source.root):
        raise RequestError(
            f"a subset at {out} cannot refer to a pool on this machine: add --materialize, or move the pool"
        )
    taken, tail = _take(source, window)
    documents = DocumentStarts(source.root, source.manifest.files.get(DOCUMENTS_NAME))
    manifest = _manifest(source, window, out, taken, tail, materialize or layout == "wds", layout, documents)
    if storage.exists(storage.join(out, MANIFEST_NAME)) or (not storage.is_url(out) and os.path.exists(out)):
        _check_same(out, manifest)
        return out, False
    with publishing(out, manifest.fingerprint) as sink:
        write_subset(sink, taken, tail, manifest, source, documents)
    return out, True


def write_subset(
    sink: Sink,
    taken: "Taken",
    tail: bytes | None,
    manifest: Manifest,
    pool: Artifact,
    documents: DocumentStarts,
) -> None:
    """Write all files of a subset, its manifest last.

    Args:
        sink: where to.
        taken: the pool's shards that it is made of; see `Taken`.
        tail: the shard file with the last sample, where that is cut short.
        manifest: what the subset is, without its files; it decides between a view, a copy and tar files.
        pool: what it is a window of.
        documents: the pool's table of documents.

    Raises:
        WorkError: when a shard is damaged.
    """
    if manifest.layout == "wds":
        FORMATS["wds"].write(sink, _rows(taken, tail, manifest), manifest, manifest.samples, by_row=True)
    else:
        _write_mds(sink, taken, tail, manifest)
    if manifest.materialized:
        carry_tokenizer(sink, pool.root, pool.manifest)
    _describe(sink, pool, manifest, documents)
    whole = manifest.model_copy(update={"files": dict(sorted(sink.files.items()))})
    sink.write(MANIFEST_NAME, dump_manifest(whole).encode())


def _describe(sink: Sink, pool: Artifact, subset: Manifest, documents: DocumentStarts) -> None:
    """Write which documents a copied subset is of, and the descriptions of any."""
    assert subset.parent is not None
    start = subset.parent.start_sample * subset.seq_len
    span = start, start + subset.tokens
    if subset.materialized and subset.layout == "mds" and DOCUMENTS_NAME in pool.manifest.files:
        documents.copy_window(sink, *span)
    window = None if subset.materialized else (documents.at(start)[1], span[1])
    facts, kept = facts_of(pool.manifest.config), kept_of(pool.manifest)
    describe(Subject(subset, sink.files, sink.sha256, facts, kept, window), sink.write)


def default_out(pool: Artifact, tokens: int, replicate: int = 0, form: str = "") -> str:
    """Return where a subset goes when nobody says: `<root>/subsets/...` for a pool at `<root>/pools/...`."""
    if storage.is_url(pool.root):
        raise RequestError(f"the pool is at {pool.root}: say with --out where the subset goes")
    parent, _ = os.path.split(pool.root)
    root = os.path.join(os.path.dirname(parent), "subsets") if os.path.basename(parent) == "pools" else parent
    short = format_count(tokens).replace(",", "")
    suffix = (f"-r{replicate}" if replicate else "") + form
    return os.path.join(root, f"{pool.manifest.name}-{short}{suffix}")


def window_start(replicate: int, n_shards: int) -> int:
    """Return the first shard of replicate `replicate`: floor(n_shards x van der Corput's radical inverse, base 2)."""
    bits = replicate.bit_length()
    mirrored = int(format(replicate, "b")[::-1], 2)
    return n_shards * mirrored >> bits


def locate_window(pool: Artifact, tokens: int, replicate: int) -> Window:
    """Return the window of `tokens` tokens for `replicate`.

    Raises:
        RequestError: when there are not so many.
    """
    m = pool.manifest
    if m.kind != "pool":
        raise RequestError(f"{pool.root} is a {m.kind}, not a pool: carve from its pool '{m.parent and m.parent.name}'")
    if tokens < 1:
        raise RequestError("a subset needs at least 1 token: ask for more with --unique-tokens")
    if replicate < 0:
        raise RequestError(f"replicates are numbered from 0, not {replicate}")
    available = capacity(pool, replicate)
    if tokens > available:
        share = (
            f", and replicates 0 to {replicate} of it are disjoint up to {available:,} tokens each" if replicate else ""
        )
        raise RequestError(
            f"asked for {tokens:,} unique tokens, but pool '{m.name}' has {m.tokens:,}{share}: "
            "ask for fewer or build a larger pool"
        )
    return Window(replicate, window_start(replicate, m.shards) * pool.shards[0].samples, tokens)


def capacity(pool: Artifact, replicate: int) -> int:
    """Return the most tokens that replicates 0 to `replicate` can have each while no two share a document.

    0 when the pool has too few shards to tell that many replicates apart. Replicate 0 alone can have the whole pool.
    """
    m = pool.manifest
    if replicate >= m.shards:
        return 0
    starts = sorted(window_start(r, m.shards) for r in range(replicate + 1))
    if len(set(starts)) < len(starts):
        return 0
    width = pool.shards[0].samples * m.seq_len
    positions = [shard * width for shard in starts]
    if len(positions) == 1:
        return m.tokens
    documents = DocumentStarts(pool.root, m.files.get(DOCUMENTS_NAME))
    ends = [documents.at(p)[1] for p in positions[1:]] + [m.tokens]
    return max(0, min(end - start for start, end in zip(positions, ends, strict=True)))


Taken = list[tuple[Shard, int]]
"""Shards of the pool in order, each with the number of its leading samples that belong to the subset."""


def _take(pool: Artifact, window: Window) -> tuple[Taken, bytes | None]:
    """Return the shards that a window is made of and, when a last sample is cut short, the shard file that holds it."""
    seq_len, per_shard = pool.manifest.seq_len, pool.shards[0].samples
    full, rest = divmod(window.tokens, seq_len)
    first = window.start_sample // per_shard
    taken = [(pool.shards[first + i], min(per_shard, full - i * per_shard)) for i in range(-(-full // per_shard))]
    if not rest:
        return taken, None
    shard, row = pool.shards[first + full // per_shard], full % per_shard
    sample = read_shard(shard, pool.manifest)[row : row + 1].copy()
    sample[0, rest:] = pool.manifest.tokenizer.pad
    return taken, mds.encode_shard(sample)


Entries = list[dict[str, object]]


def _write_mds(sink: Sink, taken: Taken, tail: bytes | None, m: Manifest) -> None:
    """Write index.json and the shards that are the subset's own: all of them, or just the tail."""
    entries = _copy(sink, taken, m) if m.materialized else _refer(taken, m)
    if tail is not None:
        entries.append(_write_shard(sink, mds.shard_name(len(taken) if m.materialized else 0), tail, 1, m))
    sink.write(INDEX_NAME, mds.dump_index(entries).encode())


def _rows(taken: Taken, tail: bytes | None, m: Manifest) -> Iterator[Rows]:
    """Yield the subset's samples, the PAD of the last one as if it were tokens."""
    for shard, n in taken:
        yield Rows.whole(read_shard(shard, m)[:n])
    if tail is not None:
        yield Rows.whole(mds.decode_shard(tail, m.seq_len, m.dtype))


def _refer(taken: Taken, subset: Manifest) -> Entries:
    """Return index entries that name the pool's own shard files."""
    assert subset.parent is not None
    folder = subset.parent.path
    return [_entry(f"{folder}/{os.path.basename(s.path)}", n, s.bytes, s.xxh64, subset) for s, n in taken]


def _copy(sink: Sink, taken: Taken, m: Manifest) -> Entries:
    """Copy the shards, the last one cut to its samples, and return their index entries."""
    entries = []
    for i, (shard, n) in enumerate(taken):
        data = read_checked(shard)
        samples = mds.decode_shard(data, m.seq_len, m.dtype)
        if n < len(samples):
            data = mds.encode_shard(samples[:n])
        entries.append(_write_shard(sink, mds.shard_name(i), data, n, m))
    return entries


def relative_path(pool_root: str, out: str) -> str:
    """Return the path that leads from the folder `out` to the pool's, with `/` on every system."""
    return posixpath.join(*os.path.relpath(os.path.realpath(pool_root), os.path.realpath(out)).split(os.sep))


def _entry(basename: str, samples: int, n_bytes: int, file_hash: str, m: Manifest) -> dict[str, object]:
    return mds.index_entry(basename, samples, n_bytes, file_hash, m.seq_len, m.dtype)


def _write_shard(sink: Sink, name: str, data: bytes, samples: int, m: Manifest) -> dict[str, object]:
    sink.write(name, data)
    return _entry(name, samples, len(data), sink.files[name].xxh64, m)


def _manifest(
    pool: Artifact,
    window: Window,
    out: str,
    taken: Taken,
    tail: bytes | None,
    materialized: bool,
    layout: Literal["mds", "wds"],
    documents: DocumentStarts,
) -> Manifest:
    m = pool.manifest
    path = parent_path(without_secrets(pool.root, {}), without_secrets(out, {}))
    if not materialized and path != parent_path(pool.root, out):
        raise RequestError(
            f"a subset that refers to {pool.root} would hold its password: leave it out of the URL (fsspec takes it "
            "from the environment), or add --materialize"
        )
    start = window.start_sample * m.seq_len
    manifest = Manifest(
        kind="subset",
        name=printable(os.path.basename(out)),
        fingerprint="",
        documents=documents.count(start, start + window.tokens),
        tokens=window.tokens,
        samples=-(-window.tokens // m.seq_len),
        shards=webdataset.n_files(-(-window.tokens // m.seq_len))
        if layout == "wds"
        else len(taken) + (tail is not None),
        seq_len=m.seq_len,
        dtype=m.dtype,
        seed=m.seed,
        tokenizer=m.tokenizer,
        parent=Parent(
            name=m.name,
            fingerprint=m.fingerprint,
            path=path,
            replicate=window.replicate,
            start_sample=window.start_sample,
        ),
        content=[Content(xxh64=s.xxh64, samples=n) for s, n in taken],
        tail=xxh64(tail) if tail is not None else None,
        materialized=materialized,
        layout=layout,
        versions={k: v for k, v in m.versions.items() if k == "epochal"},
        **carried(m),
    )
    return manifest.model_copy(update={"fingerprint": fingerprint(manifest)})


def parent_path(pool: str, out: str) -> str:
    """Return where the pool is as seen from `out`: a relative path within one file system, else its URL."""
    if not storage.is_url(pool):
        return "" if storage.is_url(out) else relative_path(pool, out)
    protocol = pool.split("://")[0] + "://"
    if not out.startswith(protocol):
        return pool
    return posixpath.relpath(pool.removeprefix(protocol), out.removeprefix(protocol))


def _check_same(out: str, manifest: Manifest) -> None:
    """Raise RequestError unless `out` already holds this very subset."""
    there = read_manifest(out) if storage.exists(storage.join(out, MANIFEST_NAME)) else None
    same = ("fingerprint", "materialized", "layout")
    if there is None or any(getattr(there, key) != getattr(manifest, key) for key in same):
        raise RequestError(f"{out} exists and holds something else: choose another --out or remove it")
