"""Block diffusion against brute force: blocks of one are autoregressive, one block is masked diffusion."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from epochal.tests.train.objective.test_objectives import IDS, VOCAB, corrupt, enumerated_bound, loss, tiny_model
from epochal.train.exact.blocks import bound
from epochal.train.model.attention_reach import attention_mask
from epochal.train.model.transformer import Transformer
from epochal.train.objective.block import BlockDiffusion, doubled_reach
from epochal.train.objective.objectives import MaskedDiffusion

torch.set_num_threads(1)

SAMPLINGS = ["uniform", "stratified"]


def of_blocks(size: int) -> Transformer:
    return tiny_model(causal=False, block_size=size)


def like(model: Transformer, **changes) -> Transformer:
    other = Transformer(replace(model.config, **changes)).double().eval()
    other.load_state_dict(model.state_dict())
    return other


def block_mask(length: int, size: int) -> torch.Tensor:
    """Return bool (1, 1, length, length), written as plainly as it can be."""
    return torch.tensor([[[[j // size <= i // size for j in range(length)] for i in range(length)]]])


def enumerated(model: Transformer, tokens: np.ndarray, size: int) -> float:
    """The bound per token by its definition: for every block the mean over all orders of its tokens of the chain rule,
    each conditional from a read of what is written alone, by a model that knows of no blocks, under a plain mask."""
    plain, length, total = like(model, block_size=None), tokens.shape[1], 0.0
    for start in range(0, length, size):
        stop = min(start + size, length)

        @functools.cache
        def log_probabilities(masked: frozenset[int], stop: int = stop) -> torch.Tensor:
            inputs = torch.tensor(tokens[:, :stop])
            inputs[0, list(masked)] = IDS.mask
            logits = plain(inputs, block_mask(stop, size)).detach()
            return logits.log_softmax(-1)[torch.arange(stop), torch.tensor(tokens[0, :stop])]

        for order in itertools.permutations(range(start, stop)):
            for step, place in enumerate(order):
                total -= float(log_probabilities(frozenset(order[step:]))[place]) / math.factorial(stop - start)
    return total / length


@pytest.mark.slow
@pytest.mark.parametrize(("length", "size"), [(1, 1), (4, 1), (4, 2), (5, 2), (6, 4), (6, 5), (6, 6)])
def test_the_measured_bound_is_the_enumerated_one(length: int, size: int) -> None:
    model = of_blocks(size)
    tokens = np.random.default_rng(length).integers(0, 3, (1, length))
    nats, error = bound(model, IDS.mask, tokens[0], 2**size, 0, 0, 24)
    assert error == 0.0
    assert nats / length == pytest.approx(enumerated(model, tokens, size), abs=1e-9)


def test_one_block_over_the_whole_text_is_the_bound_of_masked_diffusion() -> None:
    model = of_blocks(6)
    tokens = np.random.default_rng(6).integers(0, 3, (1, 6))
    expected = enumerated_bound(like(model, block_size=None), tokens)
    assert enumerated(model, tokens, 6) == pytest.approx(expected, abs=1e-9)
    assert bound(model, IDS.mask, tokens[0], 64, 0, 0, 64)[0] / 6 == pytest.approx(expected, abs=1e-9)


def test_blocks_of_one_are_the_chain_rule_of_a_causal_model() -> None:
    """Every text of five ids: the loss in training, the measured bound, and the product of a causal model's
    conditionals, which reads what is written and MASK at the next place; all probabilities sum to 1."""
    model, length = of_blocks(1), 4
    causal = like(model, block_size=None, causal=True)
    every = np.array(list(itertools.product(range(VOCAB), repeat=length)))

    @functools.cache
    def log_p(written: tuple[int, ...]) -> torch.Tensor:
        return causal(torch.tensor([[*written, IDS.mask]]))[-1].detach().log_softmax(-1)

    nll = np.array([-sum(float(log_p(tuple(x[:i]))[x[i]]) for i in range(length)) for x in every.tolist()])
    assert np.exp(-nll).sum() == pytest.approx(1.0, abs=1e-9)
    objective = BlockDiffusion(IDS, 5, 1)
    assert objective.kind == "nll"
    for i in range(0, len(every), 23):
        trained = loss(model, corrupt(objective, every[i : i + 1], start=i))
        assert trained * length == pytest.approx(nll[i], abs=1e-9)
        assert bound(model, IDS.mask, every[i], 1, 0, i, 64) == (pytest.approx(nll[i], abs=1e-9), 0.0)
    assert loss(model, corrupt(objective, every)) == pytest.approx(nll.mean() / length, abs=1e-9)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_one_block_has_the_noise_of_masked_diffusion(sampling) -> None:
    tokens = np.random.default_rng(2).integers(0, 3, (8, 12))
    n_tokens = [12] * 5 + [7, 1, 0]
    ours = corrupt(BlockDiffusion(IDS, 9, 12, sampling, 4), tokens, n_tokens, 8)
    theirs = corrupt(MaskedDiffusion(IDS, 9, "exact_count", sampling=sampling, group=4), tokens, n_tokens, 8)
    for name in ("inputs", "labels", "targets", "attention_mask"):
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name
    assert (ours.weights[ours.targets] == np.repeat(theirs.weights, theirs.targets.sum(1))).all()
    model = tiny_model(causal=False)
    assert loss(model, ours._replace(reach=None)) == loss(model, theirs)
    assert loss(model, ours) == pytest.approx(loss(model, theirs), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [2, 3])
def test_drawn_noise_averages_to_the_enumerated_bound(size: int, sampling) -> None:
    """Five tokens: the last block is short."""
    model = of_blocks(size)
    one = np.random.default_rng(4).integers(0, 3, (1, 5))
    objective = BlockDiffusion(IDS, 5, size, sampling, group=8)
    values = [loss(model, corrupt(objective, np.repeat(one, 256, 0), start=at)) for at in range(0, 40 * 256, 256)]
    standard_error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - enumerated(model, one, size)) < 4 * standard_error + 1e-9


def test_every_set_of_a_block_is_masked_as_often_as_it_should_and_blocks_independently() -> None:
    rows = 24_000
    targets = corrupt(BlockDiffusion(IDS, 3, 3, "stratified", group=8), np.zeros((rows, 5), np.int64)).targets
    three, two = ([1 / n / math.comb(n, m.bit_count()) if m else 0 for m in range(2**n)] for n in (3, 2))
    sets = [targets[:, :3] @ (1 << np.arange(3)), targets[:, 3:] @ (1 << np.arange(2))]
    both = np.bincount(sets[0] * 4 + sets[1], minlength=32).reshape(8, 4)
    wanted = rows * np.outer(three, two)
    assert not both[wanted == 0].any()
    chi2 = ((both - wanted)[wanted > 0] ** 2 / wanted[wanted > 0]).sum()
    assert chi2 < 45  # 20 degrees of freedom


@pytest.mark.parametrize("size", [1, 2, 4, 5, 11])
def test_nothing_leaks_from_later_blocks_or_from_what_is_masked(size: int) -> None:
    """The mask of a pass, token by token: what may be seen of the text and of its noised copy."""
    n = 11
    clean = (n - 1) // size * size
    mask = attention_mask(torch.from_numpy(doubled_reach(np.ones((1, n), np.bool_), size)))[0, 0]
    assert mask.shape == (clean + n, clean + n)
    for i, j in itertools.product(range(clean + n), repeat=2):
        asks, seen = (("clean", p // size) if p < clean else ("noised", (p - clean) // size) for p in (i, j))
        expected = {
            ("clean", "clean"): seen[1] <= asks[1],
            ("clean", "noised"): False,
            ("noised", "clean"): seen[1] < asks[1],
            ("noised", "noised"): seen[1] == asks[1],
        }[asks[0], seen[0]]
        assert bool(mask[i, j]) == expected, (i, j)


def test_a_golden_vector_of_the_noise() -> None:
    objective = BlockDiffusion(IDS, 17, 3, "stratified", group=8)
    u = objective.levels(np.arange(2), 3)
    assert u[:, 0].tolist() == [0.744587781005626, 0.869587781005626]
    assert u[:, 1].tolist() == GOLDEN
    assert corrupt(objective, np.zeros((2, 7), np.int64)).targets.astype(int).tolist() == GOLDEN_TARGETS


GOLDEN = [0.08603126833163, 0.21103126833163]
GOLDEN_TARGETS = [[1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 1, 1]]
