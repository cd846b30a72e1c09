"""Every rank takes part in every micro-batch of every step: under FSDP one that does not leaves the others waiting."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.plan import Plan
from epochal.tests.support.ranks import run_ranks
from epochal.train.data import Batch, Collate, Split, samples_in
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.block import BlockDiffusion
from epochal.train.objective.dual import Dual
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, Objective, SpecialIds

torch.set_num_threads(1)  # these models are too small to share out, and forked ranks would wait for threads

IDS = SpecialIds(eod=256, mask=258, pad=257)
OBJECTIVES: list[Objective] = [
    Autoregressive(IDS),
    MaskedDiffusion(IDS, weighting="exact_count"),
    MaskedDiffusion(IDS),
    Dual(Autoregressive(IDS), MaskedDiffusion(IDS), 0.5),
    BlockDiffusion(IDS, 0, 3),
]
BATCH = 12
"""Samples of a global batch: 1, 2, 3 and 4 ranks share it out."""


def share(samples: int, rank: int, ranks: int, seq_len: int = 8) -> dict[str, np.ndarray]:
    """A rank's share of a last batch of `samples`, as `RepeatedDataset` deals it out; the very last sample is short."""
    position = np.arange(samples * rank // ranks, samples * (rank + 1) // ranks)
    tokens = np.random.default_rng(0).integers(1, 50, (samples, seq_len))[position]
    return {
        "tokens": tokens,
        "position": position,
        "sample_id": position,
        "n_tokens": np.where(position == samples - 1, 5, seq_len),
    }


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind + getattr(o, "weighting", ""))
def test_all_ranks_make_the_same_micro_batches_of_any_last_batch(objective: Objective) -> None:
    for ranks, size, samples in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), range(1, 13)):
        collate = Collate(objective, rows=BATCH // ranks)
        parts = [Split()(collate(share(samples, rank, ranks)), size) for rank in range(ranks)]
        assert len({len(of_rank) for of_rank in parts}) == 1
        shapes = {tuple(p["tokens"].shape for p in of_rank) for of_rank in parts}
        assert len(shapes) == 1, (ranks, size, samples)
        assert sum(samples_in(p) for of_rank in parts for p in of_rank) == samples
        assert sum(int(p["n_tokens"].sum()) for of_rank in parts for p in of_rank) == (samples - 1) * 8 + 5


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind + getattr(o, "weighting", ""))
def test_fillers_change_no_loss_and_no_gradient(objective: Objective) -> None:
    model = small_model(objective.causal)
    found = []
    for rows in (3, 8):
        model.zero_grad()
        total = 0.0
        for part in Split()(Collate(objective, rows=rows)(share(3, 0, 1)), 4):
            loss = losses(model, part)
            loss.backward()
            total += float(loss.detach())
        found.append([total, *(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def small_model(causal: bool) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(vocab_size=260, layers=1, hidden=16, heads=2, ffn=16, causal=causal))


def losses(model: Transformer, part: Batch) -> torch.Tensor:
    inputs = part["tokens"], part.get("attention_mask"), part.get("target_positions")
    return model(*inputs, part["labels"], part["weights"], reach=part.get("reach"), positions=part.get("positions"))


def sharded_run(rank: int, root: str, objective: Objective) -> list[int]:
    """Go through a whole run with the model sharded over the ranks; return the micro-batches of each step."""
    ranks = torch.distributed.get_world_size()
    model = sharded(small_model(objective.causal), ranks)
    plan = Plan.for_artifact(read_manifest(root), 25 * 16)
    dataset = RepeatedDataset(root, plan, global_batch=16, batched=True)
    counts = []
    for batch in dataset.loader(0, collate_fn=Collate(objective, rows=16 // ranks)):
        parts = Split()(batch, 4)
        for part in parts:
            losses(model, part).backward()
        counts.append(len(parts))
    return counts


def sharded(model: Transformer, ranks: int) -> Transformer:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (ranks,))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)
    return model


def every_last_step(rank: int, ranks: int, objective: Objective) -> dict[str, list[int]]:
    """Go through a step of any size with the model sharded over the ranks; return the rows of each one's
    micro-batches."""
    model = small_model(objective.causal)
    if ranks > 1:
        sharded(model, ranks)
    collate = Collate(objective, rows=BATCH // ranks)
    counts: dict[str, list[int]] = {}
    for size, samples in itertools.product((1, 2, 3, 4), range(1, 13)):
        parts = Split()(collate(share(samples, rank, ranks)), size)
        for part in parts:
            losses(model, part).backward()
        counts[f"{size} of {samples}"] = [len(part["tokens"]) for part in parts]
    return counts


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_no_last_step_leaves_ranks_that_share_a_model_waiting(ranks: int, tmp_path: Path) -> None:
    first, *others = run_ranks(ranks, every_last_step, tmp_path, ranks, OBJECTIVES[2], timeout=400)
    assert len(first) == 4 * 12
    assert all(other == first for other in others)


@pytest.mark.processes
def test_the_last_step_ends_on_two_ranks_that_share_a_model(make_pool, tmp_path: Path) -> None:
    """Nine samples, four a micro-batch: one rank had one micro-batch, the other two, and waited for ever."""
    root = carve(str(make_pool(3000)), 25 * 16)[0]
    for objective in OBJECTIVES[:2]:
        assert run_ranks(2, sharded_run, tmp_path, root, objective, timeout=60) == [[2, 2], [2, 2]]
