import json
from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import WorkError
from epochal.common.hashing import xxh64
from epochal.shards import mds
from epochal.shards.artifact import open_artifact


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_shard_bytes_equal_those_of_mdswriter(tmp_path: Path, dtype: str) -> None:
    from streaming import MDSWriter

    samples = np.random.default_rng(1).integers(0, 60000, (37, 24)).astype(dtype)
    columns = {"tokens": f"ndarray:{dtype}:24"}
    with MDSWriter(out=str(tmp_path / "stock"), columns=columns, hashes=["xxh64"], size_limit=None) as writer:
        for sample in samples:
            writer.write({"tokens": sample})
    ours = mds.encode_shard(samples)
    assert ours == (tmp_path / "stock" / "shard.00000.mds").read_bytes()
    entry = mds.index_entry("shard.00000.mds", 37, len(ours), xxh64(ours), 24, dtype)
    assert entry == json.loads((tmp_path / "stock" / "index.json").read_text())["shards"][0]


def test_open_shard_reads_what_encode_shard_wrote(tmp_path: Path) -> None:
    samples = np.arange(60, dtype=np.uint16).reshape(5, 12)
    path = tmp_path / "shard.00000.mds"
    path.write_bytes(mds.encode_shard(samples))
    np.testing.assert_array_equal(mds.open_shard(str(path), 12, "uint16")[:], samples)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"\xff" + b[1:], lambda b: b + b"x"])
def test_open_shard_refuses_a_file_that_is_no_whole_shard(tmp_path: Path, damage) -> None:
    path = tmp_path / "shard.00000.mds"
    path.write_bytes(damage(mds.encode_shard(np.zeros((5, 12), np.uint16))))
    with pytest.raises(WorkError, match="damaged"):
        mds.open_shard(str(path), 12, "uint16")


def test_open_artifact_reads_a_pool(make_pool) -> None:
    pool = open_artifact(str(make_pool(1000)))
    assert (pool.manifest.tokens, pool.manifest.samples, len(pool.shards)) == (1000, 63, 8)
    assert [s.samples for s in pool.shards] == [8] * 7 + [7]
