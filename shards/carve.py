"""Carving: a subset of exactly N unique tokens as a window of a pool's canonical order, without copying tokens.

Replicate r's window begins at the shard nearest below r's place in van der Corput's sequence (0, 1/2, 1/4, 3/4, ...)
of the pool: a start that does not depend on N, so for one replicate smaller subsets are prefixes of larger ones, and
the first R replicates stay disjoint up to 1 / 2^ceil(log2 R) of the pool each, which is the most that nested windows
can do. A window is made of whole shards of the pool, then a shard of which only the first samples count, then, when
N is no multiple of seq_len, one sample of its own that PAD fills up. Where documents are left out, shards that hold
some of them are written anew; see without/cut.py.
"""

import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..common import storage
from ..common.errors import RequestError, printable, without_secrets
from ..common.hashing import xxh64
from ..common.publish import MANIFEST_NAME, Sink, publishing
from ..common.units import format_count
from . import pieces
from .artifact import Artifact, open_artifact, read_manifest
from .description.describe import describe
from .description.subject import Subject, carried, kept_of
from .documents import DOCUMENTS, DOCUMENTS_NAME, DocumentStarts, Moved, has_documents
from .facts import facts_of
from .formats import webdataset
from .formats.registry import FORMATS
from .formats.rows import Stretch
from .manifest import Content, Manifest, Parent, dump_manifest, fingerprint
from .pieces import Piece
from .tables.names import pattern_of
from .tokenizer_file import carry_tokenizer
from .without.cut import NOTHING, Cut, Removed
from .without.found import WITHOUT_NAME, TakenOut, find

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
    without: Sequence[str] = (),
    without_matching: str | None = None,
) -> tuple[str, bool]:
    """Carve a subset of exactly `tokens` unique tokens from the pool at `pool`.

    Returns (folder of the subset, whether it is new): the same subset already at `out` is left as it is. `out` defaults
    to `subsets/<pool>-<tokens>[-r<replicate>]` beside `pools/`. With `materialize` the shards are copied, so that the
    folder stands alone; layout `wds` writes WebDataset tar files instead, which stand alone too.

    Args:
        pool: folder or URL.
        tokens: how many, EOD included.
        replicate: which draw.
        out: where it goes.
        materialize: see above.
        layout: see above.
        without: files with keys, ids or texts of documents, of which the subset holds no token; see without/lists.py.
        without_matching: a condition on kept columns; the subset holds no token of documents for which it is true.

    Raises:
        RequestError: when the pool has too few tokens or `out` holds something else.
    """
    source = open_artifact(pool)
    asked = without or without_matching is not None
    taken_out = find(source, without, without_matching) if asked else None
    return carve_from(source, tokens, replicate, out, materialize, layout, taken_out)


def carve_from(
    source: Artifact,
    tokens: int,
    replicate: int = 0,
    out: str | None = None,
    materialize: bool = False,
    layout: Layout = "mds",
    taken_out: TakenOut | None = None,
) -> tuple[str, bool]:
    """Carve as `carve` does from an opened pool, without some of its documents; none of them: as if not asked for.

    Raises:
        RequestError: as `carve`.
    """
    taken_out = taken_out if taken_out is not None and len(taken_out.table) else None
    removed = taken_out.removed if taken_out else NOTHING
    window = locate_window(source, tokens, replicate, removed)
    form = "-wds" if layout == "wds" else "-full" if materialize else ""
    out = out or default_out(source, tokens, replicate, form, taken_out)
    out = out.rstrip("/") if storage.is_url(out) else os.path.abspath(storage.local_path(out))
    if storage.is_url(out) and not form and not storage.is_url(source.root):
        raise RequestError(
            f"a subset at {out} cannot refer to a pool on this machine: add --materialize, or move the pool"
        )
    subset = _Subset(source, window, removed, taken_out)
    manifest = subset.manifest(out, bool(form), layout)
    if storage.exists(storage.join(out, MANIFEST_NAME)) or (not storage.is_url(out) and os.path.exists(out)):
        _check_same(out, manifest)
        return out, False
    with publishing(out, manifest.fingerprint) as sink:
        write_subset(sink, subset.pieces, subset.tail, manifest, source, subset.documents, subset.write_tables)
    return out, True


