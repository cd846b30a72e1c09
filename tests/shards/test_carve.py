import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.errors import EpochalError, RequestError, WorkError
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import capacity, carve, window_start
from epochal.shards.documents import DocumentStarts
from epochal.shards.verify import verify
from epochal.tests.support.loading import stock_dataset

SEQ_LEN = 16


def stock_tokens(folder: Path) -> np.ndarray:
    """Return every sample that unmodified StreamingDataset serves, in order, as one array."""
    with stock_dataset(folder, shuffle=False, batch_size=1) as dataset:
        return np.stack([dataset[i]["tokens"] for i in range(dataset.num_samples)])


@pytest.mark.parametrize("materialize", [False, True])
@pytest.mark.parametrize("n", [1, SEQ_LEN - 1, SEQ_LEN, SEQ_LEN + 1, 8 * SEQ_LEN, 1000, 2990, 3001])
def test_stock_reader_serves_exactly_n_tokens_of_the_pool(make_pool, n, materialize):
    pool = make_pool(3001)
    stream = stock_tokens(pool).reshape(-1)
    out, new = carve(str(pool), n, materialize=materialize)
    assert new
    samples = stock_tokens(Path(out)).reshape(-1)
    pad = read_manifest(out).tokenizer.pad
    assert (samples != pad).sum() == n
    np.testing.assert_array_equal(samples[:n], stream[:n])
    assert verify(out) == []


def test_subset_is_prefix_of_larger_subset(make_pool):
    pool = make_pool(5000)
    small, large = (stock_tokens(Path(carve(str(pool), n)[0])).reshape(-1) for n in (777, 3333))
    np.testing.assert_array_equal(small[:777], large[:777])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 4000])
def test_a_view_costs_at_most_one_sample_of_new_token_bytes(make_pool, n):
    out = Path(carve(str(make_pool(5000)), n)[0])
    written = sum(p.stat().st_size for p in out.glob("*.mds"))
    assert written <= SEQ_LEN * 2 + 400  # one sample and the shard's header
    assert (written == 0) == (n % SEQ_LEN == 0)


def test_replicates_share_no_document_up_to_the_stated_capacity(make_pool):
    pool = make_pool(20_000)
    n = capacity(open_artifact(str(pool)), 2)
    documents = DocumentStarts(str(pool))
    seen: set[int] = set()
    for replicate in range(3):
        m = read_manifest(carve(str(pool), n, replicate)[0])
        assert m.parent is not None
        start = m.parent.start_sample * SEQ_LEN
        first, last = documents.at(start)[0], documents.at(start + n - 1)[0]
        assert m.documents == last - first + 1
        assert not seen & set(range(first, last + 1))
        seen |= set(range(first, last + 1))
    with pytest.raises(RequestError, match=f"disjoint up to {n:,} tokens each"):
        carve(str(pool), n + 1, 2)


def test_more_than_there_is_says_how_much_there_is(make_pool):
    with pytest.raises(RequestError, match=r"asked for 3,002 unique tokens, but pool 'toy' has 3,001"):
        carve(str(make_pool(3001)), 3002)


@pytest.mark.parametrize(("tokens", "replicate"), [(0, 0), (5, -1)])
def test_impossible_requests_are_refused(make_pool, tokens, replicate):
    with pytest.raises(RequestError):
        carve(str(make_pool(100)), tokens, replicate)


def test_carving_again_is_a_no_op_and_other_targets_are_left_alone(make_pool, tmp_path):
    pool = make_pool(1000)
    out, _ = carve(str(pool), 100)
    before = {p.name: p.read_bytes() for p in Path(out).iterdir()}
    assert carve(str(pool), 100) == (out, False)
    assert {p.name: p.read_bytes() for p in Path(out).iterdir()} == before
    with pytest.raises(RequestError, match="holds something else"):
        carve(str(pool), 101, out=out)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(RequestError, match="holds something else"):
        carve(str(pool), 100, out=str(mine))
    assert (mine / "notes.txt").read_text() == "keep me"


