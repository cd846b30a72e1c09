"""Scaling fits: laws are recovered, errors are of points that were not seen, nothing is left out silently."""

import numpy as np
import pytest

from epochal.train.crossover.fits.scaling import SATURATING, U_SHAPED, Points, effective_tokens, fit

UNIT = 70_710.678  # the geometric mean of the budgets below
BUDGETS = (25_000, 50_000, 100_000, 200_000)


def planted(form, constants: tuple[float, ...], noise: float = 0.0) -> Points:
    """Return the losses that a law with `constants` gives at 20 evaluations of four budgets, up to 1M tokens."""
    unique = np.repeat(np.array(BUDGETS, float), 20)
    tokens = np.tile(np.linspace(50_000, 1_000_000, 20), 4)
    loss = form.law(np.log(constants), unique / UNIT, tokens / UNIT)
    return Points(unique, tokens, loss * np.exp(np.random.default_rng(0).normal(0, noise, len(loss))))


U_CONSTANTS = (2.0, 2.0, 0.5, 5.0, 0.05, 1.2, 0.8)


@pytest.mark.slow
def test_a_law_that_rises_is_fitted_by_the_u_shaped_form_and_not_by_the_saturating_one():
    points = planted(U_SHAPED, U_CONSTANTS, noise=0.01)
    rising, flat = fit(U_SHAPED, points), fit(SATURATING, points)
    assert rising.rms < 0.012 < 0.1 < flat.rms
    assert rising.points == flat.points == 80
    assert set(rising.left_out) == set(flat.left_out) == set(BUDGETS)
    assert max(rising.left_out.values()) < 0.15 < max(flat.left_out.values())
    assert rising.late < 0.05 < flat.late
    first, last = rising.predict(np.full(2, 25_000.0), np.array([50_000.0, 1e6]))
    lowest = rising.predict(np.full(200, 25_000.0), np.linspace(25_000, 1e6, 200)).min()
    assert lowest < min(first, last) - 0.05


@pytest.mark.slow
def test_a_law_that_saturates_is_recovered():
    points = planted(SATURATING, (2.0, 2.0, 0.5, 5.0))
    found = fit(SATURATING, points)
    assert found.rms < 1e-3
    at = np.array([30_000.0, 800_000.0])
    np.testing.assert_allclose(
        found.predict(np.full(2, 50_000.0), at),
        SATURATING.law(np.log((2.0, 2.0, 0.5, 5.0)), np.full(2, 50_000 / UNIT), at / UNIT),
        rtol=5e-3,
    )


def test_repeated_tokens_are_worth_less_and_fresh_ones_their_number():
    unique = np.full(4, 100.0)
    worth = effective_tokens(unique, np.array([50.0, 100.0, 200.0, 1e9]), 5.0)
    assert worth[:2].tolist() == [50.0, 100.0]
    assert 150 < worth[2] < 200
    assert worth[3] == pytest.approx(600)


def test_too_few_points_are_said_not_fitted():
    points = planted(U_SHAPED, U_CONSTANTS)
    one = fit(SATURATING, points.where(points.unique == 25_000))
    assert one.why_not == "not fitted: it needs 2 budgets of unique tokens, there are 1"
    few = fit(U_SHAPED, points.where(np.arange(80) % 5 == 0))
    assert few.why_not == "not fitted: its 7 constants need 21 evaluations, there are 16"
    assert np.isnan(few.rms)


@pytest.mark.slow
def test_a_fit_is_reproducible():
    points = planted(SATURATING, (2.0, 2.0, 0.5, 5.0), noise=0.02)
    assert fit(SATURATING, points, seed=1).theta == fit(SATURATING, points, seed=1).theta
