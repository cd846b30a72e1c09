import json
from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import carve
from epochal.shards.manifest import dump_manifest
from epochal.shards.verify import verify


def flips(path: Path, n: int):
    """Yield the file with one byte changed, at `n` places spread over it, and restore it at the end."""
    original = path.read_bytes()
    for place in np.unique(np.linspace(0, len(original) - 1, n).astype(int)):
        damaged = bytearray(original)
        damaged[place] ^= 0x20  # a letter's case, a digit to a control character: the mildest of changes
        path.write_bytes(bytes(damaged))
        yield place
    path.write_bytes(original)


@pytest.mark.slow
def test_every_flipped_byte_of_a_pool_is_noticed(make_pool):
    pool = make_pool(700)
    assert verify(str(pool)) == []
    for path in sorted(pool.iterdir()):
        for place in flips(path, 60):
            assert verify(str(pool)), f"{path.name} byte {place}"
    assert verify(str(pool)) == []


@pytest.mark.slow
@pytest.mark.parametrize("materialize", [False, True])
def test_every_flipped_byte_of_a_subset_and_of_its_shards_is_noticed(make_pool, materialize):
    pool = make_pool(700)
    subset = Path(carve(str(pool), 333, materialize=materialize)[0])
    used = [Path(shard.path) for shard in open_artifact(str(subset)).shards]
    for path in {*subset.iterdir(), *used}:
        for place in flips(path, 40):
            assert verify(str(subset)), f"{path.name} byte {place}"
    assert verify(str(subset)) == []


@pytest.mark.parametrize("name", ["index.json", "documents.parquet", "shard.00001.mds"])
def test_a_missing_file_is_noticed(make_pool, name):
    pool = make_pool(700)
    (pool / name).unlink()
    assert verify(str(pool))


def test_a_folder_without_manifest_is_no_artifact(make_pool, tmp_path):
    pool = make_pool(700)
    (pool / "manifest.json").unlink()
    for path in (pool, tmp_path / "nowhere"):
        with pytest.raises(RequestError, match=r"no manifest\.json|does not exist"):
            verify(str(path))


def test_a_manifest_that_states_another_count_is_noticed_even_with_a_right_checksum(make_pool):
    pool = make_pool(700)
    m = read_manifest(str(pool))
    (pool / "manifest.json").write_text(dump_manifest(m.model_copy(update={"tokens": 699})))
    assert any("fingerprint" in p for p in verify(str(pool)))
    assert any("tokens after" in p for p in verify(str(pool)))


def test_a_newer_manifest_is_refused_by_version(make_pool):
    pool = make_pool(700)
    body = json.loads((pool / "manifest.json").read_text())
    (pool / "manifest.json").write_text(json.dumps(body | {"format_version": 99}))
    with pytest.raises(RequestError, match="newer epochal"):
        read_manifest(str(pool))
