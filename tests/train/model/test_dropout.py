"""Dropout by site: against a second implementation in numpy, and what each site does in the model."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from epochal.common.hashing import mix64
from epochal.train.model.dropout import SITES, Draws, Site, attend, kept, site_words
from epochal.train.model.transformer import LATER, ModelConfig, Transformer
from epochal.train.objective.noise import row_bits

GAMMA = np.uint64(0x9E3779B97F4A7C15)
POSITIONS = np.array([0, 1, 5, 2**40])
ROWS = row_bits(17, "dropout", POSITIONS)
WORDS = torch.from_numpy(ROWS.view(np.int64))


def expected_words(site: int, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        start = mix64(ROWS + np.uint64(site + 1) * GAMMA)
        return mix64(start[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GAMMA)


@pytest.mark.parametrize("site", [0, 3, 7, 8 * 31 + 5])
def test_words_are_those_of_a_second_implementation(site: int) -> None:
    assert (site_words(WORDS, site, 9).numpy().view(np.uint64) == expected_words(site, 9)).all()
    parts = expected_words(site, 3).view("<i2")[:, :10]
    assert (kept(WORDS, site, 0.3, (2, 5)).numpy().reshape(4, 10) == (parts >= round(0.3 * 65536) - 32768)).all()


def test_golden_words() -> None:
    """Others must be able to draw the same: docs/training.md has these."""
    assert expected_words(9, 2)[2].tolist() == GOLDEN
    assert site_words(WORDS, 9, 2)[2].numpy().view(np.uint64).tolist() == GOLDEN


GOLDEN = [11656813590480471486, 14963489647002388395]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_share_is_dropped_and_the_mean_is_kept(rate: float) -> None:
    draws = Draws()
    draws.words = torch.from_numpy(row_bits(1, "dropout", np.arange(64)).view(np.int64))
    found = Site("mlp", 2, rate, draws)(torch.ones(64, 33, 65))
    assert float((found == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.01)
    whole = Site("depth_of_mlp", 2, rate, draws, rows=True)(torch.ones(64, 33, 65))
    assert {len(row.unique()) for row in whole} == {1}
    assert float((whole == 0).float().mean()) == pytest.approx(rate, abs=0.2)


def test_nothing_is_dropped_outside_training() -> None:
    site, x = Site("mlp", 0, 0.5, Draws()), torch.ones(2, 3)
    assert site.eval()(x) is x
    assert Site("mlp", 0, 0.0, Draws())(x) is x


@pytest.mark.parametrize("causal", [True, False])
def test_attention_without_dropped_weights_is_the_fused_one(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 4) for _ in range(3))
    mask = None if causal else torch.tensor([[True] * 7, [True] * 5 + [False] * 2])[:, None, None, :]
    found = attend(q, k, v, mask, causal, Site("attention", 0, 0.0, Draws()))
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal))


def model(**rates: float) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(50, 2, 32, 2, 48, True, init_std=0.2, **rates)).train()


def loss(net: Transformer, words: torch.Tensor | None, rows: slice = slice(None)) -> float:
    net.draws.words = None if words is None else words[rows]
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (4, 12)))[rows]
    return float(net(tokens, None, None, tokens.flatten(), torch.ones(tokens.numel())))


@pytest.mark.parametrize("name", [name for name in LATER if name.startswith(("dropout", "stochastic"))])
def test_each_site_changes_the_loss_by_its_rows_words_alone(name: str) -> None:
    plain, net = model(), model(**{name: 0.4})
    assert loss(net, WORDS) != loss(plain, None)
    torch.manual_seed(1)
    first = loss(net, WORDS)
    assert loss(net, WORDS) == first  # whatever torch's generator has drawn
    assert loss(net, WORDS, slice(0, 2)) + loss(net, WORDS, slice(2, 4)) == pytest.approx(first, rel=1e-6)
    assert loss(net, WORDS.flip(0)) != first
    assert loss(net.eval(), None) == loss(plain.eval(), None)
    with pytest.raises(AssertionError, match="gives the words of its rows"):
        loss(net.train(), None)


def test_deeper_layers_are_left_out_more_often() -> None:
    rates = [block.mlp_dropout.depth.rate for block in model(stochastic_depth=0.3).blocks]
    assert rates == pytest.approx([0.15, 0.3])


def test_no_two_sites_of_a_model_draw_the_same() -> None:
    net = Transformer(ModelConfig(50, 3, 32, 2, 48, True))
    numbers = [m.site for m in net.modules() if isinstance(m, Site)]
    assert len(set(numbers)) == len(numbers) == 3 * 6 + 1
    assert math.log2(len(SITES)) == 3
