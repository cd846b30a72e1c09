"""Multiple choice: batches change nothing, padding is bounded, what only counts is told from what knows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from epochal.tokenize.tokenizer import Tokenizer, load_tokenizer
from epochal.train.eval.encoding import encode, encode_pairs
from epochal.train.eval.generate import Sampling, generate
from epochal.train.eval.metrics import counting_nats, credit, summarise
from epochal.train.eval.scoring import Group, Scorer
from epochal.train.eval.tasks import Item
from epochal.train.exact.writing_order import WritingOrder
from epochal.train.model.transformer import ModelConfig, Transformer

torch.set_num_threads(1)

VOCAB, EOD, MASK = 40, 37, 39


def scorer(causal: bool, block_size: int | None = None, **changes: object) -> Scorer:
    torch.manual_seed(2)
    shape = ModelConfig(VOCAB, 2, 16, 2, 24, causal, init_std=0.3, tied_embeddings=False, block_size=block_size)
    keys = {"draws": 5, "batch_tokens": 200} | changes
    return Scorer(Transformer(shape).double().eval(), EOD, MASK, limit=128, **keys)  # type: ignore[arg-type]


def groups(n: int, seed: int = 0) -> list[Group]:
    """Return questions of 4 to 80 tokens with two to four answers of 1 to 20; every third begins alike."""
    rng = np.random.default_rng(seed)
    head = rng.integers(0, 36, 40)
    result = []
    for i in range(n):
        context = np.concatenate([[EOD], head if i % 3 == 0 else [], rng.integers(0, 36, rng.integers(4, 40))])
        answers = tuple(rng.integers(0, 36, rng.integers(1, 20)) for _ in range(rng.integers(2, 5)))
        result.append(Group(context.astype(np.int64), answers, key=i * 64, family="abc"[i % 3]))
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "block"), [(True, None), (False, None), (False, 4)])
def test_scores_do_not_depend_on_batches(causal: bool, block: int | None) -> None:
    questions = groups(24)
    one, small, large = (scorer(causal, block, batch_tokens=size).score(questions) for size in (1, 200, 100_000))
    for other in (small, large):
        for a, b in zip(one, other, strict=True):
            assert [s.nats for s in a] == pytest.approx([s.nats for s in b], abs=1e-9)
    again = scorer(causal, block).score(questions[::-1])[::-1]
    assert [[s.nats for s in g] for g in again] == [pytest.approx([s.nats for s in g], abs=1e-9) for g in one]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("batch_tokens", [500, 4000])
def test_padding_is_under_15_percent(causal: bool, batch_tokens: int) -> None:
    s = scorer(causal, batch_tokens=batch_tokens, draws=2)
    s.score(groups(60))
    assert 0 <= s.work.padding_waste < 0.15
    assert s.work.sequences == (
        s.work.sequences if causal else sum(min(2, 2 ** len(a) - 1) for g in groups(60) for a in g.answers)
    )
    assert s.work.seconds > 0


def test_a_shared_prefix_is_read_once() -> None:
    s = scorer(True, batch_tokens=4000)
    questions = [g._replace(family="") for g in groups(30) if len(g.context) > 44]
    shared = [g for g in questions if (g.context[1:41] == questions[0].context[1:41]).all()]
    s.score(shared)
    alone = sum(len(g.context) + sum(len(a) - 1 for a in g.answers) for g in shared)
    assert s.work.real <= alone - 41 * (len(shared) - 6)


@pytest.mark.parametrize("causal", [True, False])
def test_long_contexts_lose_their_middle(causal: bool) -> None:
    s = scorer(causal)
    context = np.concatenate([[EOD], np.arange(300) % 36])
    answer = np.array([1, 2, 3])
    kept = np.concatenate([[EOD], context[-124:]])
    assert s.score([Group(context, (answer,))])[0][0].nats == s.score([Group(kept, (answer,))])[0][0].nats
    assert s.work.truncated == 1


@pytest.mark.parametrize("causal", [True, False])
def test_an_answer_longer_than_the_window_counts_as_cut(causal: bool) -> None:
    s = scorer(causal)
    s.score([Group(np.array([EOD]), (np.arange(128) % 36,)), Group(np.array([EOD, 1]), (np.arange(126) % 36,))])
    assert s.work.truncated == 1


def test_greedy_is_what_the_model_would_write() -> None:
    for causal in (True, False):
        s = scorer(causal, greedy=True)
        context = np.array([EOD, 1, 2])
        every = [Group(context, tuple(np.array([t]) for t in range(36)))]
        scores = s.score(every)[0]
        best = min(range(36), key=lambda t: scores[t].nats)
        likely = [t for t in range(36) if scores[t].greedy]
        assert likely in ([best], [])  # empty when a special id is likelier than all of them


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return load_tokenizer("gpt2")


@pytest.mark.slow
def test_text_is_tokenized_as_a_whole(gpt2: Tokenizer) -> None:
    pairs = [("Hello", " world"), ("Hello ", "world"), ("", "Hello"), ("wor", "ld")]
    ids = [(c.tolist(), a.tolist()) for c, a in encode_pairs(pairs, gpt2)]
    assert ids[0] == ids[1] == ([50256, 15496], [995])
    assert ids[2] == ([50256], [15496])
    assert ids[3][1]  # `world` is one token: an answer has one even so


def test_items_with_one_context_are_one_group(gpt2: Tokenizer) -> None:
    same = Item(0, ("A cat",) * 2, (" sat", " ran off"), 0)
    other = Item(1, ("so Sarah", "so Maria"), (" won",) * 2, 1)
    one, two = encode([same, other], gpt2)
    assert [len(e.groups) for e in (one, two)] == [1, 2]
    assert one.tokens == (1, 2)
    assert len({g.key for e in (one, two) for g in e.groups}) == 3


def record(nats: list[float], gold: int, tokens: list[int], characters: list[int], subject: str = "") -> dict:
    return {
        "id": 0,
        "subject": subject,
        "gold": gold,
        "nats": nats,
        "se": [0.0] * len(nats),
        "tokens": tokens,
        "characters": characters,
    }


def test_accuracy_and_delta_nll_by_hand() -> None:
    a = record([6.0, 5.0], 0, [3, 2], [12, 5], "law")
    b = record([4.0, 4.0], 1, [2, 2], [4, 4], "art")
    assert credit(a["nats"], a, "characters") == 1  # 0.5 against 1.0
    assert credit(a["nats"], a, "tokens") == 1
    assert credit(a["nats"], a, "none") == 0
    assert credit(b["nats"], b, "none") == 0.5  # a tie is shared
    body = summarise([a, b], "characters")
    assert body["accuracy"] == 0.75
    assert body["accuracy_se"] == pytest.approx(math.sqrt(0.125 / 2))
    assert body["delta_nll"] == pytest.approx((1.0 - 0.5 + 0.0) / 2)
    assert body["nll_right"] == pytest.approx((0.5 + 1.0) / 2)
    assert body["accuracy_by"] == {"characters": 0.75, "tokens": 0.75, "none": 0.25}
    assert body["subjects"]["law"] == {"accuracy": 1.0, "accuracy_se": None, "items": 1}
    assert body["macro_accuracy"] == 0.75
    assert counting_nats(a) == [3.0, 2.0]
    assert body["counting"] == pytest.approx((1 + 0.5) / 2)  # 3/12 < 2/5; then a tie


def test_a_model_that_finds_all_tokens_equal_scores_as_the_baseline() -> None:
    records = [record([3 * math.log(9), 2 * math.log(9)], 1, [3, 2], [9, 7])]
    assert summarise(records, "characters")["over_counting"] == 0


def test_answers_of_block_diffusion_are_explained_block_by_block() -> None:
    """Blocks of one are exact, whatever the noise; one block is masked diffusion; between them the sum over blocks."""
    questions = groups(6)
    ones = scorer(False, 1).score(questions)
    exact = scorer(False, 1, writing=WritingOrder("confidence")).score(questions)
    assert [[s.nats for s in g] for g in ones] == [pytest.approx([s.nats for s in g], abs=1e-9) for g in exact]
    assert {s.se for g in ones for s in g} == {0.0}
    whole, plain = scorer(False, 128).score(questions), scorer(False).score(questions)
    assert [[s.nats for s in g] for g in whole] == [pytest.approx([s.nats for s in g], abs=1e-9) for g in plain]
    s = scorer(False, 4, draws=100)  # all 15 sets of a block are read: no noise
    context, answer = np.array([EOD, 5, 6, 7, 8, 9]), np.array([1, 2, 3, 4, 5, 6, 7])
    parts = [
        s.score([Group(np.concatenate([context, answer[:a]]), (answer[a:b],))])[0][0]
        for a, b in ((0, 2), (2, 6), (6, 7))
    ]
    found = s.score([Group(context, (answer,))])[0][0]
    assert found.nats == pytest.approx(sum(p.nats for p in parts), abs=1e-9)
    assert found.se == 0.0


@pytest.mark.parametrize("block", [1, 3])
def test_greedy_is_what_a_model_of_blocks_writes(block: int) -> None:
    s = scorer(False, block, greedy=True)
    context = np.array([EOD, 5, 6, 7])
    new = np.array(generate(s.model, context.tolist(), MASK, Sampling(max_new_tokens=7)))
    other = np.where(np.arange(7) == 5, (new + 1) % 36, new)
    scores = s.score([Group(context, (new, other))])[0]
    assert [x.greedy for x in scores] == [True, False]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("writing", [None, WritingOrder("confidence")])
def test_a_document_masked_model_is_asked_within_the_last_document(causal: bool, writing: WritingOrder | None) -> None:
    """As in training: after its EOD (autoregressive), or with nothing before it (masked diffusion)."""
    told, plain = scorer(causal, writing=writing, greedy=True), scorer(causal, writing=writing, greedy=True)
    told.model.config = replace(told.model.config, document_mask=True)
    answers = (np.array([3, 4]), np.array([5]), np.array([6, 7, 8]))
    text = np.array([9, 10, 11])
    before, first = np.array([EOD, 1, 2, EOD]), np.array([EOD] if causal else [], np.int64)
    found = told.score([Group(np.concatenate([before, text]), answers), Group(np.array([EOD]), answers)])
    assert found == plain.score([Group(np.concatenate([first, text]), answers), Group(first, answers)])
