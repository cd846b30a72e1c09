"""Verification of subsets that were carved without documents: whatever was changed is noticed, with its sums mended."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from epochal.common.hashing import xxh64
from epochal.common.publish import FileInfo
from epochal.shards import mds
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import carve
from epochal.shards.manifest import Content, Manifest, dump_manifest, fingerprint
from epochal.shards.verify import verify
from epochal.shards.without.check import check_without
from epochal.shards.without.found import keys_digest


@pytest.fixture
def subset(make_pool: Callable[..., Path], tmp_path: Path) -> str:
    """A view without ten documents, whose shards are partly its own."""
    pool = make_pool(6000)
    keys = pq.read_table(pool / "documents.parquet")["key"].to_pylist()[5:95:9]
    (tmp_path / "keys.txt").write_text("".join(f"{key.hex()}\n" for key in keys))
    return carve(str(pool), 3000, without=[str(tmp_path / "keys.txt")])[0]


def rewritten(out: str, name: str, table: object, **changes: object) -> Manifest:
    """Write a table into a subset, and a manifest that vouches for it; return the manifest."""
    pq.write_table(table, f"{out}/{name}")
    m = read_manifest(out)
    without = m.without.model_copy(update=changes)  # type: ignore[union-attr]
    m = m.model_copy(update={"files": m.files | {name: FileInfo.at(f"{out}/{name}")}, "without": without})
    m = m.model_copy(update={"fingerprint": fingerprint(m)})
    Path(out, "manifest.json").write_text(dump_manifest(m))
    return m


def test_a_document_fewer_in_the_table_is_noticed(subset: str) -> None:
    table = pq.read_table(f"{subset}/without.parquet")
    m = rewritten(subset, "without.parquet", table.slice(1))
    assert list(check_without(subset, m)) == ["without.parquet: its documents are not those that the manifest counts"]


def test_a_manifest_that_goes_with_another_table_is_noticed(subset: str) -> None:
    table = pq.read_table(f"{subset}/without.parquet").slice(1)
    sums = {"documents": len(table), "tokens": sum(table["tokens"].to_pylist()), "digest": keys_digest(table)}
    m = rewritten(subset, "without.parquet", table, **sums)
    (problem,) = check_without(subset, m)
    assert "its shards are not those of pool 'toy' without the documents" in problem


def test_other_places_are_noticed(subset: str) -> None:
    table = pq.read_table(f"{subset}/without.parquet")
    starts = np.array(table["start"].to_pylist()) + 1
    moved = table.set_column(table.schema.get_field_index("start"), "start", [starts.tolist()])
    m = rewritten(subset, "without.parquet", moved)
    assert list(check_without(subset, m)) == ["without.parquet: its documents do not lie in pool 'toy' where it says"]


def test_a_document_that_is_still_listed_is_noticed(subset: str) -> None:
    documents, gone = pq.read_table(f"{subset}/documents.parquet"), pq.read_table(f"{subset}/without.parquet")
    keys = [gone["key"][0].as_py(), *documents["key"].to_pylist()[1:]]
    index = documents.schema.get_field_index("key")
    m = rewritten(subset, "documents.parquet", documents.set_column(index, "key", [keys]))
    assert list(check_without(subset, m)) == ["documents.parquet: 1 of the documents that were left out are in it"]


def test_a_shard_with_other_tokens_is_noticed_though_all_hashes_were_mended(subset: str) -> None:
    m = read_manifest(subset)
    path = next(Path(subset).glob("*.mds"))
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    shards = open_artifact(subset).shards
    old = next(s for s in shards if s.basename == path.name)
    content = [Content(xxh64=xxh64(bytes(data)), samples=c.samples) if c.xxh64 == old.xxh64 else c for c in m.content]
    index = Path(subset, "index.json").read_text().replace(old.xxh64, xxh64(bytes(data)))
    Path(subset, "index.json").write_text(index)
    files = m.files | {name: FileInfo.at(f"{subset}/{name}") for name in (path.name, "index.json")}
    m = m.model_copy(update={"content": content, "files": files})
    m = m.model_copy(update={"fingerprint": fingerprint(m)})
    Path(subset, "manifest.json").write_text(dump_manifest(m))
    assert any("its shards are not those of pool 'toy'" in problem for problem in verify(subset))


def test_a_damaged_or_missing_table_is_a_problem_and_no_traceback(subset: str) -> None:
    Path(subset, "without.parquet").write_bytes(b"PAR1")
    assert any(p.startswith("without.parquet") for p in verify(subset))
    Path(subset, "without.parquet").unlink()
    assert "without.parquet is missing" in verify(subset)
    (problem,) = check_without(subset, read_manifest(subset))
    assert "without.parquet is missing: restore it" in problem


def test_a_copy_away_from_its_pool_is_checked_by_itself(make_pool, tmp_path: Path, capsys) -> None:
    from epochal.__main__ import main

    pool = make_pool(6000)
    (tmp_path / "keys.txt").write_text("doc3\ndoc50\n")
    out, _ = carve(str(pool), 3000, without=[str(tmp_path / "keys.txt")], materialize=True)
    shutil.rmtree(pool)
    assert verify(out) == []
    assert main(["verify", out]) == 0
    assert "(without 2 documents, as it was written: its pool is not at hand)" in capsys.readouterr().out
    assert mds.shard_name(0) in read_manifest(out).files
