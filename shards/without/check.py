"""Verification of a subset that was carved without documents: that no token of theirs is in it, and all others are."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ...common import storage
from ...common.errors import EpochalError
from .. import arrow
from ..artifact import Artifact, may_ask, open_artifact
from ..documents import DOCUMENTS_NAME, has_documents
from ..manifest import Manifest, Without
from ..pieces import pieces_of
from .cut import Cut, Removed
from .found import WITHOUT_NAME, groups, keys_digest, read_table


def check_without(root: str, m: Manifest) -> Iterator[str]:
    """Yield the problems of what the subset at `root` says it was carved without.

    Its table lists the documents that its manifest counts, and its own documents are others. Where its pool is at hand,
    they lie there as the table says, and its shards are what that pool's become without them.
    """
    if m.without is None:
        return
    try:
        table = read_table(root, m.files)
        problem = _miscounted(table, m.without) or _still_there(root, m, table) or _unlike_the_pool(root, m, table)
    except EpochalError as error:
        problem = str(error)
    if problem:
        yield problem


def pool_at_hand(root: str, m: Manifest) -> Artifact | None:
    """Return the pool of the subset at `root`, None where it is not there any more."""
    if m.parent is None or not m.parent.path:
        return None
    path = storage.join(root, m.parent.path)
    if not may_ask(path, root):
        return None
    try:
        pool = open_artifact(path)
    except EpochalError:
        return None
    return pool if pool.manifest.fingerprint == m.parent.fingerprint else None


def _miscounted(table: pa.Table, said: Without) -> str | None:
    counted = len(table), int(arrow.integers(table["tokens"]).sum()), keys_digest(table)
    same = counted == (said.documents, said.tokens, said.digest)
    return None if same else f"{WITHOUT_NAME}: its documents are not those that the manifest counts"


def _still_there(root: str, m: Manifest, table: pa.Table) -> str | None:
    import pyarrow.compute as pc

    if not has_documents(m.files):
        return f"{DOCUMENTS_NAME} is missing: it says which documents are in it"
    keys = table["key"].combine_chunks()
    n = sum(pc.sum(pc.is_in(group["key"], keys)).as_py() or 0 for group in groups(root, ["key"]))
    return f"{DOCUMENTS_NAME}: {n:,} of the documents that were left out are in it" if n else None


def _unlike_the_pool(root: str, m: Manifest, table: pa.Table) -> str | None:
    pool = pool_at_hand(root, m)
    if pool is None:
        return None
    assert m.parent is not None, "a pool at hand is a parent"
    if not _lies_there(pool, table):
        return f"{WITHOUT_NAME}: its documents do not lie in pool '{m.parent.name}' where it says"
    starts = arrow.integers(table["start"])
    removed = Removed(starts, starts + arrow.integers(table["tokens"]))
    per_shard = pool.shards[0].samples
    cut = Cut(removed, pool.manifest.tokens, m.seq_len, per_shard, m.parent.start_sample // per_shard)
    other = f"its shards are not those of pool '{m.parent.name}' without the documents of {WITHOUT_NAME}"
    if m.tokens > cut.capacity:
        return other
    made_of, _ = pieces_of(pool, cut, m.tokens)
    same = [(piece.xxh64, piece.samples) for piece in made_of] == [(c.xxh64, c.samples) for c in m.content]
    return None if same else other


def _lies_there(pool: Artifact, table: pa.Table) -> bool:
    """Return whether the pool's rows of these keys are those of the table."""
    import pyarrow.compute as pc

    keys = table["key"].combine_chunks()
    there = [
        group.filter(pc.is_in(group["key"], keys)).select(["key", "start", "tokens"])
        for group in groups(pool.root, ["key", "start", "tokens"])
    ]
    found = pa.concat_tables(there)
    return found["key"].to_pylist() == table["key"].to_pylist() and all(
        np.array_equal(arrow.integers(found[name]), arrow.integers(table[name])) for name in ("start", "tokens")
    )
