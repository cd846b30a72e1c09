"""The policy `repack` through all that reads it: tokens held against the pool's documents written one by one."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from epochal.__main__ import main
from epochal.adapters.sampler import OrderBatchSampler
from epochal.adapters.samples import Samples
from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.base import Order
from epochal.shards.order.mixing import by_tokens
from epochal.shards.order.permutation import keyed_permutation
from epochal.shards.order.receipt import Receipt
from epochal.shards.verify import verify
from epochal.tests.support.loading import flat, ingredient, interrupted, plan_for, tokens_of
from epochal.tests.support.pools import EOD, PAD
from epochal.tests.support.ranks import run_ranks


def packed_by_hand(root: str, seed: int, pass_: int) -> np.ndarray:
    """Return the samples of a pass, int64 (n, 16), from the subset's tokens alone: documents end with EOD."""
    manifest = open_artifact(root).manifest
    stream = tokens_of(root).ravel()[: manifest.tokens]
    documents = np.split(stream, np.flatnonzero(stream == EOD) + 1)
    documents = [d for d in documents if len(d)]
    last = len(documents) - 1
    order = keyed_permutation(last, "order/repack", seed, pass_).forward(np.arange(last, dtype=np.uint64)).tolist()
    packed = np.concatenate([documents[i] for i in [*order, last]])
    return np.append(packed, np.full(-len(packed) % 16, PAD)).reshape(-1, 16)


def expected(root: str, plan: Order) -> np.ndarray:
    """Return the tokens of every position of a plan."""
    ids = plan.ids(range(plan.positions)).astype(int)
    passes = plan.passes_at(np.arange(plan.positions))
    walked = [packed_by_hand(root, plan.seed, pass_) for pass_ in range(int(passes.max()) + 1)]
    return np.stack([walked[p][i] for p, i in zip(passes, ids, strict=True)])


@pytest.fixture(params=["view", "replicate", "copy", "pool"])
def root(request, make_pool, tmp_path: Path) -> str:
    pool = str(make_pool(3000))
    if request.param == "pool":
        return pool
    out, copied = str(tmp_path / "subset"), request.param == "copy"
    return carve(pool, 901, 0 if request.param == "view" else 1, out, materialize=copied)[0]


def test_every_position_holds_what_is_packed_by_hand(root: str):
    plan = plan_for(root, policy="repack")
    samples = list(RepeatedDataset(root, plan, global_batch=8))
    assert np.array_equal(np.stack([s["tokens"] for s in samples]), expected(root, plan))
    assert [s["sample_id"] for s in samples] == plan.ids(range(plan.positions)).tolist()
    for pass_ in range(3):
        rows = samples[pass_ * plan.samples : (pass_ + 1) * plan.samples]
        fed = np.sort(np.concatenate([s["tokens"][: s["n_tokens"]] for s in rows]))
        assert np.array_equal(fed, np.sort(tokens_of(root).ravel()[: plan.unique_tokens]))
    first, second = (np.stack([s["tokens"] for s in samples[i * plan.samples :][: plan.samples]]) for i in (0, 1))
    assert not np.array_equal(first, second)


def test_a_view_and_its_copy_are_packed_alike(make_pool, tmp_path: Path):
    pool = str(make_pool(3000))
    view = carve(pool, 901, 1, str(tmp_path / "view"))[0]
    copy = carve(pool, 901, 1, str(tmp_path / "copy"), materialize=True)[0]
    plan = plan_for(view, policy="repack")
    assert plan == plan_for(copy, policy="repack")
    found = [np.stack([s["tokens"] for s in RepeatedDataset(r, plan, global_batch=8)]) for r in (view, copy)]
    assert np.array_equal(*found)


def rank_run(rank: int, root: str, plan: Order, workers: int) -> list[list[dict]]:
    dataset = RepeatedDataset(root, plan, global_batch=8, batched=True)
    return [flat([batch]) for batch in dataset.loader(workers)]


@pytest.mark.processes
@pytest.mark.parametrize(("n_ranks", "workers"), [(1, 2), (2, 0), (4, 0)])
def test_ranks_and_workers(make_pool, tmp_path: Path, n_ranks: int, workers: int):
    root = str(make_pool(3000))
    plan = amend(plan_for(root, policy="repack"), [[40, 61], [200, 203]])
    ranks = run_ranks(n_ranks, rank_run, tmp_path, root, plan, workers)
    samples = list(itertools.chain(*(itertools.chain(*shares) for shares in zip(*ranks, strict=True))))
    assert [s["position"] for s in samples] == list(range(plan.positions))
    assert np.array_equal(np.stack([s["tokens"] for s in samples]), expected(root, plan))