def test_a_copy_has_the_fingerprint_of_the_view_and_stands_alone(make_pool, tmp_path):
    pool = make_pool(3000)
    view, _ = carve(str(pool), 1234)
    copy, _ = carve(str(pool), 1234, materialize=True)
    assert read_manifest(view).fingerprint == read_manifest(copy).fingerprint
    shutil.move(copy, tmp_path / "elsewhere")
    shutil.rmtree(pool)
    assert verify(str(tmp_path / "elsewhere")) == []


def test_a_view_whose_pool_is_gone_or_another_is_refused(make_pool):
    pool = make_pool(3000)
    view, _ = carve(str(pool), 1234)
    shutil.rmtree(pool)
    with pytest.raises(RequestError, match="pool 'toy'"):
        open_artifact(view)
    make_pool(2999)
    with pytest.raises(RequestError, match="is not the pool"):
        open_artifact(view)


def test_carving_from_a_damaged_shard_leaves_nothing(make_pool):
    pool = make_pool(3000)
    shard = pool / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WorkError, match="damaged"):
        carve(str(pool), 100)
    assert list((pool.parent.parent).rglob("*.partial")) == []
    assert not (pool.parent.parent / "subsets" / "toy-100").exists()


@pytest.mark.parametrize("basename", ["/etc/shard.00000.mds", "../other/shard.00000.mds", "../../pools/toy/index.json"])
def test_an_index_that_names_a_file_elsewhere_is_refused(make_pool, basename):
    view = Path(carve(str(make_pool(3000)), 1024)[0])
    index = json.loads((view / "index.json").read_text())
    index["shards"][0]["raw_data"]["basename"] = basename
    (view / "index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="refused"):
        open_artifact(str(view))


@given(st.integers(1, 10), st.integers(0, 6))
def test_window_starts_are_distinct_and_far_apart(log2_shards, log2_replicates):
    n_shards = 2**log2_shards * 7
    starts = sorted(window_start(r, n_shards) for r in range(2**log2_replicates))
    gaps = np.diff([*starts, n_shards])
    assert starts[0] == 0
    assert gaps.min() >= n_shards // 2**log2_replicates


@pytest.mark.parametrize("n", [15, 1024, 2001])
def test_webdataset_files_hold_exactly_the_subset_for_webdatasets_own_reader(make_pool, monkeypatch, n):
    import webdataset

    monkeypatch.setattr("epochal.shards.formats.webdataset.SAMPLES_PER_FILE", 50)
    pool = make_pool(3001)
    view, _ = carve(str(pool), n)
    out, _ = carve(str(pool), n, layout="wds")
    urls = sorted(str(path) for path in Path(out).glob("*.tar"))
    samples = [s["tokens.npy"] for s in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()]
    np.testing.assert_array_equal(np.stack(samples), stock_tokens(Path(view)))
    assert read_manifest(out).fingerprint == read_manifest(view).fingerprint
    assert read_manifest(out).shards == len(urls)
    assert verify(out) == []
    with pytest.raises(RequestError, match="WebDataset"):
        open_artifact(out)
    data = Path(urls[-1]).read_bytes()
    Path(urls[-1]).write_bytes(data[:-1] + b"x")
    assert verify(out)


def test_webdataset_files_are_the_same_bytes_every_time(make_pool, tmp_path):
    pool = make_pool(3001)
    a, b = (Path(carve(str(pool), 700, layout="wds", out=str(tmp_path / name))[0]) for name in "ab")
    assert [p.read_bytes() for p in sorted(a.glob("*.tar"))] == [p.read_bytes() for p in sorted(b.glob("*.tar"))]


def test_a_flipped_bit_in_the_table_of_documents_is_named(make_pool, tmp_path) -> None:
    pool = make_pool(3000)
    path = pool / "documents.parquet"
    whole = path.read_bytes()
    for at in range(10, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        for replicate in (0, 1):
            with pytest.raises(EpochalError, match=r"documents\.parquet is damaged"):
                carve(str(pool), 300, replicate, out=str(tmp_path / "s"))


@pytest.mark.parametrize("replicate", [10**17, 2**63, 10**31])
def test_a_replicate_beyond_the_shards_is_refused_at_once(make_pool, replicate: int) -> None:
    with pytest.raises(RequestError, match="disjoint up to 0 tokens"):
        carve(str(make_pool(3000)), 100, replicate)
