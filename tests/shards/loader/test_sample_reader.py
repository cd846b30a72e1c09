import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from epochal.common import hashing, storage
from epochal.common.errors import WorkError
from epochal.shards.artifact import Artifact, open_artifact
from epochal.shards.carve import carve
from epochal.shards.loader.cache import in_cache
from epochal.shards.loader.sample_reader import SampleReader, read_shard
from epochal.tests.support.loading import tokens_of
from epochal.tests.support.pools import flip_bit, write_pool


@pytest.fixture
def subset(make_pool, tmp_path: Path) -> Artifact:
    """Return a view of a pool: 70 samples in shards of the pool's, the last cut, and one of its own that PAD fills."""
    out, _ = carve(str(make_pool(3000)), 69 * 16 + 5, 1, str(tmp_path / "subset"))
    return open_artifact(out)


def at_url(artifact: Artifact, name: str) -> Artifact:
    """Return the same artifact, copied whole to a store in memory."""
    root = f"memory://readers-{name}"
    for shard in artifact.shards:
        storage.write_atomic(f"{root}/{shard.basename.rpartition('/')[2]}", Path(shard.path).read_bytes())
    for file in ("manifest.json", "index.json"):
        storage.write_atomic(f"{root}/{file}", Path(artifact.root, file).read_bytes())
    return open_artifact(root)


def test_samples_are_read_in_place_and_by_way_of_a_cache(make_pool, subset: Artifact, tmp_path: Path) -> None:
    for artifact in (open_artifact(str(make_pool(1000, name="whole"))), subset):
        expected = tokens_of(artifact.root)
        reader = SampleReader.of(artifact)
        ids = np.random.default_rng(0).permutation(artifact.manifest.samples)
        np.testing.assert_array_equal(reader.read(ids), expected[ids])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(ids), expected[ids])
        assert reader.read([]).shape == (0, 16)
        whole = np.concatenate([read_shard(shard, artifact.manifest) for shard in artifact.shards])
        np.testing.assert_array_equal(whole, expected)
    pool = open_artifact(str(tmp_path / "artifacts/pools/whole"))
    remote = at_url(pool, tmp_path.name)
    cache = tmp_path / "cache"
    reader = SampleReader.of(remote, str(cache))
    np.testing.assert_array_equal(reader.read([0, 1]), tokens_of(pool.root)[:2])
    assert [path.name for path in cache.rglob("*.mds")] == ["shard.00000.mds"]  # only what was read
    here = in_cache(remote, str(cache))
    np.testing.assert_array_equal(SampleReader.of(here).read(range(pool.manifest.samples)), tokens_of(pool.root))


def test_a_flipped_bit_is_named_and_a_bad_copy_in_the_cache_fetched_again(make_pool, tmp_path: Path) -> None:
    pool = make_pool(1000)
    artifact = open_artifact(str(pool))
    remote = at_url(artifact, tmp_path.name)
    reader = SampleReader.of(remote, str(tmp_path / "cache"))
    reader.read(range(artifact.manifest.samples))
    flip_bit(tmp_path / "cache" / artifact.manifest.fingerprint, 2)
    again = SampleReader.of(remote, str(tmp_path / "cache"))
    np.testing.assert_array_equal(again.read(range(16, 24)), tokens_of(artifact.root)[16:24])

    name = flip_bit(pool, 2)
    damaged = SampleReader.of(artifact)
    damaged.check(range(16))
    assert damaged.read(range(16)).shape == (16, 16)
    for look in (damaged.check, damaged.read):
        with pytest.raises(WorkError, match=f"{name} is damaged"):
            look([16])
    with pytest.raises(WorkError, match=f"{name} is damaged"):
        read_shard(artifact.shards[2], artifact.manifest)


def test_a_shard_is_hashed_once_for_a_reader(make_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = open_artifact(str(make_pool(1000)))
    hashed: list[str] = []
    hash_file = hashing.xxh64_file
    monkeypatch.setattr(hashing, "xxh64_file", lambda path: hashed.append(path) or hash_file(path))
    reader = SampleReader.of(artifact)
    for _ in range(3):
        reader.check(range(artifact.manifest.samples))
        reader.read(range(artifact.manifest.samples))
    assert hashed == [shard.path for shard in artifact.shards]


READ_ON = """
import sys
from pathlib import Path
from epochal.shards.artifact import open_artifact
from epochal.shards.loader.sample_reader import SampleReader

reader = SampleReader.of(open_artifact(sys.argv[1]))
reader.check(range(16))
path = Path(reader.shards[1].path)
with path.open("r+b") as f:
    f.truncate(path.stat().st_size // 2)
print(reader.read([8])[0, 0] >= 0)
try:
    reader.read([15])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.processes
def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, 4096 * 16, seq_len=4096)  # so that whole pages are gone
    done = subprocess.run([sys.executable, "-c", READ_ON, str(pool)], capture_output=True, text=True)
    assert done.returncode == 0, done
    name = f"{pool}/shard.00001.mds"
    assert done.stdout.splitlines() == [
        "True",
        f"WorkError: shard {name} is damaged: it was cut while it was read; restore it",
    ]
