"""Rules that name positions: their order, their ties, and that they are not moved by rounding."""

import math

import numpy as np
import pytest
import torch

from epochal.common.errors import RequestError
from epochal.train.exact.orders import CELL, choose, scores_of, undecided
from epochal.train.exact.writing_order import ORDERS, WritingOrder, of_key


def places(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.bool_)


def test_scores_are_the_rules() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.4, 0.4, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    logits = p.log()
    assert scores_of(logits, "left_to_right").tolist() == [0, 0, 0]
    assert scores_of(logits, "confidence").exp().tolist() == pytest.approx([0.5, 0.4, 1.0])
    entropy = [1.5 * math.log(2), -(0.8 * math.log(0.4) + 0.2 * math.log(0.2)), 0.0]
    assert (-scores_of(logits, "entropy")).tolist() == pytest.approx(entropy)


def test_the_best_waiting_positions_are_chosen_and_the_leftmost_of_equal_ones() -> None:
    scores = np.array([[-3.0, -1.0, -2.0, 0.0], [-1.0, -1.0, -1.0, -1.0]])
    waiting = places([1, 1, 1, 0], [0, 1, 1, 1])
    assert choose(scores, waiting, 1).tolist() == places([0, 1, 0, 0], [0, 1, 0, 0]).tolist()
    assert choose(scores, waiting, 2).tolist() == places([0, 1, 1, 0], [0, 1, 1, 0]).tolist()
    assert choose(scores, waiting, 9).tolist() == waiting.tolist()


def test_scores_that_differ_by_rounding_are_equal() -> None:
    waiting = places([1, 1, 1])
    for scores in ([-1e-7, 0.0, -3e-8], [0.0, -1e-7, 0.0]):
        assert choose(np.array([scores]), waiting, 1).tolist() == [[True, False, False]]


def test_errors_that_are_smaller_than_the_noise_change_no_choice_that_is_decided() -> None:
    random, noise = np.random.default_rng(0), CELL / 64
    scores = -random.exponential(4 * CELL, (4000, 9))
    waiting = random.random(scores.shape) < 0.8
    waiting[:, 0] = True
    moved = scores + random.uniform(-noise, noise, scores.shape)
    for count in (1, 3):
        one, other = choose(scores, waiting, count), choose(moved, waiting, count)
        open_rows = undecided(scores, waiting, one, noise)
        differ = (one != other).any(1)
        assert differ.any()  # the errors do matter
        assert not (differ & ~open_rows).any()
        assert open_rows.mean() < 0.5
    assert undecided(scores, waiting, choose(scores, waiting, 1), math.inf).all()


def test_orders_have_names() -> None:
    for order in ORDERS:
        assert of_key(WritingOrder(order, 3).key) == WritingOrder(order, 3)
    assert WritingOrder("left_to_right").words == "left-to-right order"
    assert WritingOrder("confidence", 4).words == "confidence order, 4 tokens a step"
    for wrong in (("confident", 1), ("entropy", 0)):
        with pytest.raises(RequestError):
            WritingOrder(*wrong)  # type: ignore[arg-type]
