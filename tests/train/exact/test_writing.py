"""Exact likelihoods against enumeration: every text of a few tokens, every conditional computed by itself."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from epochal.common.errors import WorkError
from epochal.train.exact import writing as module
from epochal.train.exact.orders import CELL
from epochal.train.exact.writing import Text, write
from epochal.train.exact.writing_order import ORDERS, WritingOrder
from epochal.train.model.transformer import ModelConfig, Transformer

torch.set_num_threads(1)

MASK = 4
"""The last of five ids; it has a share of the probability, as in the bound, but no rule looks at it."""


def model(vocab: int = 5, dtype: torch.dtype = torch.float64, block_size: int | None = None) -> Transformer:
    torch.manual_seed(1)
    shape = ModelConfig(vocab, 2, 16, 2, 24, False, init_std=0.5, tied_embeddings=False, block_size=block_size)
    return Transformer(shape).to(dtype).eval()


def conditionals(m: Transformer, read: list[int], mask: int = MASK) -> tuple[np.ndarray, np.ndarray]:
    """Return log p over all ids and, normalised anew, over all but MASK: float64 (length, vocabulary)."""
    with torch.no_grad():
        logits = m(torch.tensor([read]))
    log_p = logits.log_softmax(-1).numpy()
    logits[:, mask] = -torch.inf
    return log_p, logits.log_softmax(-1).numpy()


def by_hand(m: Transformer, context: list[int], answer: list[int], order: str, k: int, mask: int = MASK) -> float:
    """Return the nats of `answer` from one read of the whole text a step, with plain lists."""
    start, left = len(context), list(range(len(context), len(context) + len(answer)))
    read, total = context + [mask] * len(answer), 0.0
    while left:
        log_p, rule = conditionals(m, read, mask)
        score = {
            "left_to_right": lambda i, _: -i,
            "confidence": lambda i, r: round(max(r[i]) / CELL),
            "entropy": lambda i, r: round(sum(math.exp(x) * x for x in r[i] if x > -math.inf) / CELL),
        }[order]
        now = sorted(left, key=lambda i: (-score(i, rule), i))[:k]
        total -= sum(log_p[i, answer[i - start]] for i in now)
        for i in now:
            read[i] = answer[i - start]
            left.remove(i)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("length", "k"), [(4, 1), (4, 2), (4, 3), (5, 2)])
def test_the_probabilities_of_all_texts_sum_to_1(order: str, length: int, k: int) -> None:
    texts = [Text(np.array([0, 3]), np.array(x)) for x in itertools.product(range(5), repeat=length)]
    nats = write(model(), MASK, texts, WritingOrder(order, k)).nats  # type: ignore[arg-type]
    assert np.exp(-nats).sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_likelihoods_are_products_of_conditionals(order: str, k: int) -> None:
    m = model()
    for context, length in (([], 6), ([0, 3], 4), ([1], 1)):
        every = list(itertools.product(range(4), repeat=length))
        answers = every[:: max(1, len(every) // 60)]
        texts = [Text(np.array(context, np.int64), np.array(x)) for x in answers]
        nats = write(m, MASK, texts, WritingOrder(order, k)).nats  # type: ignore[arg-type]
        wanted = [by_hand(m, context, list(x), order, k) for x in answers]
        assert nats == pytest.approx(wanted, abs=1e-9)


@pytest.mark.slow
def test_six_tokens_of_four_ids_sum_to_1_too() -> None:
    m, every = model(vocab=4), list(itertools.product(range(4), repeat=6))
    texts = [Text(np.array([], np.int64), np.array(x)) for x in every]
    nats = write(m, 3, texts, WritingOrder("confidence", 2)).nats
    assert np.exp(-nats).sum() == pytest.approx(1.0, abs=1e-9)
    assert nats[::97] == pytest.approx([by_hand(m, [], list(x), "confidence", 2, 3) for x in every[::97]], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_read_beside_a_text_changes_nothing(order: str, dtype: torch.dtype) -> None:
    m, random = model(40, dtype), np.random.default_rng(2)
    texts = [
        Text(random.integers(0, 39, c), random.integers(0, 39, n)) for c, n in [(0, 9), (3, 1), (5, 12), (9, 3)] * 4
    ]
    writing = WritingOrder(order, 2)  # type: ignore[arg-type]
    together = write(m, 39, texts, writing)
    alone = [write(m, 39, [text], writing) for text in texts]
    within = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2.0}[dtype]  # left to right is read together
    within = 1e-12 if dtype == torch.bfloat16 and order != "left_to_right" else within
    assert together.nats == pytest.approx([w.nats[0] for w in alone], abs=within)


def test_a_choice_that_rounding_could_change_is_made_by_the_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orders lie within the noise of each other: whatever the batch's scores say, the row's own decide."""
    m, real, sizes = model(), module._read, []
    texts = [Text(np.array([i % 4]), np.array([1, 2, 3, 0])) for i in range(8)]
    wanted = [write(m, MASK, [text], WritingOrder("confidence")).nats[0] for text in texts]
    random = np.random.default_rng(3)

    def noisy(model, mask, page, places, writing):  # type: ignore[no-untyped-def]
        scores, nats = real(model, mask, page, places, writing)
        sizes.append(len(page.inputs))
        error = random.uniform(-0.04, 0.04, scores.shape) if len(page.inputs) > 1 else 0.0
        return scores + error * places, nats

    monkeypatch.setattr(module, "_read", noisy)
    monkeypatch.setitem(module.NOISE, torch.float64, 0.04)
    written = write(m, MASK, texts, WritingOrder("confidence"))
    assert written.nats == pytest.approx(wanted, abs=1e-9)
    assert sizes.count(1) > 0
    assert written.reads == 32 + sizes.count(1)
    monkeypatch.setitem(module.NOISE, torch.float64, 0.0)  # without the rule the errors would show
    assert write(m, MASK, texts, WritingOrder("confidence")).nats != pytest.approx(wanted, abs=1e-9)


