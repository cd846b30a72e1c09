"""Subsets carved without documents, token by token: what is in them, which shards stay the pool's, what is equal."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import capacity, carve
from epochal.shards.documents import DocumentStarts
from epochal.shards.export import export
from epochal.shards.order.contents import contents, documents_of
from epochal.shards.order.mixing import Ingredient, check_together
from epochal.shards.order.plan import Plan
from epochal.shards.transfer.transfer import push
from epochal.shards.verify import verify
from epochal.shards.without.cut import Cut, Removed
from epochal.shards.without.found import find
from epochal.tests.support.builds import stream
from epochal.tests.support.loading import stock_dataset
from epochal.tests.support.pools import walk_left

SEQ_LEN, PER_SHARD = 16, 8


def some_keys(pool: Path, n: int, seed: int = 0) -> list[dict[str, object]]:
    """Return the rows of `n` random documents of a pool, in its order."""
    rows = pq.read_table(pool / "documents.parquet").to_pylist()
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), n, replace=False))
    return [rows[i] for i in chosen]


def listed(folder: Path, rows: list[dict[str, object]], name: str = "opt-outs.txt") -> str:
    """Return the path of a list of documents' keys."""
    (folder / name).write_text("".join(f"{row['key'].hex()}\n" for row in rows))  # type: ignore[attr-defined]
    return str(folder / name)


def left_of(pool: Path, rows: list[dict[str, object]], first: int = 0) -> list[int]:
    """Return which positions of a pool's stream are left, by a walk over every token."""
    starts = np.array([row["start"] for row in rows], np.int64)
    removed = Removed(starts, starts + np.array([row["tokens"] for row in rows], np.int64))
    return walk_left(Cut(removed, read_manifest(str(pool)).tokens, SEQ_LEN, PER_SHARD, first))


@pytest.mark.parametrize("n_keys", [1, 40, 1000])
def test_no_token_of_1000_random_documents_is_in_it_and_all_others_are(make_pool, tmp_path, n_keys) -> None:
    pool = make_pool(60_000)
    gone = some_keys(pool, n_keys)
    positions = left_of(pool, gone)
    for n in (1, 5 * SEQ_LEN, 20_001, len(positions)):
        out, _ = carve(str(pool), n, without=[listed(tmp_path, gone)], out=str(tmp_path / f"s{n}"))
        m = read_manifest(out)
        assert m.tokens == n
        np.testing.assert_array_equal(stream(out), stream(str(pool))[positions[:n]])
        assert m.without is not None
        assert (m.without.documents, m.without.tokens) == (n_keys, sum(row["tokens"] for row in gone))
    with pytest.raises(RequestError, match=f"has {len(positions):,} of 60,000 without those documents"):
        carve(str(pool), len(positions) + 1, without=[listed(tmp_path, gone)])


