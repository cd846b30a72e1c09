"""Both objectives against brute force on models small enough to enumerate, in float64."""

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.block import BlockDiffusion
from epochal.train.objective.dual import Dual
from epochal.train.objective.levels import exact_count_weight, inverse_t_weight
from epochal.train.objective.objectives import (
    Autoregressive,
    Corrupted,
    MaskedDiffusion,
    SpecialIds,
    loss_of,
    pack,
)

torch.set_num_threads(1)  # these models are too small to share out

IDS = SpecialIds(eod=0, pad=3, mask=4)
VOCAB = 5
ONE = np.ones(1)


def tiny_model(causal: bool, **changes) -> Transformer:
    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "layers": 2,
        "hidden": 16,
        "heads": 2,
        "ffn": 24,
        "init_std": 0.4,
        "qk_norm": True,
    }
    return Transformer(ModelConfig(causal=causal, **(shape | changes))).double().eval()


def loss(model: Transformer, rows: Corrupted) -> float:
    return float(loss_of(model(*pack(rows, torch.float64)), rows.targets.shape))


def corrupt(objective, tokens: np.ndarray, n_tokens=None, start: int = 0) -> Corrupted:
    n = np.full(len(tokens), tokens.shape[1]) if n_tokens is None else np.asarray(n_tokens)
    return objective.corrupt(tokens, n, np.arange(start, start + len(tokens)))


def masked_loss(model: Transformer, tokens: np.ndarray, subset: tuple[int, ...], weight: float) -> float:
    targets = np.zeros(tokens.shape, bool)
    targets[0, list(subset)] = True
    inputs = np.where(targets, IDS.mask, tokens)
    return loss(model, Corrupted(inputs, tokens, targets, np.array([weight]), np.ones(tokens.shape, bool)))


def subsets(length: int):
    return [s for k in range(1, length + 1) for s in itertools.combinations(range(length), k)]


def enumerated_bound(model: Transformer, tokens: np.ndarray) -> float:
    """The any-order bound per token: the mean over all orders of the chain rule, written with torch's log_softmax."""
    length = tokens.shape[1]

    @functools.cache
    def log_probabilities(masked: frozenset[int]) -> torch.Tensor:
        inputs = torch.tensor(tokens)
        inputs[0, list(masked)] = IDS.mask
        return model(inputs).detach().log_softmax(-1)[torch.arange(length), torch.tensor(tokens[0])]

    total = 0.0
    for order in itertools.permutations(range(length)):
        for step, place in enumerate(order):
            total -= float(log_probabilities(frozenset(order[step:]))[place])
    return total / math.factorial(length) / length


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 4, 6])
def test_both_weightings_equal_full_enumeration_of_the_bound(length: int) -> None:
    model = tiny_model(causal=False)
    tokens = np.random.default_rng(length).integers(0, 3, (1, length))
    bound = enumerated_bound(model, tokens)

    exact = 0.0
    for subset in subsets(length):
        k = np.array([len(subset)])
        probability = 1 / length / math.comb(length, len(subset))
        exact += probability * masked_loss(model, tokens, subset, exact_count_weight(np.array([length]), k)[0])
    assert exact == pytest.approx(bound, abs=1e-6)

    nodes, node_weights = np.polynomial.legendre.leggauss(8)  # exact for polynomials in t up to degree 15
    times, node_weights = (nodes + 1) / 2, node_weights / 2
    at_weight_one = {subset: masked_loss(model, tokens, subset, 1.0) for subset in subsets(length)}
    integral = sum(
        w * t ** len(s) * (1 - t) ** (length - len(s)) * value * inverse_t_weight(t * ONE)[0]
        for t, w in zip(times, node_weights, strict=True)
        for s, value in at_weight_one.items()
    )
    assert integral == pytest.approx(bound, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
@pytest.mark.parametrize("weighting", ["inverse_t", "exact_count"])
def test_drawn_noise_averages_to_the_enumerated_bound(weighting, sampling, schedule) -> None:
    model = tiny_model(causal=False)
    one = np.random.default_rng(4).integers(0, 3, (1, 4))
    objective = MaskedDiffusion(IDS, 5, weighting, eps=1e-9, sampling=sampling, group=8, noise_schedule=schedule)
    assert objective.kind == "nelbo"
    values = []
    for start in range(0, 40 * 512, 512):
        values.append(loss(model, corrupt(objective, np.repeat(one, 512, 0), start=start)))
    standard_error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - enumerated_bound(model, one)) < 4 * standard_error + 1e-9


def test_exact_count_masks_every_subset_as_often_as_it_should() -> None:
    tokens = np.zeros((24_000, 4), np.int64)
    targets = corrupt(MaskedDiffusion(IDS, 3, "exact_count"), tokens).targets
    seen = np.bincount(targets @ (1 << np.arange(4)), minlength=16)
    expected = np.array([0, *(24_000 / 4 / math.comb(4, int(m).bit_count()) for m in range(1, 16))])
    assert seen[0] == 0
    assert ((seen[1:] - expected[1:]) ** 2 / expected[1:]).sum() < 45  # 14 degrees of freedom


