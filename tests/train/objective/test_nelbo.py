"""Likelihoods against brute force, on models small enough to enumerate."""

import itertools
import math

import numpy as np
import pytest
import torch

from epochal.train.eval.likelihood import masked_nats
from epochal.train.eval.scoring import Group, Scorer
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.nelbo import estimate, every_mask, masks_for, sampled_masks

torch.set_num_threads(1)  # these models are too small to share out

VOCAB, EOD, MASK = 7, 4, 6


def model(causal: bool, seed: int = 0, kv_heads: int = 2) -> Transformer:
    """Return a model far from uniform, in float64."""
    torch.manual_seed(seed)
    shape = ModelConfig(VOCAB, 2, 16, 2, 24, causal, kv_heads=kv_heads, init_std=0.4, tied_embeddings=False)
    return Transformer(shape).double().eval()


def nats_of(m: Transformer, visible: list[int], place: int, token: int) -> float:
    """Return -log p(token at `place` | the inputs `visible`)."""
    with torch.no_grad():
        logits = m(torch.tensor([visible]))[place]
    return float(-logits.log_softmax(-1)[token])


def chain_rule(m: Transformer, context: list[int], answer: list[int]) -> float:
    """Return the answer's nats, one model call per token."""
    text = context + answer
    return sum(nats_of(m, text[:i], i - 1, text[i]) for i in range(len(context), len(text)))


def over_orders(m: Transformer, context: list[int], answer: list[int]) -> list[float]:
    """Return the answer's nats when written in each possible order."""
    totals = []
    for order in itertools.permutations(range(len(answer))):
        inputs, total = context + [MASK] * len(answer), 0.0
        for i in order:
            total += nats_of(m, inputs, len(context) + i, answer[i])
            inputs[len(context) + i] = answer[i]
        totals.append(total)
    return totals


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_ar_scores_equal_the_chain_rule(kv_heads: int) -> None:
    m = model(causal=True, kv_heads=kv_heads)
    shared = [EOD, *([1, 2, 3, 0] * 10)]
    cases = [
        ([EOD, 1, 2], [[3], [0, 1], [2, 2, 1, 3]]),
        ([EOD], [[1, 2], [3]]),
        (shared, [[1, 1], [2]]),
        ([*shared, 3], [[0], [1, 3, 2]]),
    ]
    scorer = Scorer(m, EOD, MASK, limit=64, greedy=True)
    groups = [Group(np.array(c), tuple(np.array(a) for a in answers)) for c, answers in cases]
    for scores, (context, answers) in zip(scorer.score(groups), cases, strict=True):
        assert [s.nats for s in scores] == pytest.approx([chain_rule(m, context, a) for a in answers], abs=1e-5)
    prefixed = scorer.score(groups[2:])  # these two share 41 tokens, 40 of which are read once
    for scores, (context, answers) in zip(prefixed, cases[2:], strict=True):
        assert [s.nats for s in scores] == pytest.approx([chain_rule(m, context, a) for a in answers], abs=1e-5)
    assert scorer.work.real < scorer.work.padded
    assert scorer._cache is not None
    assert scorer._cache.length == 40


@pytest.mark.slow
def test_mdm_scores_equal_the_mean_over_orders() -> None:
    m = model(causal=False)
    context, answers = [EOD, 1, 2], [[3], [0, 1], [2, 2, 1, 3]]
    group = Group(np.array(context), tuple(np.array(a) for a in answers))
    scores = Scorer(m, EOD, MASK, limit=64).score([group])[0]
    for score, answer in zip(scores, answers, strict=True):
        totals = over_orders(m, context, answer)
        assert score.nats == pytest.approx(np.mean(totals), abs=1e-5)
        assert score.se == 0
        true = -math.log(np.mean(np.exp(-np.array(totals))))
        assert score.nats >= true - 1e-9
    assert scores[2].nats > -math.log(np.mean(np.exp(-np.array(over_orders(m, context, answers[2]))))) + 1e-3


@pytest.mark.slow
def test_orders_make_a_distribution() -> None:
    m = model(causal=False)
    total = sum(np.mean(np.exp(-np.array(over_orders(m, [EOD], [a, b])))) for a in range(VOCAB) for b in range(VOCAB))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_one_noise_sample_is_exact_for_one_token() -> None:
    m = model(causal=False)
    group = Group(np.array([EOD, 2, 1]), (np.array([3]), np.array([0])))
    one, many = (Scorer(m, EOD, MASK, 64, draws=k).score([group])[0] for k in (1, 128))
    assert one == many
    assert one[0].nats == pytest.approx(chain_like(m, [EOD, 2, 1], 3))


def chain_like(m: Transformer, context: list[int], token: int) -> float:
    """Return the nats of one token after `context` in a masked-diffusion model."""
    return nats_of(m, [*context, MASK], len(context), token)


@pytest.mark.slow
def test_the_estimate_has_no_bias_and_its_error_is_the_one_reported() -> None:
    m, row = model(causal=False), np.random.default_rng(1).integers(0, 4, 9)
    full = every_mask(9)
    exact, _ = estimate(masked_nats(m, MASK, row, full.masks).astype(np.float64), full)
    reported = {}
    for draws in (8, 64):
        values = []
        for position in range(200):
            masks = sampled_masks(9, draws, 3, position)
            values.append(estimate(masked_nats(m, MASK, row, masks.masks), masks))
        means, errors = np.array(values).T
        spread = means.std(ddof=1)
        assert abs(means.mean() - exact) < 3 * spread / math.sqrt(200)
        reported[draws] = math.sqrt(np.square(errors).mean())
        assert 0.9 * spread < reported[draws] < 1.6 * spread
    assert reported[64] < reported[8] / 2.5  # 8 times the samples: the error falls by sqrt(8) or more


def test_masks_are_few_where_they_can_be_exact() -> None:
    for n, draws, rows in ((1, 1, 1), (7, 128, 127), (8, 128, 128), (2, 2, 2), (2, 3, 3)):
        masks = masks_for(n, draws, 0, 0)
        assert len(masks.masks) == rows
        assert masks.exact == (2**n - 1 <= draws)
        assert (masks.masks.any(1)).all()
        assert masks.weights.shape == (rows,)
    assert estimate(np.ones(1), sampled_masks(8, 1, 0, 0))[1] != 0  # one draw: not known, and not zero
    weighted = every_mask(5)  # every token weighs 1/1 in the mean: a uniform model scores n ln V
    assert float((weighted.weights * weighted.masks.sum(1)).sum()) == pytest.approx(5)


def test_mask_counts_are_stratified() -> None:
    counts = sampled_masks(64, 64, 5, 7).masks.sum(1)
    assert counts.tolist() == list(range(1, 65))
