"""What autoregressive training does to its samples: shares, places, and that only (seed, position) matters."""

import numpy as np
import pytest

from epochal.train.objective.objectives import Autoregressive, SpecialIds

IDS = SpecialIds(eod=2, pad=0, mask=5)
VOCAB = 9
PLAIN = [1, 3, 4, 6, 7, 8]


def rows(objective: Autoregressive, tokens: np.ndarray, n: int | None = None, start: int = 0):
    counts = np.full(len(tokens), tokens.shape[1] if n is None else n)
    return objective.corrupt(tokens, counts, np.arange(start, start + len(tokens)))


def test_random_replacement_draws_plain_ids_evenly_and_leaves_bos_and_targets() -> None:
    tokens = np.full((600, 64), IDS.eod)
    found = rows(Autoregressive(IDS, 1, random_replacement=0.3, vocab_size=VOCAB), tokens)
    assert found.targets.all()
    assert (found.labels == tokens).all()
    assert (found.inputs[:, 0] == IDS.eod).all()
    changed = found.inputs[:, 1:][found.inputs[:, 1:] != IDS.eod]
    assert changed.size / (600 * 63) == pytest.approx(0.3, abs=0.01)
    ids, counts = np.unique(changed, return_counts=True)
    assert ids.tolist() == PLAIN
    assert counts / changed.size == pytest.approx(np.full(6, 1 / 6), abs=0.015)


def test_where_a_token_is_masked_and_replaced_it_is_masked() -> None:
    tokens = np.full((200, 64), IDS.eod)
    masked = rows(Autoregressive(IDS, 1, 0.4), tokens).inputs == IDS.mask
    both = rows(Autoregressive(IDS, 1, 0.4, random_replacement=0.5, vocab_size=VOCAB), tokens).inputs
    assert ((both == IDS.mask) == masked).all()


def test_a_share_of_samples_is_read_from_the_end_and_says_so_with_its_first_token() -> None:
    tokens = np.tile(np.array([1, 3, 4, 6, 7, 0, 0]), (2000, 1))
    found = rows(Autoregressive(IDS, 1, right_to_left=0.25), tokens, n=5)
    turned = found.inputs[:, 0] == IDS.mask
    assert turned.mean() == pytest.approx(0.25, abs=0.03)
    assert (found.labels[turned] == [7, 6, 4, 3, 1, 0, 0]).all()
    assert (found.inputs[turned] == [IDS.mask, 7, 6, 4, 3, 1, 0]).all()
    assert (found.labels[~turned] == tokens[0]).all()
    assert (found.inputs[~turned] == [IDS.eod, 1, 3, 4, 6, 7, 0]).all()
    assert (found.targets.sum(1) == 5).all()


def test_only_position_and_seed_decide() -> None:
    tokens = np.random.default_rng(0).choice(PLAIN, (32, 16))
    keys = {"random_replacement": 0.3, "right_to_left": 0.5, "vocab_size": VOCAB}
    objective = Autoregressive(IDS, 4, 0.1, **keys)
    whole = rows(objective, tokens)
    for start in range(0, 32, 8):
        part = rows(objective, tokens[start : start + 8], start=start)
        assert (part.inputs == whole.inputs[start : start + 8]).all()
        assert (part.labels == whole.labels[start : start + 8]).all()
    assert (rows(Autoregressive(IDS, 5, 0.1, **keys), tokens).inputs != whole.inputs).any()


def test_golden_samples() -> None:
    """Others must be able to draw the same: changed never, or with a format version."""
    tokens = np.arange(24).reshape(3, 8) % 4 + 10
    objective = Autoregressive(IDS, 17, random_replacement=0.4, right_to_left=0.5, vocab_size=VOCAB)
    assert rows(objective, tokens, start=5).inputs.tolist() == GOLDEN


GOLDEN = [[2, 10, 3, 12, 13, 10, 6, 1], [5, 13, 12, 6, 10, 13, 12, 6], [2, 10, 4, 6, 13, 10, 11, 12]]


def test_kinds_say_what_the_loss_is() -> None:
    assert Autoregressive(IDS).kind == "nll"
    assert Autoregressive(IDS, 0, 0.1).kind == "nll_masked_input"
    assert Autoregressive(IDS, random_replacement=0.1).kind == "nll_random_input"
    assert Autoregressive(IDS, 0, 0.1, right_to_left=0.1).kind == "nll_masked_input_both_directions"