def test_autoregressive_loss_equals_the_chain_rule() -> None:
    model = tiny_model(causal=True)
    tokens = np.random.default_rng(0).integers(0, 3, (3, 6))
    total = 0.0
    for row in tokens:
        for place in range(6):
            context = torch.tensor([[IDS.eod, *row[:place]]])
            total -= float(model(context)[-1].log_softmax(-1)[row[place]])
    assert loss(model, corrupt(Autoregressive(IDS), tokens)) == pytest.approx(total / 18, abs=1e-9)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    model = tiny_model(causal=True)
    every = np.array(list(itertools.product(range(VOCAB), repeat=4)))
    rows = corrupt(Autoregressive(IDS), every)
    packed = pack(rows, torch.float64)
    nll = model(packed.tokens, None, packed.target_positions, packed.labels).view(-1, 4).sum(1)
    assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-9)


OBJECTIVES = [
    Autoregressive(IDS),
    Autoregressive(IDS, 1, 0.5),
    MaskedDiffusion(IDS, 1, "inverse_t"),
    MaskedDiffusion(IDS, 1, "exact_count"),
    MaskedDiffusion(IDS, 1, "exact_count", sampling="stratified", group=16),
    Autoregressive(IDS, 1, 0.2, random_replacement=0.3, right_to_left=0.5, vocab_size=VOCAB),
    MaskedDiffusion(IDS, 1, "exact_count", noise_schedule="cosine"),
    MaskedDiffusion(IDS, 1, "exact_count", t_range=(0.3, 0.8)),
    MaskedDiffusion(IDS, 1, "exact_count", fixed_ratio=0.25),
    MaskedDiffusion(IDS, 1, "uniform"),
    Dual(Autoregressive(IDS, 1), MaskedDiffusion(IDS, 1, "exact_count"), 0.5, 1),
    BlockDiffusion(IDS, 1, 4),
    BlockDiffusion(IDS, 1, 1),
]
NAMES = [f"{i}-{o.kind}" for i, o in enumerate(OBJECTIVES)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_a_uniform_model_scores_ln_of_the_vocabulary(objective) -> None:
    model = tiny_model(objective.causal, tied_embeddings=False)
    assert model.head is not None
    torch.nn.init.zeros_(model.head.weight)
    tokens = np.random.default_rng(0).integers(0, 3, (64, 32))
    rows = corrupt(objective, tokens)
    cosine = getattr(objective, "noise_schedule", "") == "cosine"
    if getattr(objective, "weighting", "exact_count") != "exact_count" or cosine:
        # right on average only: compare with the weights that were drawn
        expected = math.log(VOCAB) * (rows.targets.sum(1) * rows.weights).sum() / tokens.size
        assert expected == pytest.approx(math.log(VOCAB), rel=0.15)
    else:
        expected = math.log(VOCAB)
    assert loss(model, rows) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_pad_never_changes_any_loss(objective) -> None:
    model = tiny_model(objective.causal)
    tokens = np.random.default_rng(0).integers(0, 3, (4, 6))
    padded = np.concatenate([tokens, np.full((4, 5), IDS.pad)], axis=1)
    bare = corrupt(objective, tokens)
    with_pad = corrupt(objective, padded, [6] * 4)
    assert not with_pad.targets[:, 6:].any()
    assert loss(model, with_pad) * padded.size == pytest.approx(loss(model, bare) * tokens.size, abs=1e-9)
    other = padded.copy()
    other[:, 6:] = 2  # whatever lies behind the real tokens
    assert loss(model, corrupt(objective, other, [6] * 4)) == pytest.approx(loss(model, with_pad), abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_a_sample_of_pad_alone_weighs_nothing(objective) -> None:
    rows = corrupt(objective, np.full((2, 6), IDS.pad), [0, 0])
    assert not rows.targets.any()
    assert loss(tiny_model(objective.causal), rows) == 0.0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_micro_batches_give_the_same_noise_and_the_same_loss(objective) -> None:
    model = tiny_model(objective.causal)
    tokens = np.random.default_rng(2).integers(0, 3, (8, 16))
    whole = loss(model, corrupt(objective, tokens))
    parts = [loss(model, corrupt(objective, tokens[i : i + 2], start=i)) for i in range(0, 8, 2)]
    assert np.mean(parts) == pytest.approx(whole, abs=1e-12)


def test_input_masking_hides_its_share_but_never_bos() -> None:
    rows = corrupt(Autoregressive(IDS, 1, 0.3), np.ones((200, 64), np.int64))
    assert (rows.inputs[:, 0] == IDS.eod).all()
    assert (rows.inputs[:, 1:] == IDS.mask).mean() == pytest.approx(0.3, abs=0.02)
    assert rows.targets.all()


def test_random_length_shortens_whole_steps_only() -> None:
    objective = MaskedDiffusion(IDS, 1, random_length=0.5, group=4)
    tokens = np.ones((4, 64), np.int64)
    lengths = [corrupt(objective, tokens, start=4 * step).inputs.shape[1] for step in range(200)]
    assert 60 < sum(length < 64 for length in lengths) < 140
    halves = [corrupt(objective, tokens[:2], start=start).inputs.shape[1] for start in (0, 2)]
    assert halves == [lengths[0]] * 2
