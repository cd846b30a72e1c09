import gc
import itertools
import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.common import hashing
from epochal.common.errors import EpochalError, RequestError
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.loader.cache import ShardFile
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.loader.sample_reader import SampleReader
from epochal.shards.order.base import POLICIES
from epochal.shards.order.plan import Plan
from epochal.tests.support.loading import (
    check_run,
    flat,
    interrupted,
    plan_for,
    read_until_error,
    stock_dataset,
    tokens_of,
)
from epochal.tests.support.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def subset(make_pool) -> str:
    """A view of a pool: 901 tokens are 57 samples of 16, the last one padded and in the subset's own folder."""
    return carve(str(make_pool(3000)), 901)[0]


# -- one process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "repack"])  # test_repack.py has that
def test_iterating_gives_the_plan_and_ends_at_the_budget(subset: str, policy: str) -> None:
    plan = plan_for(subset, policy=policy)
    samples = list(RepeatedDataset(subset, plan, global_batch=8))
    check_run(samples, plan, tokens_of(subset))
    assert samples[0]["tokens"].dtype == np.int64
    assert sum(s["n_tokens"] for s in samples) == plan.tokens


def test_a_pool_and_a_copy_are_read_like_a_view(make_pool, tmp_path: Path) -> None:
    pool = str(make_pool(1000))
    plan = plan_for(pool)
    check_run(list(RepeatedDataset(f"file://{pool}", plan, global_batch=8)), plan, tokens_of(pool))
    view, copy = carve(pool, 700)[0], carve(pool, 700, out=str(tmp_path / "copy"), materialize=True)[0]
    plan = plan_for(view)
    check_run(list(RepeatedDataset(copy, plan, global_batch=8)), plan, tokens_of(view))


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_workers_do_not_change_order_or_batches(subset: str, workers: int, batched: bool) -> None:
    plan = plan_for(subset)
    dataset = RepeatedDataset(subset, plan, global_batch=7, batched=batched)
    loader = dataset.loader(workers)
    for _ in range(2):  # iterating again reads the same
        batches = list(loader)
        assert [len(b["position"]) for b in batches] == [7] * (plan.positions // 7) + [plan.positions % 7]
        assert all(isinstance(t, torch.Tensor) and t.dtype == torch.int64 for b in batches for t in b.values())
        check_run(flat(batches), plan, tokens_of(subset))
    assert len(loader) == len(batches)


@pytest.mark.slow
def test_ids_computed_ahead_do_not_show(subset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(subset)
    monkeypatch.setattr("epochal.shards.loader.dataset._IDS_AHEAD", 10)
    check_run(flat(RepeatedDataset(subset, plan, global_batch=4).loader(2)), plan, tokens_of(subset))


@pytest.mark.slow
def test_a_state_continues_with_other_workers_and_batch(subset: str) -> None:
    plan = plan_for(subset)
    first = RepeatedDataset(subset, plan, global_batch=6)
    state = json.loads(json.dumps(first.state_dict(48, True)))
    for batch, workers in ((6, 0), (4, 2), (10, 1)):
        dataset = RepeatedDataset(subset, plan, global_batch=batch)
        dataset.load_state_dict(state)
        assert dataset.start_position == 48
        check_run(flat(dataset.loader(workers)), plan, tokens_of(subset), 48)
        assert dataset.state_dict(12, False)["position"] == 60
        assert dataset.state_dict(60, True)["position"] == 60


@pytest.mark.slow
def test_workers_that_live_on_see_a_new_state(subset: str) -> None:
    plan = plan_for(subset)
    dataset = RepeatedDataset(subset, plan, global_batch=6)
    loader = dataset.loader(2, persistent_workers=True)
    check_run(flat(loader), plan, tokens_of(subset))
    dataset.load_state_dict(dataset.state_dict(36, True))
    check_run(flat(loader), plan, tokens_of(subset), 36)


def test_at_the_end_nothing_is_left(subset: str) -> None:
    plan = plan_for(subset)
    dataset = RepeatedDataset(subset, plan, global_batch=6)
    dataset.load_state_dict(dataset.state_dict(plan.positions, True))
    assert list(dataset) == list(dataset.loader(2)) == []


def test_states_of_other_runs_are_refused_and_the_difference_named(subset: str, make_pool) -> None:
    dataset = RepeatedDataset(subset, plan_for(subset), global_batch=6)
    state = dataset.state_dict(6, True)
    for other, text in (
        (plan_for(subset, seed=2), "seed is 2, not 1"),
        (plan_for(subset, epochs=4), "total_tokens is 3604, not 3036"),
        (plan_for(subset, policy="fixed"), "policy is fixed, not reshuffle"),
        (
            plan_for(carve(str(make_pool(3000, name="b")), 917)[0]),
            "subset is .*, not .*, unique_tokens is 917, not 901",
        ),
    ):
        with pytest.raises(RequestError, match=text):
            dataset.load_state_dict(state | {"plan": other.to_dict()})
    wrongs: list[Any] = [None, {}, {"epoch": 0, "sample_in_epoch": 3}]
    for wrong in [*wrongs, state | {"position": -1}, state | {"position": 10**9}]:
        with pytest.raises(RequestError):
            dataset.load_state_dict(wrong)
    assert dataset.start_position == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"global_batch": 0}, "no whole number of samples"),
        ({"global_batch": 10**6}, "larger than the whole run"),
        ({"global_batch": 8, "cache_limit": 10**9}, "cache_limit is for a cache"),
        ({"global_batch": 8, "cache": "CACHE", "cache_limit": 1000}, "at least"),
        ({"global_batch": 8, "download_attempts": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused(subset: str, tmp_path: Path, options: dict, text: str) -> None:
    options = {k: str(tmp_path) if v == "CACHE" else v for k, v in options.items()}
    with pytest.raises(RequestError, match=text):
        RepeatedDataset(subset, plan_for(subset), **options)


def test_a_plan_of_another_artifact_is_refused(subset: str, make_pool) -> None:
    other = str(make_pool(901, name="other"))
    with pytest.raises(RequestError, match=r"the plan is not for .*subset is"):
        RepeatedDataset(other, plan_for(subset), global_batch=4)


def test_one_sample_by_its_id(subset: str) -> None:
    dataset = RepeatedDataset(subset, plan_for(subset), global_batch=4)
    assert dataset.size == 57
    last = dataset[56]
    assert (last["n_tokens"], last["sample_id"]) == (901 - 56 * 16, 56)
    assert np.array_equal(last["tokens"], tokens_of(subset)[56])
    assert dataset.spanner[56] == (7, 0)


# -- bad shards ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["byte", "short", "gone"])
def test_a_bad_shard_is_an_error_and_never_a_skip(make_pool, tmp_path: Path, damage: str, workers: int) -> None:
    pool = str(make_pool(1000))
    plan = plan_for(pool)
    dataset = RepeatedDataset(pool, plan, global_batch=8)
    path = Path(open_artifact(pool).shards[3].path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data if damage == "byte" else data[:-1])
    if damage == "gone":
        path.unlink()
    # In a process of its own: torch takes its time to end the workers of an iterator that had an error.
    for ids, problem in run_ranks(1, read_twice, tmp_path, dataset, workers)[0]:
        assert re.search(r"shard.00003.mds is (gone|damaged)", problem)
        assert ids == plan.ids(range(len(ids))).tolist()
        assert len(ids) < plan.samples
        assert not set(ids) & set(range(24, 32))


def read_twice(rank: int, dataset: RepeatedDataset, workers: int) -> list[tuple[list[int], str]]:
    loader = dataset.loader(workers)
    return [read_until_error(loader), read_until_error(loader)]


def test_without_verifying_a_changed_byte_is_not_looked_for(make_pool) -> None:
    pool = str(make_pool(1000))
    path = Path(open_artifact(pool).shards[3].path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    plan = plan_for(pool)
    assert len(list(RepeatedDataset(pool, plan, global_batch=8, verify=False))) == plan.positions


@pytest.mark.slow
def test_each_shard_is_hashed_once_for_all_workers(make_pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = str(make_pool(1000))
    log = tmp_path / "hashed"
    hash_file = hashing.xxh64_file

    def logged(path: str) -> str:
        with log.open("a") as f:
            f.write(f"{path}\n")
        return hash_file(path)

    monkeypatch.setattr(hashing, "xxh64_file", logged)
    dataset = RepeatedDataset(pool, plan_for(pool), global_batch=8)
    list(dataset)
    assert len(log.read_text().splitlines()) == 8
    for _ in range(2):
        list(dataset.loader(2))
    assert len(log.read_text().splitlines()) == 8


def test_few_shards_are_held_open(make_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = str(make_pool(1000))
    monkeypatch.setattr("epochal.shards.loader.sample_reader._max_open", lambda: 3)
    plan = plan_for(pool)
    dataset = RepeatedDataset(pool, plan, global_batch=8)
    check_run(list(dataset), plan, tokens_of(pool))
    assert len(dataset._reader._opened) == 3


# -- nothing is left over --------------------------------------------------------------------------------------------


def shared_memory() -> set[str]:
    """Names, as streaming gives them, of shared memory that this process has mapped and that still have a file."""
    mapped = re.findall(r"/dev/shm/(\d{6}_\S+)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return set(mapped) & set(os.listdir("/dev/shm"))


def assert_nothing_new(before: set[str]) -> None:
    deadline = time.monotonic() + 5
    while left := shared_memory() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.slow
def test_no_shared_memory_has_a_name_while_a_dataset_lives(subset: str) -> None:
    before = shared_memory()
    plan = plan_for(subset)
    several = [RepeatedDataset(subset, plan, global_batch=4) for _ in range(3)]
    assert_nothing_new(before)
    iterators = [iter(d.loader(w)) for d, w in zip(several, (0, 1, 2), strict=True)]
    for b in range(5):  # side by side in one process
        assert [next(i)["position"].tolist() for i in iterators] == [list(range(4 * b, 4 * b + 4))] * 3
    del iterators  # early exit, workers running
    gc.collect()
    check_run(flat(several[2].loader(2)), plan, tokens_of(subset))
    assert_nothing_new(before)


def test_stock_datasets_live_beside_ours(subset: str, make_pool) -> None:
    pool = str(make_pool(500, name="stock"))
    plan = plan_for(subset)
    with stock_dataset(pool, batch_size=4, shuffle=False) as stock:
        ours = RepeatedDataset(subset, plan, global_batch=4)
        assert len(list(stock)) == 32
        check_run(list(ours), plan, tokens_of(subset))


def test_pickling_for_spawned_processes(subset: str, tmp_path: Path) -> None:
    plan = plan_for(subset)
    dataset = RepeatedDataset(subset, plan, global_batch=4)
    dataset.load_state_dict(dataset.state_dict(8, True))
    check_run(list(pickle.loads(pickle.dumps(dataset))), plan, tokens_of(subset), 8)
    with pytest.raises(RequestError, match="fork"):
        pickle.dumps(RepeatedDataset(subset, plan, global_batch=4, cache=str(tmp_path / "cache")))


# -- what others read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("materialize", [False, True])
def test_the_stock_dataset_reads_the_same_artifact(make_pool, tmp_path: Path, materialize: bool) -> None:
    root = carve(str(make_pool(3000)), 901, out=str(tmp_path / "artifacts" / "out"), materialize=materialize)[0]
    with stock_dataset(root, batch_size=4, shuffle=False) as stock:
        found = {i: stock[i]["tokens"] for i in range(stock.size)}
    assert np.array_equal(np.stack([found[i] for i in range(57)]), tokens_of(root))
    with stock_dataset(root, batch_size=4, shuffle=True, shuffle_algo="py1e") as shuffled:
        assert len(list(torch.utils.data.DataLoader(shuffled, batch_size=4))) == 15


def test_reader_finds_samples_of_uneven_shards(make_pool) -> None:
    pool = open_artifact(str(make_pool(1000)))
    sizes = zip(pool.shards, (8, 3, 1), strict=False)
    reader = SampleReader([ShardFile(s.path, s.path, n, s.bytes, s.xxh64) for s, n in sizes], 16, "uint16")
    shards, rows = reader.locate([0, 7, 8, 10, 11])
    assert (shards.tolist(), rows.tolist()) == ([0, 0, 1, 1, 2], [0, 7, 0, 2, 0])
    with pytest.raises(IndexError):
        reader.read([12])


# -- several ranks ---------------------------------------------------------------------------------------------------


def rank_run(rank: int, root: str, plan: Plan, workers: tuple[int, ...], batched: bool) -> list[list[list[tuple]]]:
    """Return, for each number of workers, the (position, id) of each of this rank's batches."""
    dataset = RepeatedDataset(root, plan, global_batch=8, batched=batched)
    runs = []
    for n in workers:
        batches = [list(zip(b["position"].tolist(), b["sample_id"].tolist(), strict=True)) for b in dataset.loader(n)]
        assert len(batches) == len(dataset.loader(n))
        runs.append(batches)
    return runs


@pytest.mark.processes
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_ranks_and_workers_share_batches_exactly(subset: str, tmp_path: Path, n_ranks: int, batched: bool) -> None:
    plan = plan_for(subset)
    assert plan.positions % 8 in range(4, 8)
    pairs = list(zip(range(plan.positions), plan.ids(range(plan.positions)).tolist(), strict=True))
    expected = [pairs[i : i + 8] for i in range(0, len(pairs), 8)]
    ranks = run_ranks(n_ranks, rank_run, tmp_path, subset, plan, (0, 2), batched)
    for workers in (0, 1):
        found = [list(itertools.chain(*shares)) for shares in zip(*(r[workers] for r in ranks), strict=True)]
        assert found == expected


@pytest.mark.processes
def test_a_last_batch_smaller_than_the_ranks(subset: str, tmp_path: Path) -> None:
    plan = plan_for(subset, epochs=1)
    assert plan.positions % 8 == 1
    with pytest.raises(RuntimeError, match="the last batch has 1 samples for 2 ranks"):
        run_ranks(2, rank_run, tmp_path, subset, plan, (0,), False)
    ranks = run_ranks(2, rank_run, tmp_path, subset, plan, (0, 2), True)
    assert [[len(b) for b in run] for run in ranks[0]] == [[4] * 7 + [0]] * 2
    assert [[len(b) for b in run] for run in ranks[1]] == [[4] * 7 + [1]] * 2


def odd_rank_out(rank: int, root: str, plans: list[Plan], batches: list[int]) -> str:
    try:
        RepeatedDataset(root, plans[rank], global_batch=batches[rank])
    except EpochalError as error:
        return str(error)
    return "no error"


@pytest.mark.processes
def test_a_rank_that_disagrees_stops_all_ranks(subset: str, tmp_path: Path) -> None:
    same, other = plan_for(subset), plan_for(subset, seed=9)
    for plans, batches, text in (
        ([same, other], [8, 8], "rank 1 has another run than rank 0: seed is 9, not 1"),
        ([same, same], [8, 16], "rank 1 has another run than rank 0: global batch is 16, not 8"),
        ([same, same], [8, 7], "rank 1: a global batch of 7 samples does not divide by 2 ranks"),
    ):
        assert run_ranks(2, odd_rank_out, tmp_path, subset, plans, batches) == [text, text]


@pytest.mark.processes
def test_fifty_interruptions_on_any_ranks_change_nothing(make_pool, tmp_path: Path) -> None:
    root = carve(str(make_pool(9000)), 3001)[0]
    plan = plan_for(root)
    samples, receipt = interrupted(root, plan, tmp_path, [1, 2, 3, 4], {}, times=50)
    check_run(samples, plan, tokens_of(root))
    assert receipt.check() is None
    assert receipt.digest == plan.digest(0, plan.positions)