@pytest.mark.processes
@pytest.mark.slow
def test_twenty_interruptions_on_any_ranks_change_nothing(make_pool, tmp_path: Path) -> None:
    root = carve(str(make_pool(9000)), 3001)[0]
    plan = plan_for(root, policy="repack")
    samples, receipt = interrupted(root, plan, tmp_path, [1, 2, 4], {}, times=20)
    assert np.array_equal(np.stack([s["tokens"] for s in samples]), expected(root, plan))
    assert receipt.check() is None
    assert Receipt.from_json(receipt.to_json()).check() is None


def test_adapters_read_the_same(make_pool):
    root = str(make_pool(3000))
    plan = plan_for(root, policy="repack")
    tokens = expected(root, plan)
    samples = Samples(root, plan)
    some = [3, 500, 188, 187, 2]
    assert np.array_equal(samples.read(some)["tokens"], tokens[some])
    assert np.array_equal(pickle.loads(pickle.dumps(samples)).read(some)["tokens"], tokens[some])
    assert list(OrderBatchSampler(samples, plan, global_batch=8))[3] == list(range(24, 32))
    with pytest.raises(RequestError, match="anew every pass: a data set's rows are not its samples"):
        OrderBatchSampler([0] * plan.samples, plan, global_batch=8)


def test_a_source_of_a_mixture_may_be_packed_anew(make_pool):
    a, b = str(make_pool(901, name="a")), str(make_pool(640, name="b", first_document=1000))
    mixture = by_tokens([(ingredient("a", a, policy="repack", seed=3), 3 * 901), (ingredient("b", b), 900)], 10)
    order = amend(mixture, [[30, 41]])
    ids = order.ids(range(order.positions))
    sources, numbers = order.locate(ids)
    passes = order.passes_at(np.arange(order.positions))
    found = np.stack([s["tokens"] for s in RepeatedDataset([a, b], order, global_batch=8)])
    plain = tokens_of(b)
    for row, source, number, pass_ in zip(found, sources, numbers.astype(int), passes, strict=True):
        assert np.array_equal(row, plain[number] if source else packed_by_hand(a, 3, pass_)[number])
    assert np.array_equal(Samples([a, b], order).read(range(order.positions))["tokens"], found)


def test_downloads_bring_what_is_read(make_pool, tmp_path: Path):
    root = str(make_pool(3000))
    plan = plan_for(root, policy="repack")
    tokens = expected(root, plan)
    for limit in (None, 8 * 1024):
        options = {"cache": str(tmp_path / f"cache{limit}"), "cache_limit": limit}
        dataset = RepeatedDataset(root, plan, global_batch=8, **options)
        assert np.array_equal(np.stack([s["tokens"] for s in dataset]), tokens)


def test_one_sample_by_its_id_is_refused(make_pool):
    root = str(make_pool(3000))
    dataset = RepeatedDataset(root, plan_for(root, policy="repack"), global_batch=8)
    with pytest.raises(RequestError, match="repack cuts samples anew every pass: read it by its position"):
        dataset.get_item(3)


def test_a_subset_without_a_table_of_documents_is_refused_in_a_line(make_pool):
    root = make_pool(3000)
    plan = plan_for(str(root), policy="repack")
    (root / "documents.parquet").unlink()
    with pytest.raises(RequestError, match=r"has no documents\.parquet, which says where documents begin"):
        RepeatedDataset(str(root), plan, global_batch=8)


def test_exports_hold_what_is_packed(make_pool, tmp_path: Path):
    root = carve(str(make_pool(3000)), 901)[0]
    plan = plan_for(root, epochs=3, seed=0, policy="repack")
    tokens = expected(root, plan)
    real = np.concatenate(
        [row[:n] for row, n in zip(tokens, plan.n_tokens(plan.ids(range(plan.positions))), strict=True)]
    )
    for layout in ("bin", "parquet"):
        out = export(root, layout, str(tmp_path / layout), passes=3, policy="repack")[0]
        assert verify(out) == []
    assert np.array_equal(np.fromfile(tmp_path / "bin/train.bin", "<u2"), real)


def test_a_receipt_is_audited(make_pool, tmp_path: Path):
    pool = str(make_pool(1500))
    assert main(["order", pool, "--policy", "repack", "--count", "2", "--documents"]) == 0
    plan = plan_for(pool, policy="repack")
    receipt = Receipt(plan)
    for batch in RepeatedDataset(pool, plan, global_batch=8).loader():
        receipt.add(batch["position"], batch["sample_id"])
    (tmp_path / "receipt.json").write_text(receipt.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 0
