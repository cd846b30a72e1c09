"""The laws as formulas."""

import numpy as np
import pytest

from epochal.train.crossover.fits.laws import FORMS, PENALTY, SATURATING, SIZES, U_SHAPED, Inputs, effective_tokens


def test_repeated_tokens_are_worth_less_and_fresh_ones_their_number():
    unique = np.full(4, 100.0)
    worth = effective_tokens(unique, np.array([50.0, 100.0, 200.0, 1e9]), 5.0)
    assert worth[:2].tolist() == [50.0, 100.0]
    assert 150 < worth[2] < 200
    assert worth[3] == pytest.approx(600)


def test_each_law_is_its_formula():
    x = Inputs(np.array([2.0]), np.array([6.0]), np.array([3.0]))  # three passes: R = 2
    worth = 2 + 2 * 5 * (1 - np.exp(-2 / 5))
    assert SATURATING.law(np.log((1, 2, 0.5, 5)), x)[0] == pytest.approx(1 + 2 / worth**0.5)
    u_shaped = 1 + 2 / worth**0.5 + 0.1 * 2**1.5 / 2**0.7
    assert U_SHAPED.law(np.log((1, 2, 0.5, 5, 0.1, 1.5, 0.7)), x)[0] == pytest.approx(u_shaped)
    assert PENALTY.law(np.log((1, 2, 0.5, 0.1)), x)[0] == pytest.approx(1 + 2 / 6**0.5 + 0.1 * 2 / 2)
    sizes = 1 + 4 / 3**0.3 + 2 / 6**0.5 + 0.1 * 2**1.5 * (3 / 2) ** 0.7
    assert SIZES.law(np.log((1, 4, 0.3, 2, 0.5, 0.1, 1.5, 0.7)), x)[0] == pytest.approx(sizes)


def test_in_the_first_pass_nothing_is_repeated():
    x = Inputs(np.array([2.0]), np.array([1.0]), np.array([1.0]))
    assert x.repetitions.tolist() == [0.0]
    with_cost, without = (law.law(np.log(c), x)[0] for law, c in ((PENALTY, (1, 2, 0.5, 9)), (PENALTY, (1, 2, 0.5, 1))))
    assert with_cost == without


@pytest.mark.parametrize("form", [*FORMS, SIZES], ids=lambda f: f.name)
def test_every_constant_has_bounds_and_a_start(form):
    assert len(form.constants) == len(form.low) == len(form.high) == len(form.start)
    assert all(low < high for low, high in zip(form.low, form.high, strict=True))