def test_only_rows_still_being_written_are_read() -> None:
    m = model()
    texts = [Text(np.array([0]), np.array([1] * n)) for n in (1, 2, 5)]
    written = write(m, MASK, texts, WritingOrder("left_to_right"))
    assert written.reads == 1 + 2 + 5
    assert written.real == 2 * 1 + 3 * 2 + 6 * 5
    assert written.padded == 3 * 6 + 2 * 6 + 3 * 6
    assert write(m, MASK, texts, WritingOrder("left_to_right", 2)).reads == 1 + 1 + 3


def test_damaged_weights_are_one_line_and_no_endless_loop() -> None:
    m = model()
    m.norm.weight.data.fill_(math.nan)
    with pytest.raises(WorkError, match="damaged"):
        write(m, MASK, [Text(np.array([0]), np.array([1, 2]))], WritingOrder("confidence"))


def by_hand_in_blocks(m: Transformer, context: list[int], answer: list[int], order: str, k: int, size: int) -> float:
    """Return the nats of `answer` by a model that knows of no blocks, under a plain mask, one block after another."""
    plain = Transformer(replace(m.config, block_size=None)).double().eval()
    plain.load_state_dict(m.state_dict())

    class Masked(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            n = tokens.shape[1]
            mask = torch.tensor([[[[j // size <= i // size for j in range(n)] for i in range(n)]]])
            return plain(tokens, mask)

    total, written = 0.0, list(context)
    while answer:
        room = size - len(written) % size
        total += by_hand(Masked(), written, answer[:room], order, k)  # type: ignore[arg-type]
        written, answer = written + answer[:room], answer[room:]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("size", "k"), [(1, 1), (2, 1), (3, 2), (8, 2)])
def test_blocks_are_written_one_after_another(order: str, size: int, k: int) -> None:
    m, writing = model(block_size=size), WritingOrder(order, k)  # type: ignore[arg-type]
    for context, length in (([], 6), ([0, 3], 4), ([1, 2, 0], 2)):
        every = list(itertools.product(range(4), repeat=length))
        answers = every[:: max(1, len(every) // 20)]
        texts = [Text(np.array(context, np.int64), np.array(x)) for x in answers]
        wanted = [by_hand_in_blocks(m, context, list(x), order, k, size) for x in answers]
        assert write(m, MASK, texts, writing).nats == pytest.approx(wanted, abs=1e-9)
    texts = [Text(np.array([0, 3]), np.array(x)) for x in itertools.product(range(5), repeat=4)]
    assert np.exp(-write(m, MASK, texts, writing).nats).sum() == pytest.approx(1.0, abs=1e-9)


def test_one_block_over_all_is_masked_diffusion() -> None:
    texts = [Text(np.array([0]), np.array([1, 2, 3])), Text(np.array([2]), np.array([3] * 5))]
    for writing in (WritingOrder("confidence"), WritingOrder("left_to_right", 2)):
        ours, theirs = (write(m, MASK, texts, writing) for m in (model(block_size=6), model()))
        assert ours.nats == pytest.approx(theirs.nats, abs=1e-12)
        assert ours[1:] == theirs[1:]
