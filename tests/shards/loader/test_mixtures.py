import json

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.loading import flat, toy_mixture
from epochal.tests.support.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def check(samples, mixture, tokens, start=0):
    ids = mixture.ids(range(start, mixture.positions))
    assert [s["position"] for s in samples] == list(range(start, mixture.positions))
    assert [s["sample_id"] for s in samples] == ids.tolist()
    assert [s["n_tokens"] for s in samples] == mixture.n_tokens(ids).tolist()
    np.testing.assert_array_equal(np.stack([s["tokens"] for s in samples]), tokens[ids.astype(int)])


def rank_work(rank, roots, mixture, state, workers):
    dataset = RepeatedDataset(roots, mixture, global_batch=8, batched=True)
    if state:
        dataset.load_state_dict(state)
    receipt = Receipt(mixture)
    samples = []
    for batch in dataset.loader(workers):
        samples += flat([batch])
        receipt.add(batch["position"].numpy(), batch["sample_id"].numpy())
    return samples, receipt.state.tolist()


@pytest.mark.processes
@pytest.mark.parametrize(("n_ranks", "workers"), [(2, 2), (4, 0)])
def test_the_same_samples_on_any_ranks_and_after_any_interruption(subsets, tmp_path, n_ranks, workers):
    mixture, roots, tokens = toy_mixture(subsets)
    start = 8 * 5 * n_ranks // 2
    state = RepeatedDataset(roots, mixture, global_batch=8).state_dict(start, True)
    ranks = run_ranks(n_ranks, rank_work, tmp_path, roots, mixture, json.loads(json.dumps(state)), workers)
    samples = sorted((s for r in ranks for s in r[0]), key=lambda s: s["position"])
    check(samples, mixture, tokens, start)
    receipt = Receipt(mixture, np.sum([r[1] for r in ranks], axis=0))
    before = Receipt(mixture)
    before.add(np.arange(start), mixture.ids(range(start)))
    receipt.merge(before)
    assert receipt.check() is None
    assert Receipt.from_json(receipt.to_json()).check() is None


def test_a_whole_run_and_states_of_other_mixtures(subsets, tmp_path):
    mixture, roots, tokens = toy_mixture(subsets)
    dataset = RepeatedDataset(roots, mixture, global_batch=8)
    check(flat(dataset.loader(0)), mixture, tokens)
    assert len(dataset) == mixture.positions
    assert dataset.get_item(mixture.samples - 1)["n_tokens"] == 333 % 16
    other = RepeatedDataset(roots[0], mixture.sources[0].plan, global_batch=8)
    with pytest.raises(RequestError, match="of another run: one is a mixture"):
        dataset.load_state_dict(other.state_dict(8, True))
    with pytest.raises(RequestError, match="the plan is not for"):
        RepeatedDataset(roots[::-1], mixture, global_batch=8)
    with pytest.raises(RequestError, match="reads 3 artifacts, 2 were named"):
        RepeatedDataset(roots[:2], mixture, global_batch=8)


@pytest.mark.slow
def test_a_mixture_through_a_cache(subsets, tmp_path):
    mixture, roots, tokens = toy_mixture(subsets)
    urls = [f"file://{root}" for root in roots]
    check(
        flat(RepeatedDataset(urls, mixture, global_batch=8, cache=str(tmp_path / "cache")).loader(0)), mixture, tokens
    )
    owners = {p.parent.name for p in (tmp_path / "cache").rglob("*.mds")}
    fingerprints = {open_artifact(r).manifest.fingerprint for r in roots}
    assert owners == fingerprints | {open_artifact(r).manifest.parent.fingerprint for r in roots}
    limit = 5 * max(s.bytes for r in roots for s in open_artifact(r).shards)
    again = RepeatedDataset(urls, mixture, global_batch=8, cache=str(tmp_path / "small"), cache_limit=limit)
    check(flat(again.loader(0)), mixture, tokens)