def write_subset(
    sink: Sink,
    made_of: Sequence[Piece],
    tail: bytes | None,
    manifest: Manifest,
    pool: Artifact,
    documents: DocumentStarts,
    tables: Callable[[Sink], None],
) -> None:
    """Write all files of a subset, its manifest last.

    Args:
        sink: where to.
        made_of: its shards.
        tail: the shard file with the last sample, where that is cut short.
        manifest: what the subset is, without its files; it decides between a view, a copy and tar files.
        pool: what it is a window of.
        documents: the pool's table of documents.
        tables: writes the subset's own tables, where it was carved without documents.

    Raises:
        WorkError: when a shard is damaged.
    """
    if manifest.layout == "wds":
        samples = pieces.rows(made_of, tail, manifest)
        n = manifest.samples
        FORMATS["wds"].write(sink, samples, manifest, Stretch(0, n, n, by_row=True))
    else:
        pieces.write_mds(sink, made_of, tail, manifest)
    if manifest.materialized:
        carry_tokenizer(sink, pool.root, pool.manifest)
    if manifest.without is not None:
        tables(sink)
    _describe(sink, pool, manifest, documents)
    whole = manifest.model_copy(update={"files": dict(sorted(sink.files.items()))})
    sink.write(MANIFEST_NAME, dump_manifest(whole).encode())


def _describe(sink: Sink, pool: Artifact, subset: Manifest, documents: DocumentStarts) -> None:
    """Write which documents a copied subset is of, and the descriptions of any."""
    assert subset.parent is not None
    start = subset.parent.start_sample * subset.seq_len
    span = start, start + subset.tokens
    own = subset.without is not None  # which has its table already
    if subset.materialized and not own and subset.layout == "mds" and has_documents(pool.manifest.files):
        documents.copy_window(sink, *span)
    window = None if subset.materialized or own else (documents.at(start)[1], span[1])
    of_pool = pattern_of(pool.manifest.files, DOCUMENTS) or DOCUMENTS_NAME
    facts, kept = facts_of(pool.manifest.config), kept_of(pool.manifest)
    describe(Subject(subset, sink.files, sink.sha256, facts, kept, window, of_pool), sink.write)


def default_out(
    pool: Artifact, tokens: int, replicate: int = 0, form: str = "", taken_out: TakenOut | None = None
) -> str:
    """Return where a subset goes when nobody says: `<root>/subsets/...` for a pool at `<root>/pools/...`."""
    if storage.is_url(pool.root):
        raise RequestError(f"the pool is at {pool.root}: say with --out where the subset goes")
    parent, _ = os.path.split(pool.root)
    root = os.path.join(os.path.dirname(parent), "subsets") if os.path.basename(parent) == "pools" else parent
    short = format_count(tokens).replace(",", "")
    suffix = (f"-r{replicate}" if replicate else "") + (f"-without-{taken_out.digest[:8]}" if taken_out else "") + form
    return os.path.join(root, f"{pool.manifest.name}-{short}{suffix}")


def window_start(replicate: int, n_shards: int) -> int:
    """Return the first shard of replicate `replicate`: floor(n_shards x van der Corput's radical inverse, base 2)."""
    bits = replicate.bit_length()
    mirrored = int(format(replicate, "b")[::-1], 2)
    return n_shards * mirrored >> bits