def test_shards_that_lose_nothing_are_the_pools_by_reference(make_pool, tmp_path) -> None:
    pool = make_pool(20_000)
    gone = some_keys(pool, 5)
    out, _ = carve(str(pool), 15_000, without=[listed(tmp_path, gone)])
    width = SEQ_LEN * PER_SHARD
    touched = {i for row in gone for i in range(row["start"] // width, (row["start"] + row["tokens"] - 1) // width + 1)}
    referred = [s.basename for s in open_artifact(out).shards if "/" in s.basename]
    numbers = {int(name.split(".")[-2]) for name in referred}
    last = max(numbers)
    assert numbers == set(range(last + 1)) - touched
    assert len(list(Path(out).glob("*.mds"))) <= len(touched) + 1
    samples = stream(str(pool))[: 156 * width].reshape(-1, SEQ_LEN)
    mine = {row.tobytes() for row in stream(out)[: 15_000 // SEQ_LEN * SEQ_LEN].reshape(-1, SEQ_LEN)}
    for number in sorted(numbers - {last}):  # all their samples are there, byte by byte
        assert all(s.tobytes() in mine for s in samples[number * PER_SHARD : (number + 1) * PER_SHARD])


@pytest.mark.parametrize("form", [{}, {"materialize": True}, {"layout": "wds"}])
def test_every_form_has_one_fingerprint_and_is_verified(make_pool, tmp_path, form) -> None:
    pool = make_pool(6000)
    keys = listed(tmp_path, some_keys(pool, 20))
    out, new = carve(str(pool), 3001, without=[keys], **form)
    assert new
    assert verify(out) == []
    assert read_manifest(out).fingerprint == read_manifest(carve(str(pool), 3001, without=[keys])[0]).fingerprint
    assert carve(str(pool), 3001, without=[keys], **form) == (out, False)


def test_stock_reader_serves_it(make_pool, tmp_path) -> None:
    pool = make_pool(6000)
    out, _ = carve(str(pool), 2000, without=[listed(tmp_path, some_keys(pool, 20))])
    with stock_dataset(Path(out), shuffle=False, batch_size=1) as dataset:
        served = np.stack([dataset[i]["tokens"] for i in range(dataset.num_samples)]).reshape(-1)
    np.testing.assert_array_equal(served[:2000], stream(out))


def test_smaller_is_a_prefix_of_larger(make_pool, tmp_path) -> None:
    pool = make_pool(6000)
    keys = listed(tmp_path, some_keys(pool, 30))
    small, large = (stream(carve(str(pool), n, without=[keys])[0]) for n in (777, 3333))
    np.testing.assert_array_equal(small, large[:777])


def test_replicates_without_documents_share_none(make_pool, tmp_path) -> None:
    pool = make_pool(20_000)
    gone = some_keys(pool, 60)
    taken_out = find(open_artifact(str(pool)), [listed(tmp_path, gone)], None)
    n = capacity(open_artifact(str(pool)), 2, taken_out.removed)
    assert 3000 < n < capacity(open_artifact(str(pool)), 2)
    seen: set[bytes] = set()
    for replicate in range(3):
        out, _ = carve(str(pool), n, replicate, without=[listed(tmp_path, gone)])
        keys = set(pq.read_table(f"{out}/documents.parquet")["key"].to_pylist())
        assert not keys & seen
        seen |= keys
        first = open_artifact(str(pool)).manifest.shards
        start = {0: 0, 1: first // 2, 2: first // 4}[replicate]
        np.testing.assert_array_equal(stream(out), stream(str(pool))[left_of(pool, gone, start)[:n]])
    assert not seen & {row["key"] for row in gone}


def test_its_table_says_which_documents_lie_where(make_pool, tmp_path) -> None:
    pool = make_pool(6000)
    gone = some_keys(pool, 20)
    out, _ = carve(str(pool), 3001, without=[listed(tmp_path, gone)])
    m, tokens, whole = read_manifest(out), stream(out), stream(str(pool))
    rows = {row["key"]: row for row in pq.read_table(pool / "documents.parquet").to_pylist()}
    at = 0
    for row in pq.read_table(f"{out}/documents.parquet").to_pylist():
        assert row["start"] == at
        there = whole[rows[row["key"]]["start"] :][: rows[row["key"]]["tokens"]]
        mine = tokens[at : at + row["tokens"]]
        assert mine.tobytes() in (there[: len(mine)].tobytes(), there[len(there) - len(mine) :].tobytes()) or (
            len(mine) < len(there)  # its middle is left out, beside a whole shard
        )
        at += row["tokens"]
    assert at == m.tokens
    assert m.documents == DocumentStarts(out).count(0, m.tokens)
    plan = Plan.for_artifact(m, 2 * m.tokens)
    assert plan.start_sample == 0
    read = contents(plan, [documents_of(open_artifact(out))], range(plan.positions))
    assert not {piece.key for content in read for piece in content.documents} & {row["key"].hex() for row in gone}


def test_an_ordinary_subset_is_what_it_was(make_pool, tmp_path) -> None:
    pool = make_pool(5000)
    out, _ = carve(str(pool), 3001)
    body = json.loads(Path(out, "manifest.json").read_text())
    assert "without" not in body
    assert body["fingerprint"] == "9f9bcd67714807e599b525c552e2cd74"
    nothing, new = carve(str(pool), 3001, without=[listed(tmp_path, [{"key": b"x" * 16}])])
    assert (nothing, new) == (out, False)  # nothing of the list is in the pool


def test_windows_that_overlap_in_the_pool_are_not_mixed(make_pool, tmp_path) -> None:
    pool = make_pool(20_000)
    gone = some_keys(pool, 100)
    first = read_manifest(carve(str(pool), 8000, without=[listed(tmp_path, gone)])[0])
    assert first.without is not None
    assert first.without.stop == left_of(pool, gone)[7999] + 1
    second = read_manifest(carve(str(pool), 300, 1)[0])
    check_together([Ingredient("a", first), Ingredient("b", second)])  # the pool's other half
    whole = read_manifest(carve(str(pool), 10_240 + 1)[0])
    for other in (whole, read_manifest(str(pool))):
        with pytest.raises(RequestError, match="hold the same samples"):
            check_together([Ingredient("a", first), Ingredient("b", other)])


def test_exports_and_copies_elsewhere_hold_the_same_tokens(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = make_pool(6000)
    out, _ = carve(str(pool), 3001, without=[listed(tmp_path, some_keys(pool, 20))])
    for layout in ("megatron", "parquet"):
        exported, _ = export(out, layout, str(tmp_path / layout))
        assert verify(exported) == []
    for refer in (None, str(pool)):
        sent = str(tmp_path / "elsewhere" / f"{refer is None}")
        push(out, sent, refer=refer)
        assert verify(sent) == []
        assert read_manifest(sent).fingerprint == read_manifest(out).fingerprint
        np.testing.assert_array_equal(stream(sent), stream(out))
