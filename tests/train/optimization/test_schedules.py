"""Schedules that came after the paper's, number by number."""

import math

import pytest

from epochal.train.optimization.schedules import cooled, cosine, cosine_cycles, cycle_ends, decay_over_time


def test_one_cycle_is_the_cosine() -> None:
    for step in range(40):
        assert cosine_cycles(step, 40, 5, 1, 0.2) == pytest.approx(cosine(step, 40, 5, 0.2), abs=1e-15)


def test_each_cycle_starts_at_the_peak_and_ends_low() -> None:
    ends = cycle_ends(103, 3, 4)
    assert ends == [28, 53, 78, 103]
    rates = [cosine_cycles(step, 103, 3, 4, 0.1) for step in range(103)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    for start, end in zip([3, *ends], ends, strict=False):
        assert rates[start] == 1.0
        assert rates[end - 1] == pytest.approx(0.1)
        assert all(a > b for a, b in zip(rates[start : end - 1], rates[start + 1 : end], strict=True))


def test_more_cycles_than_steps_are_as_many_as_there_are_steps() -> None:
    assert cycle_ends(5, 1, 100) == [1, 2, 3, 4, 5]
    assert all(math.isfinite(cosine_cycles(step, 5, 1, 100, 0.1)) for step in range(5))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_weight_decay_goes_from_what_was_given_to_its_share_at_the_end(shape: str) -> None:
    values = [decay_over_time(step, 11, shape, 3.0) for step in range(11)]
    assert (values[0], values[5], values[10]) == pytest.approx((1.0, 2.0, 3.0))
    assert values == sorted(values)
    assert decay_over_time(7, 11, "constant", 3.0) == 1.0


def test_a_cool_down_begins_with_the_rate_that_was_and_ends_with_its_share() -> None:
    rate = cooled(lambda step: 1.0 - step / 100, 20, 31, 0.1)
    assert [rate(step) for step in (0, 19, 20, 30)] == pytest.approx([1.0, 0.81, 0.8, 0.08])
    assert rate(25) == pytest.approx(0.8 * 0.1**0.5)
