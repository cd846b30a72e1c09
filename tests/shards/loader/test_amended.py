"""A run that is gone on with after its plan was amended reads what the amended plan reads, on any ranks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.shards.carve import carve
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.base import POLICIES, Order
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.loading import flat, plan_for, tokens_of, toy_mixture
from epochal.tests.support.ranks import run_ranks

SKIP = [[48, 61, "spike"], [100, 103, "spike"]]


@pytest.fixture
def subset(make_pool) -> str:
    return carve(str(make_pool(3000)), 901)[0]


def part(rank: int, roots: Any, order: Order, state: dict | None, steps: int | None, receipt: Any) -> tuple:
    """Read some steps of `order` from `state`; return this rank's share of each batch, the state, and its receipt."""
    dataset = RepeatedDataset(roots, order, global_batch=8, batched=True)
    if state is not None:
        dataset.load_state_dict(state)
    mine = Receipt(order, receipt if rank == 0 else None)
    shares = []
    for batch in itertools.islice(dataset.loader(), steps):
        mine.add(batch["position"], batch["sample_id"])
        shares.append(flat([batch]))
    position = order.positions if steps is None else dataset.start_position + 8 * steps
    return shares, dataset.state_dict(position, True), mine.state


def check_goes_on(n_ranks: int, roots: Any, tokens: np.ndarray, order: Order, folder: Path) -> None:
    amended = amend(order, SKIP)
    before, state, receipt = part(0, roots, order, None, 6, None)
    assert state["position"] == SKIP[0][0]
    parts = run_ranks(n_ranks, part, folder, roots, amended, state, None, receipt)
    rest = [list(itertools.chain(*shares)) for shares in zip(*(p[0] for p in parts), strict=True)]
    whole = list(itertools.chain(*itertools.chain(before, rest)))
    ids = amended.ids(range(amended.positions))
    assert [s["position"] for s in whole] == list(range(amended.positions))
    assert [s["sample_id"] for s in whole] == ids.tolist()
    assert np.array_equal(np.stack([s["tokens"] for s in whole]), tokens[ids.astype(int)])
    assert Receipt(amended, np.sum([p[2] for p in parts], axis=0)).check() is None


@pytest.mark.processes
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "repack"])  # test_repack.py has that
def test_a_run_gone_on_with_equals_the_amended_plan(subset: str, tmp_path: Path, n_ranks: int, policy: str) -> None:
    check_goes_on(n_ranks, subset, tokens_of(subset), plan_for(subset, policy=policy), tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_a_mixture_gone_on_with_equals_the_amended_one(make_pool, tmp_path: Path, n_ranks: int) -> None:
    sizes = {"a": 901, "b": 640, "c": 333}
    subsets = {n: str(make_pool(size, name=n, first_document=1000 * i)) for i, (n, size) in enumerate(sizes.items())}
    mixture, roots, tokens = toy_mixture(subsets)
    check_goes_on(n_ranks, roots, tokens, mixture, tmp_path)


def test_a_state_that_has_read_what_is_skipped_is_refused(subset: str) -> None:
    plan = plan_for(subset)
    state = part(0, subset, plan, None, 7, None)[1]
    with pytest.raises(RequestError, match=r"at position 56 it has read some of the new skip \[48, 61\]"):
        part(0, subset, amend(plan, SKIP), state, None, None)


def test_an_amended_plan_of_another_artifact_is_refused(subset: str, make_pool) -> None:
    other = str(make_pool(901, name="other"))
    with pytest.raises(RequestError, match="the plan is not for"):
        RepeatedDataset(other, amend(plan_for(subset), SKIP), global_batch=8)