def locate_window(pool: Artifact, tokens: int, replicate: int, removed: Removed = NOTHING) -> Window:
    """Return the window of `tokens` tokens for `replicate`, where some of the pool is taken out.

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
    available = capacity(pool, replicate, removed)
    if tokens > available:
        share = (
            f", and replicates 0 to {replicate} of it are disjoint up to {available:,} tokens each" if replicate else ""
        )
        left = Cut(removed, m.tokens, m.seq_len, pool.shards[0].samples).capacity
        has = f"{m.tokens:,}" if left == m.tokens else f"{left:,} of {m.tokens:,} without those documents"
        raise RequestError(
            f"asked for {tokens:,} unique tokens, but pool '{m.name}' has {has}{share}: "
            "ask for fewer or build a larger pool"
        )
    return Window(replicate, window_start(replicate, m.shards) * pool.shards[0].samples, tokens)


def capacity(pool: Artifact, replicate: int, removed: Removed = NOTHING) -> int:
    """Return the most tokens that replicates 0 to `replicate` can have each while no two share a document.

    0 when the pool has too few shards to tell that many replicates apart. Replicate 0 alone can have the whole pool.

    Args:
        pool: see above.
        replicate: the last of them.
        removed: what is taken out of the pool.
    """
    m = pool.manifest
    if replicate >= m.shards:
        return 0
    starts = sorted(window_start(r, m.shards) for r in range(replicate + 1))
    if len(set(starts)) < len(starts):
        return 0
    per_shard = pool.shards[0].samples
    ends = [m.tokens]
    if len(starts) > 1:
        documents = DocumentStarts(pool.root, m.files)
        ends = [documents.at(start * per_shard * m.seq_len)[1] for start in starts[1:]] + ends
    cuts = [Cut(removed, m.tokens, m.seq_len, per_shard, start) for start in starts]
    return min(int(cut.before(end)) for cut, end in zip(cuts, ends, strict=True))


class _Subset:
    """A subset to be: its window of a pool, and the shards that it is made of."""

    def __init__(self, pool: Artifact, window: Window, removed: Removed, taken_out: TakenOut | None) -> None:
        self.pool, self.window, self.taken_out = pool, window, taken_out
        m, per_shard = pool.manifest, pool.shards[0].samples
        self.cut = Cut(removed, m.tokens, m.seq_len, per_shard, window.start_sample // per_shard)
        self.pieces, self.tail = pieces.pieces_of(pool, self.cut, window.tokens)
        self.documents = DocumentStarts(pool.root, m.files)
        self._span = window.start_sample * m.seq_len, self.cut.end(window.tokens)

    @property
    def _moved(self) -> Moved:
        return lambda at: np.minimum(self.cut.before(at), self.window.tokens)

    def write_tables(self, sink: Sink) -> None:
        """Write which documents it holds, and which were taken out of its pool."""
        assert self.taken_out is not None, "other subsets have the tables of their pools"
        self.documents.copy_window(sink, *self._span, self._moved)
        sink.write(WITHOUT_NAME, self.taken_out.parquet())

    def manifest(self, out: str, materialized: bool, layout: Layout) -> Manifest:
        """Return what it is, without the list of its files.

        Raises:
            RequestError: when a view would hold a password.
        """
        m, window = self.pool.manifest, self.window
        samples = -(-window.tokens // m.seq_len)
        shards = len(self.pieces) + (self.tail is not None)
        left_over = self.cut.left_over(window.tokens)
        manifest = Manifest(
            kind="subset",
            name=printable(os.path.basename(out)),
            fingerprint="",
            documents=self.documents.count_moved(*self._span, self._moved),
            tokens=window.tokens,
            samples=samples,
            shards=webdataset.n_files(samples) if layout == "wds" else shards,
            seq_len=m.seq_len,
            dtype=m.dtype,
            seed=m.seed,
            tokenizer=m.tokenizer,
            parent=Parent(
                name=m.name,
                fingerprint=m.fingerprint,
                path=_path_to(self.pool, out, materialized),
                replicate=window.replicate,
                start_sample=window.start_sample,
            ),
            content=[Content(xxh64=piece.xxh64, samples=piece.samples) for piece in self.pieces],
            tail=xxh64(self.tail) if self.tail is not None else None,
            without=self.taken_out.said(left_over, self._span[1]) if self.taken_out else None,
            materialized=materialized,
            layout=layout,
            versions={k: v for k, v in m.versions.items() if k == "epochal"},
            **carried(m),
        )
        return manifest.model_copy(update={"fingerprint": fingerprint(manifest)})


def _path_to(pool: Artifact, out: str, materialized: bool) -> str:
    """Return where the pool is as seen from `out`, as it may be published."""
    path = parent_path(without_secrets(pool.root, {}), without_secrets(out, {}))
    if not materialized and path != parent_path(pool.root, out):
        raise RequestError(
            f"a subset that refers to {pool.root} would hold its password: leave it out of the URL (fsspec takes it "
            "from the environment), or add --materialize"
        )
    return path


def relative_path(pool_root: str, out: str) -> str:
    """Return the path that leads from the folder `out` to the pool's, with `/` on every system."""
    return posixpath.join(*os.path.relpath(os.path.realpath(pool_root), os.path.realpath(out)).split(os.sep))


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
