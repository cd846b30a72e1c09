import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from epochal.train.model import cross_entropy
from epochal.train.model.transformer import ModelConfig, Transformer, count_parameters

SHAPE: dict[str, Any] = {"vocab_size": 70, "layers": 2, "hidden": 32, "heads": 4, "ffn": 48}


def model(causal: bool = True, **changes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(causal=causal, **(SHAPE | {"init_std": 0.2} | changes))).double().eval()


def test_the_paper_shape_has_the_paper_parameters() -> None:
    shape: dict[str, Any] = {"layers": 26, "hidden": 1792, "heads": 14, "head_size": 128, "ffn": 4736, "qk_norm": True}
    with torch.device("meta"):
        paper = Transformer(ModelConfig(vocab_size=50269, causal=False, **shape))
    assert paper.config.padded_vocab == 50304
    assert paper.config.block_parameters == pytest.approx(0.996e9, rel=1e-3)
    assert count_parameters(paper) == pytest.approx(1.086e9, rel=1e-3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("changes", [{}, {"kv_heads": 2}, {"qk_norm": True}, {"tied_embeddings": False}])
def test_only_a_causal_model_cannot_see_the_right(causal: bool, changes: dict) -> None:
    net = model(causal, **changes)
    tokens = torch.randint(0, 70, (2, 10))
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 70
    same = torch.isclose(net.hidden_states(tokens)[:, :7], net.hidden_states(other)[:, :7], atol=1e-12).all()
    assert bool(same) is causal


def test_padding_ids_are_never_predicted() -> None:
    net = model()
    assert net.embedding.weight.shape[0] == 128
    tokens, labels = torch.randint(0, 70, (1, 6)), torch.randint(0, 70, (6,))
    logits = net(tokens)
    assert logits.shape == (6, 70)
    nll = net(tokens, labels=labels)
    torch.testing.assert_close(nll, F.cross_entropy(logits, labels, reduction="none"))


def test_untied_models_have_a_head_of_their_own() -> None:
    assert count_parameters(model(tied_embeddings=False)) - count_parameters(model()) == 128 * 32


def test_initial_weights_have_their_scale() -> None:
    net = Transformer(ModelConfig(vocab_size=1000, layers=8, hidden=128, heads=4, ffn=256, causal=True))
    assert float(net.embedding.weight.std()) == pytest.approx(0.02, rel=0.05)
    weights = dict(net.named_parameters())
    assert float(weights["blocks.0.mlp.gate_up.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(weights["blocks.0.mlp.down.weight"].std()) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)


def test_dropout_acts_in_training_only() -> None:
    net = model(dropout=0.5)
    tokens = torch.randint(0, 70, (1, 6))
    torch.testing.assert_close(net(tokens), net(tokens))
    net.train()
    assert not torch.equal(net(tokens), net(tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"kv_heads": 3}, "kv_heads"), ({"hidden": 30}, "hidden"), ({"head_size": 7}, "even")],
)
def test_impossible_shapes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(causal=True, **(SHAPE | changes))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_fused_loss_and_gradients_equal_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", rows * 16)
    torch.manual_seed(0)
    x = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 8, dtype=torch.float64, requires_grad=True)
    labels, scale = torch.randint(0, 13, (10,)), torch.rand(10, dtype=torch.float64)
    fused = cross_entropy.weighted_nll_sum(x, weight, labels, scale, 13)
    plain = (F.cross_entropy((x @ weight.T)[:, :13], labels, reduction="none") * scale).sum()
    torch.testing.assert_close(fused, plain)
    ours = torch.autograd.grad(fused * 3, (x, weight))
    theirs = torch.autograd.grad(plain * 3, (x, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_fused_loss_of_no_targets_is_zero_with_zero_gradients() -> None:
    x = torch.zeros(0, 8, requires_grad=True)
    weight = torch.randn(16, 8, requires_grad=True)
    loss = cross_entropy.weighted_nll_sum(x, weight, torch.zeros(0, dtype=torch.int64), torch.zeros(0), 13)
    loss.backward()
    assert float(loss) == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_autocast_runs_the_head_in_bfloat16_and_sums_in_float32() -> None:
    net = model().float()
    tokens, labels = torch.randint(0, 70, (2, 16)), torch.randint(0, 70, (32,))
    exact = net(tokens, labels=labels, weights=torch.ones(32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(tokens, labels=labels, weights=torch.ones(32))
    mixed.backward()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.02, atol=0)
