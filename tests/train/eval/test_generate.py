"""Generation: the cache changes nothing, every mask is filled in, randomness is the seed's."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from epochal.common.errors import RequestError
from epochal.tokenize.tokenizer import spell
from epochal.train.eval import generate as generate_module
from epochal.train.eval.generate import Sampling, generate
from epochal.train.eval.terminal import HOLE, LiveText
from epochal.train.exact.writing import Text, write
from epochal.train.exact.writing_order import Order, WritingOrder
from epochal.train.model.transformer import ModelConfig, Transformer

torch.set_num_threads(1)

VOCAB, EOD, MASK = 20, 17, 19


def model(causal: bool, block_size: int | None = None) -> Transformer:
    torch.manual_seed(0)
    keys = {"kv_heads": 1, "init_std": 0.5, "tied_embeddings": False, "block_size": block_size}
    shape = ModelConfig(VOCAB, 2, 16, 2, 24, causal, **keys)  # type: ignore[arg-type]
    return Transformer(shape).eval()


def test_ar_with_a_cache_writes_what_it_writes_without() -> None:
    m, text = model(causal=True), [EOD, 3, 1]
    new = generate(m, text, MASK, Sampling(max_new_tokens=12))
    for _ in range(12):
        with torch.no_grad():
            logits = m(torch.tensor([text]))[-1]
        logits[MASK] = -torch.inf
        text = [*text, int(logits.argmax())]
    assert new == text[3:]


@pytest.mark.parametrize("order", ["confidence", "entropy", "left_to_right", "random"])
@pytest.mark.parametrize(("steps", "block"), [(None, None), (5, None), (6, 4), (1, None)])
def test_mdm_fills_in_every_mask_in_its_steps(order: str, steps: int | None, block: int | None) -> None:
    m, frames = model(causal=False), []
    sampling = Sampling(max_new_tokens=12, steps=steps, block=block, order=order)  # type: ignore[arg-type]
    new = generate(m, [EOD, 3], MASK, sampling, frames.append)
    assert len(frames) == (steps or 12)
    assert MASK not in new
    assert len(new) == 12
    for before, after in itertools.pairwise(frames):
        assert all(a == b for a, b in zip(after, before, strict=True) if b != MASK)  # settled places stay
        if block:
            first = after.index(MASK) // block if MASK in after else 3
            assert all(token == MASK for token in after[(first + 1) * block :])  # later blocks wait


def test_the_surest_place_is_settled_first() -> None:
    m, frames = model(causal=False), []
    generate(m, [EOD], MASK, Sampling(max_new_tokens=6), frames.append)
    with torch.no_grad():
        logits = m(torch.tensor([[EOD] + [MASK] * 6]))[1:]
    logits[:, MASK] = -torch.inf
    chance, best = logits.softmax(-1).max(-1)
    i = int(chance.argmax())
    assert frames[0] == [int(best[j]) if j == i else MASK for j in range(6)]


@pytest.mark.parametrize("causal", [True, False])
def test_sampling_is_the_seeds(causal: bool) -> None:
    m = model(causal)
    one, again, other = (
        generate(m, [EOD], MASK, Sampling(max_new_tokens=16, temperature=1.5, top_p=0.9, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one == again != other
    greedy = generate(m, [EOD], MASK, Sampling(max_new_tokens=8))
    assert generate(m, [EOD], MASK, Sampling(max_new_tokens=8, temperature=1.0, top_p=1e-9)) == greedy


@pytest.mark.parametrize("causal", [True, False])
def test_a_stop_token_ends_the_text(causal: bool) -> None:
    m = model(causal)
    whole = generate(m, [EOD], MASK, Sampling(max_new_tokens=8))
    stop = whole[3]
    cut = generate(m, [EOD], MASK, Sampling(max_new_tokens=8, stop=(stop,)))
    assert cut == whole[: whole.index(stop)]


def test_impossible_sampling_is_one_line() -> None:
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"steps": 2, "block": 32}):
        with pytest.raises(RequestError):
            Sampling(**wrong)  # type: ignore[arg-type]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_masks_are_seen_filling_in_on_a_terminal_only() -> None:
    letters = "abcdefghijklmnopqrst"
    decode = lambda ids: "".join(letters[i] for i in ids)  # noqa: E731
    screen = Screen()
    live = LiveText(decode, MASK, "q", screen)
    for frame in ([MASK, MASK, MASK], [MASK, 1, MASK], [0, 1, 2]):
        live.show(frame)
    live.clear()
    drawn = screen.getvalue()
    assert drawn.index(f"q{HOLE * 3}") < drawn.index(f"q{HOLE}b{HOLE}") < drawn.index("qabc")
    assert drawn.endswith("\x1b[1F\x1b[J")
    plain = io.StringIO()
    LiveText(decode, MASK, stream=plain).show([0])
    assert plain.getvalue() == ""
    assert spell([0, MASK, 1], {MASK: HOLE}, decode) == f"a{HOLE}b"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "k", "block"),
    [("confidence", 1, None), ("entropy", 2, None), ("left_to_right", 2, None), ("confidence", 1, 2)],
)
def test_texts_are_drawn_from_the_distribution_that_likelihoods_measure(
    order: Order, k: int, block: int | None
) -> None:
    """At temperature 1: 1,000 texts of three tokens of three ids, against their exact probabilities."""
    torch.manual_seed(2)
    m = Transformer(ModelConfig(4, 1, 16, 2, 24, False, init_std=0.6, tied_embeddings=False, block_size=block)).eval()
    head = m.head.weight.data  # type: ignore[union-attr]
    m.norm.weight.data[0], m.embedding.weight.data[:, 0] = 1.0, 40.0
    head[:, 0], head[3, 0] = 0.0, -60.0  # MASK is as good as impossible: the two distributions are then the same
    every = list(itertools.product(range(3), repeat=3))
    texts = [Text(np.array([0]), np.array(x)) for x in every]
    p = np.exp(-write(m, 3, texts, WritingOrder(order, k)).nats)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    draws = 1000
    drawn = [
        tuple(generate(m, [0], 3, Sampling(3, 1.0, seed=seed, order=order, tokens_per_step=k))) for seed in range(draws)
    ]
    counts = np.array([drawn.count(x) for x in every])
    assert counts.sum() == draws
    expected = p * draws
    kept = expected >= 5
    chi2 = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi2 < scipy.stats.chi2.ppf(0.9999, kept.sum())
    assert chi2 > 0


@pytest.mark.parametrize(
    ("n", "block", "k", "settled"),
    [(7, None, 3, [3, 6, 7]), (7, 4, 3, [3, 4, 7]), (9, 4, 3, [3, 4, 7, 8, 9]), (6, None, 9, [6])],
)
def test_tokens_per_step_fill_in_so_many_at_a_time(n: int, block: int | None, k: int, settled: list[int]) -> None:
    frames: list[list[int]] = []
    generate(model(causal=False), [EOD], MASK, Sampling(n, block=block, tokens_per_step=k), frames.append)
    assert [n - frame.count(MASK) for frame in frames] == settled


@pytest.mark.parametrize(
    ("n", "block", "steps", "settled"),
    [(7, 4, None, [1, 2, 3, 4, 5, 6, 7]), (9, 4, 5, [2, 4, 6, 8, 9]), (3, 1, None, [1, 2, 3]), (5, 4, 2, [4, 5])],
)
def test_steps_are_shared_out_over_uneven_blocks(n: int, block: int, steps: int | None, settled: list[int]) -> None:
    frames: list[list[int]] = []
    generate(model(causal=False), [EOD], MASK, Sampling(n, block=block, steps=steps), frames.append)
    assert [n - frame.count(MASK) for frame in frames] == settled


def test_tokens_per_step_and_steps_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="one of the two"):
        Sampling(8, steps=4, tokens_per_step=2)


@pytest.mark.parametrize("order", ["confidence", "left_to_right", "random"])
@pytest.mark.parametrize(("size", "prompt"), [(1, 3), (4, 3), (4, 4), (4, 9), (32, 3)])
def test_block_diffusion_with_a_cache_writes_what_it_writes_without(order: str, size: int, prompt: int) -> None:
    """Without: the whole text is read at every step, later blocks MASK, which earlier ones do not see."""
    m, text = model(False, size).double(), [EOD, *range(1, prompt)]
    sampling = Sampling(max_new_tokens=11, order=order, temperature=0.7, seed=3)  # type: ignore[arg-type]
    frames: list[list[int]] = []
    new = generate(m, text, MASK, sampling, frames.append)
    whole = list(
        generate_module._unmasking(m, text, MASK, sampling, generate_module._blocks_of(size, prompt, sampling))
    )
    assert frames == whole
    assert new == whole[-1]
    assert MASK not in new
    stop = new[5]
    cut = generate(m, text, MASK, Sampling(11, 0.7, order=order, seed=3, stop=(stop,)))  # type: ignore[arg-type]
    assert cut == new[: new.index(stop)]


def test_a_model_of_blocks_has_its_own() -> None:
    m = model(False, 4)
    with pytest.raises(RequestError, match="writes in blocks of 4 tokens, not of 8: leave --block out"):
        generate(m, [EOD], MASK, Sampling(8, block=8))
    with pytest.raises(RequestError, match="2 steps are too few for 3 blocks"):
        generate(m, [EOD], MASK, Sampling(8, steps=2))
    assert generate(m, [EOD], MASK, Sampling(8, block=4)) == generate(m, [EOD], MASK, Sampling(8))
    frames: list[list[int]] = []
    generate(m, [EOD], MASK, Sampling(8, steps=3), frames.append)
    assert [8 - frame.count(MASK) for frame in frames] == [3, 7, 8]


@pytest.mark.parametrize("causal", [True, False])
def test_a_document_masked_model_goes_on_with_the_last_document_of_its_prompt(causal: bool) -> None:
    told, plain = model(causal), model(causal)
    told.config = replace(told.config, document_mask=True)
    sampling = Sampling(max_new_tokens=8)
    new = generate(told, [EOD, 1, 2, EOD, 5, 3], MASK, sampling)
    assert new == generate(plain, [EOD, 5, 3] if causal else [5, 3], MASK, sampling)
    assert new != generate(plain, [EOD, 1, 2, EOD, 5, 3], MASK, sampling)
    assert len(generate(told, [EOD], MASK, sampling)) == 8  # nothing stands before a masked-diffusion model's text
