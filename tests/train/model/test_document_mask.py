"""Attention within documents: packed documents are read as each of them alone, by both forms of the mask."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from epochal.tests.train.objective.test_objectives import corrupt, loss
from epochal.train.checkpoint import as_type
from epochal.train.model import attention_reach, document_mask
from epochal.train.model.attention_reach import attention_mask, bidirectional, causal
from epochal.train.model.document_mask import BLOCK, attends, blocks, positions_within, whole
from epochal.train.model.ensemble import Ensemble
from epochal.train.model.transformer import ModelConfig, Transformer, config_dict
from epochal.train.objective import documents
from epochal.train.objective.dual import Dual
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, SpecialIds, pack

torch.set_num_threads(1)

EOD, PAD, MASK, VOCAB = 10, 11, 12, 13
IDS = SpecialIds(EOD, PAD, MASK)
ROPES = ("restart", "continue")


def model(is_causal: bool, **changes: Any) -> Transformer:
    torch.manual_seed(2)
    shape: dict[str, Any] = {"layers": 3, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "init_std": 0.2}
    return Transformer(ModelConfig(VOCAB, causal=is_causal, **(shape | {"document_mask": True} | changes))).eval()


def packed(*lengths: int, seed: int = 0) -> np.ndarray:
    """Return one row of documents of these lengths, each but the last ended by EOD."""
    random = np.random.default_rng(seed)
    row = random.integers(0, 10, sum(lengths))
    row[np.cumsum(lengths[:-1]) - 1] = EOD
    return row


ROW = packed(7, 1, 20, 12)


def numbers(*rows: Any) -> torch.Tensor:
    return torch.tensor(np.array(rows), dtype=torch.int32)


# Done when: logits of packed documents equal those of the same documents alone to 1e-5.


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rope", ROPES)
def test_an_autoregressive_model_reads_packed_documents_as_each_after_its_own_eod(
    rope: str, dtype: torch.dtype, atol: float
) -> None:
    net = model(True, rope=rope).to(dtype)
    inputs = np.concatenate([[EOD], ROW[:-1]])
    together = net(torch.tensor(inputs[None]), documents=torch.from_numpy(documents.of_inputs(inputs[None], EOD)))
    start = 0
    for part in documents.parts(ROW, EOD):
        stop = start + len(part)
        alone = torch.tensor(np.concatenate([[EOD], part[:-1]])[None])
        positions = None if rope == "restart" else torch.arange(start, stop)
        torch.testing.assert_close(together[start:stop], net(alone, positions=positions), atol=atol, rtol=0)
        start = stop
    assert start == len(ROW)
    assert not torch.allclose(together, net(torch.tensor(inputs[None])), atol=1e-2)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rope", ROPES)
def test_a_masked_diffusion_model_reads_packed_documents_as_each_alone(
    rope: str, dtype: torch.dtype, atol: float
) -> None:
    net = model(False, rope=rope).to(dtype)
    noised = np.where(np.random.default_rng(1).random(len(ROW)) < 0.5, MASK, ROW)
    assert (noised == EOD).sum() < (ROW == EOD).sum()
    told = documents.of_text(ROW[None], np.ones((1, len(ROW)), bool), EOD)
    together = net(torch.tensor(noised[None]), documents=torch.from_numpy(told))
    start = 0
    for part in documents.parts(ROW, EOD):
        stop = start + len(part)
        positions = None if rope == "restart" else torch.arange(start, stop)
        alone = net(torch.tensor(noised[None, start:stop]), positions=positions)
        torch.testing.assert_close(together[start:stop], alone, atol=atol, rtol=0)
        start = stop
    assert not torch.allclose(together, net(torch.tensor(noised[None])), atol=1e-2)


@pytest.mark.parametrize("is_causal", [True, False])
def test_positions_that_restart_are_another_rounding_of_those_that_continue(is_causal: bool) -> None:
    """Rotary attention sees differences of positions alone, and within a document these are the same; cosines and
    sines are rounded to float32."""
    told = numbers([0] * 7 + [1] + [2] * 20 + [3] * 12)
    restart, goes_on = (model(is_causal, rope=rope).double() for rope in ROPES)
    tokens = torch.tensor(ROW[None])
    torch.testing.assert_close(restart(tokens, documents=told), goes_on(tokens, documents=told), atol=1e-5, rtol=0)


def test_pad_is_attended_to_by_no_text() -> None:
    net = model(False)
    real = np.arange(40)[None] < 33
    told = torch.from_numpy(documents.of_text(ROW[None], real, EOD))
    other = torch.tensor(np.where(real, ROW, PAD))
    found = [net(tokens, documents=told)[:33] for tokens in (torch.tensor(ROW[None]), other)]
    assert torch.equal(*found)


def test_a_dual_batch_is_read_as_each_type_reads_its_documents() -> None:
    net = model(False).double()
    ar, mdm = Autoregressive(IDS, 5, document_mask=True), MaskedDiffusion(IDS, 5, document_mask=True)
    tokens = np.stack([packed(5, 9, 10, seed=i) for i in range(12)])
    n_tokens = np.array([24] * 10 + [13, 0])
    dual = Dual(ar, mdm, 0.4, 5)
    is_ar = dual.is_autoregressive(np.arange(12))
    whole_loss = loss(net, corrupt(dual, tokens, n_tokens)) * 12
    parts = 0.0
    for name, objective, own in (("ar", ar, is_ar), ("mdm", mdm, ~is_ar)):
        rows = corrupt(objective, tokens, n_tokens)
        rows = type(rows)(*(column[own] for column in rows[:5]), documents=rows.documents[own])  # type: ignore[index]
        parts += loss(as_type(net, name), rows) * own.sum()
    assert whole_loss == pytest.approx(parts, abs=1e-9)


def test_the_mean_of_a_models_probabilities_and_its_own_is_its_own() -> None:
    net = model(True, rope="restart").double()
    told = numbers([0] * 20 + [1] * 20)
    expected = net(torch.tensor(ROW[None]), documents=told).log_softmax(-1)
    torch.testing.assert_close(Ensemble([net, net])(torch.tensor(ROW[None]), documents=told), expected)


# One function of places, asked for all pairs or inside a kernel.


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_function_of_places_is_what_documents_mean(is_causal: bool) -> None:
    told = np.array([[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 4, 6]])
    mask = whole(attends(numbers(*told), is_causal), 2, 6, torch.device("cpu"))
    expected = told[:, :, None] == told[:, None, :]
    if is_causal:
        expected &= np.tri(6, dtype=bool)
    assert np.array_equal(mask[:, 0], expected)


def test_reach_is_the_same_as_a_mask_and_as_a_function_of_places() -> None:
    attended = np.arange(9)[None] < np.array([[9], [4]])
    for reach in (causal(attended), bidirectional(attended), causal(attended[:1])):
        rows = torch.from_numpy(reach)
        found = whole(attention_reach.attends(rows), 2, 9, torch.device("cpu"))
        assert torch.equal(found, attention_mask(rows).expand(2, 1, 9, 9))


def lengths_of(seed: int, total: int) -> list[int]:
    random = np.random.default_rng(seed)
    cuts = np.sort(random.choice(np.arange(1, total), 5, replace=False))
    return np.diff([0, *cuts, total]).tolist()


@functools.cache
def flex_takes_gradients() -> bool:
    """Return whether this torch computes gradients of flex attention on a CPU: 2.7 does, 2.15 refuses."""
    x = torch.ones(1, 1, 1, 8, requires_grad=True)
    try:
        flex_attention(x, x, x)
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("length", [2 * BLOCK, 3 * BLOCK + 17, 40])
def test_flex_attention_equals_attention_with_the_mask(is_causal: bool, length: int) -> None:
    """Eager on the CPU, values and (where this torch has them) gradients, in float64."""
    told = numbers(*(np.repeat(np.arange(6), lengths_of(seed, length)) for seed in range(3)))
    may = attends(told, is_causal)
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 8, dtype=torch.float64) for _ in range(3))
    for given in (q, k, v):
        given.requires_grad_(flex_takes_gradients())
    sparse = document_mask.attention(q, k, v, blocks(may, told, is_causal))
    dense = F.scaled_dot_product_attention(q, k, v, whole(may, 3, length, torch.device("cpu")))
    torch.testing.assert_close(sparse, dense, atol=1e-12, rtol=0)
    if flex_takes_gradients():
        grads = (torch.autograd.grad(y.sin().sum(), (q, k, v)) for y in (sparse, dense))
        for mine, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_blocks_that_are_read_are_those_in_which_something_is_attended_to(is_causal: bool) -> None:
    length = 7 * BLOCK
    told = numbers(*(np.repeat(np.arange(6), lengths_of(seed, length)) for seed in range(8)))
    may = attends(told, is_causal)
    found = blocks(may, told, is_causal)
    squares = whole(may, 8, length, torch.device("cpu")).view(8, 7, BLOCK, 7, BLOCK).any(4).any(2)
    assert torch.equal(found.to_dense()[:, 0].bool(), squares)
    assert squares.float().mean() < (0.5 if is_causal else 0.9)


def sparse_always(*given: Any, sparse: bool) -> document_mask.Mask:
    return document_mask.mask_of_documents(*given, sparse=True)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_model_with_flex_attention_gives_the_loss_and_gradients_of_one_with_a_mask(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool, rope: str
) -> None:
    """The form that a GPU gets, taken on the CPU, where flex attention is computed as it is written down."""
    kind = Autoregressive if is_causal else MaskedDiffusion
    rows = corrupt(kind(IDS, document_mask=True), np.stack([packed(90, 30, 80, seed=i) for i in range(2)]), [200, 150])
    results = []
    for sparse in (False, True):
        net = model(is_causal, rope=rope, qk_norm=True).double().train()
        if sparse:
            monkeypatch.setattr(attention_reach, "mask_of_documents", sparse_always)
        with torch.set_grad_enabled(flex_takes_gradients()):
            value = net(*pack(rows, torch.float64))
        if flex_takes_gradients():
            value.backward()
        results.append((value.detach(), [p.grad for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[1], atol=1e-10, rtol=1e-10)


def test_positions_begin_anew_in_each_document() -> None:
    told = numbers([0, 0, 0, 2, 2, 5], [1, 2, 3, 3, 3, 3])
    assert positions_within(told).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


# Shapes without the keys are what they were.


def test_a_shape_says_what_it_said_before_there_were_these_keys() -> None:
    plain = ModelConfig(VOCAB, 1, 16, 2, 24, causal=True)
    assert not {"document_mask", "rope", "block_size"} & config_dict(plain).keys()
    told = model(True, rope="restart").config
    assert {k: config_dict(told)[k] for k in ("document_mask", "rope")} == {"document_mask": True, "rope": "restart"}
    assert ModelConfig(**config_dict(told)) == told
    assert "rope" not in config_dict(model(True).config)


@pytest.mark.parametrize("keys", [{"rope": "restart"}, {"rope": "again", "document_mask": True}])
def test_positions_restart_with_a_document_mask_alone(keys: dict) -> None:
    with pytest.raises(ValueError, match="rope is continue, or restart with document_mask: true; got"):
        ModelConfig(VOCAB, 1, 16, 2, 24, causal=True, **keys)
