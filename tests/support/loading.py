"""Reading runs through the dataset class, what each read, and a mixture of three small subsets to read."""

import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from epochal.common.errors import WorkError
from epochal.shards import mds
from epochal.shards.artifact import open_artifact
from epochal.shards.loader.agreement import one_at_a_time
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.mixing import Ingredient, by_tokens
from epochal.shards.order.mixture import Mixture
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.ranks import run_ranks


def plan_for(root: str, epochs: float = 3.37, seed: int = 1, **fields) -> Plan:
    manifest = open_artifact(root).manifest
    return Plan.for_artifact(manifest, int(epochs * manifest.tokens), seed, **fields)


@contextlib.contextmanager
def stock_dataset(root: str | Path, **settings: Any) -> Iterator[Any]:
    """streaming's own dataset of the folder `root`, without what it would leave until the process ends. Other processes
    make theirs too, and its search for free names of shared memory is a race."""
    from streaming import StreamingDataset

    with one_at_a_time():
        dataset = StreamingDataset(local=str(root), **settings)
    yield dataset
    arrays = (dataset._next_epoch.arr, dataset._cache_usage.arr, dataset._shared_barrier._arr)
    memories = [dataset._locals_shm, dataset._shard_states.shm, dataset._shard_access_times.shm]
    for memory in memories + [array.shm for array in arrays]:
        memory.cleanup()


def tokens_of(root: str) -> np.ndarray:
    """All samples of an artifact, in order, read without the code under test: int64 (samples, seq_len)."""
    artifact = open_artifact(root)
    manifest = artifact.manifest
    files = [mds.decode_shard(Path(s.path).read_bytes(), manifest.seq_len, manifest.dtype) for s in artifact.shards]
    return np.concatenate([f[: s.samples] for f, s in zip(files, artifact.shards, strict=True)]).astype(np.int64)


def check_run(samples: list[dict], plan: Plan, tokens: np.ndarray, start: int = 0) -> None:
    """Assert that `samples` are the plan's positions from `start` to the end, with the right tokens."""
    ids = plan.ids(range(start, plan.positions))
    assert [s["position"] for s in samples] == list(range(start, plan.positions))
    assert [s["sample_id"] for s in samples] == ids.tolist()
    assert [s["n_tokens"] for s in samples] == plan.n_tokens(ids).tolist()
    assert np.array_equal(np.stack([s["tokens"] for s in samples]), tokens[ids.astype(int)])


def flat(batches) -> list[dict]:
    """The samples in batches of either kind, as dicts of numpy values."""
    out = []
    for batch in batches:
        rows = zip(*(np.asarray(batch[k]) for k in ("tokens", "position", "sample_id", "n_tokens")), strict=True)
        out += [{"tokens": t, "position": int(p), "sample_id": int(i), "n_tokens": int(n)} for t, p, i, n in rows]
    return out


def read_until_error(loader) -> tuple[list[int], str]:
    """Return the sample ids that came before the error, and the error."""
    ids: list[int] = []
    try:
        for batch in loader:
            ids += batch["sample_id"].tolist()
    except WorkError as error:
        return ids, str(error)
    raise AssertionError("no error")


def rank_segment(
    rank: int, root: str, state: dict, batch: int, steps: int, workers: int, receipt, options: dict
) -> tuple:
    """Train, so to say, for some steps from `state`; return the batches, the new state, and this rank's receipt."""
    plan = Plan.from_dict(state["plan"])
    dataset = RepeatedDataset(root, plan, global_batch=batch, batched=True, **options)
    dataset.load_state_dict(state)
    mine = Receipt(plan, receipt if rank == 0 else None)
    seen, shares = 0, []
    for b in itertools.islice(dataset.loader(workers), steps):
        mine.add(b["position"], b["sample_id"])
        shares.append(flat([b]))
    seen = min(steps * batch, plan.positions - state["position"])
    return shares, dataset.state_dict(state["position"] + seen, True), mine.state


def interrupted(
    root: str, plan: Plan, folder: Path, ranks: list[int], options: dict, times: int
) -> tuple[list[dict], Receipt]:
    """Interrupt a run so many times, each part on as many ranks as is drawn from `ranks`, with some batch size and
    workers.

    Return all samples in the order of the batches, and the receipt.
    """
    state: dict[str, Any] = {"state_version": 1, "position": 0, "plan": plan.to_dict()}
    samples: list[dict] = []
    choose, receipt = random.Random(5), np.zeros(3, np.int64)
    for left in range(times, -1, -1):
        remaining = plan.positions - state["position"]
        n_ranks = choose.choice(ranks)
        batch = n_ranks * choose.randint(1, max(1, min(4, remaining // (left + 1) // n_ranks)))
        longest = min(2 * remaining // (left + 1), remaining - left * max(ranks)) // batch
        steps = choose.randint(1, max(1, longest)) if left else -(-remaining // batch)
        workers = choose.choice([0] * 6 + [1, 2])
        args = (root, state, batch, steps, workers, receipt, options)
        alone = n_ranks == 1 and not workers  # no process to be started: this one will do
        parts = [rank_segment(0, *args)] if alone else run_ranks(n_ranks, rank_segment, folder, *args)
        for shares in zip(*(part[0] for part in parts), strict=True):
            samples += itertools.chain(*shares)
        state = parts[0][1]
        assert (state["position"] == plan.positions) == (left == 0), "it is interrupted exactly so often"
        receipt = np.sum([part[2] for part in parts], axis=0)
    return samples, Receipt(plan, receipt)


def ingredient(name: str, root: str, **fields: Any) -> Ingredient:
    """Return the subset at `root` as an ingredient; fields: seed, policy."""
    return Ingredient(name, open_artifact(root).manifest, **fields)


def toy_mixture(subsets: dict[str, str]) -> tuple[Mixture, list[str], np.ndarray]:
    """Return a mixture of subsets a, b and c, their folders, and the tokens of all their samples, in order."""
    parts = [ingredient(n, subsets[n], seed=i) for i, n in enumerate("abc")]
    mixture = by_tokens([(parts[0], 3 * 901), (parts[1], 2000), (parts[2], 700)], 12)
    tokens = np.concatenate([tokens_of(subsets[n]) for n in "abc"])
    return mixture, [subsets[n] for n in "abc"], tokens
