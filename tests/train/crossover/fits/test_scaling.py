"""Scaling fits: laws are recovered, errors are of points that were not seen, nothing is left out silently."""

import numpy as np
import pytest

from epochal.train.crossover.fits.laws import PENALTY, SATURATING, SIZES, U_SHAPED
from epochal.train.crossover.fits.scaling import Points, Units, design_effect, fit

UNIT = 70_710.678  # the geometric mean of the budgets below
BUDGETS = (25_000, 50_000, 100_000, 200_000)
SIZES_OF_MODEL = (1e6, 3e6, 1e7)


def planted(form, constants, noise=0.0, draws=0.0, seed=0, runs=2) -> Points:
    """Return the losses that a law with `constants` gives at 20 evaluations of four budgets, up to 1M tokens.

    noise: of each evaluation, relative. draws: of each run, common to all its evaluations.
    """
    rng = np.random.default_rng(seed)
    sizes = SIZES_OF_MODEL if form.sizes > 1 else (1e6,)
    units = Units(UNIT, float(np.exp(np.log(sizes).mean())))
    parts = []
    for run, (size, budget, _) in enumerate((s, n, r) for s in sizes for n in BUDGETS for r in range(runs)):
        tokens = np.linspace(50_000, 1_000_000, 20)
        unique, weights = np.full(20, float(budget)), np.full(20, size)
        loss = form.law(np.log(constants), units.of(unique, tokens, weights))
        loss = loss * np.exp(rng.normal(0, noise, 20) + rng.normal(0, draws))
        parts.append(Points(unique, tokens, loss, weights, np.full(20, run)))
    return Points(*(np.concatenate(column) for column in zip(*parts, strict=True)))


U_CONSTANTS = (2.0, 2.0, 0.5, 5.0, 0.05, 1.2, 0.8)


@pytest.mark.slow
def test_a_law_that_rises_is_fitted_by_the_u_shaped_form_and_not_by_the_saturating_one():
    points = planted(U_SHAPED, U_CONSTANTS, noise=0.01, runs=1)
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
    assert found.constants == pytest.approx({"E": 2.0, "B": 2.0, "b": 0.5, "r": 5.0}, rel=0.05)
    assert found.unidentified == ()


LAWS = [
    (SATURATING, (2.0, 2.0, 0.5, 5.0)),
    (U_SHAPED, U_CONSTANTS),
    (PENALTY, (2.0, 2.0, 0.5, 0.05)),
    (SIZES, (1.5, 0.8, 0.4, 1.5, 0.5, 0.05, 1.2, 0.8)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "constants"), LAWS, ids=lambda x: getattr(x, "name", ""))
@pytest.mark.parametrize("draws", [0.0, 0.02])
def test_planted_constants_are_recovered_within_their_intervals(form, constants, draws):
    """Also where a draw of data moves all evaluations of its run: an interval that took them for independent would not
    hold the truth."""
    hits = total = 0
    for seed in range(5):
        found = fit(form, planted(form, constants, 0.01, draws, seed))
        for name, value in zip(form.constants, constants, strict=True):
            low, high = found.intervals[name]
            hits, total = hits + (low <= value <= high), total + 1
            assert low <= found.constants[name] <= high
    assert hits / total >= 0.85  # constants of one fit miss together
    assert found.points == 20 * 4 * 2 * (3 if form is SIZES else 1)
    assert (
        found.independent == pytest.approx(found.points, rel=0.2) if not draws else found.independent < found.points / 3
    )


@pytest.mark.slow
def test_a_constant_that_the_data_do_not_settle_is_flagged():
    """Without repetition nothing tells what repeated tokens are worth."""
    points = planted(SATURATING, (2.0, 2.0, 0.5, 5.0), 0.01)
    once = points.where(points.tokens <= points.unique)
    assert "r" in fit(SATURATING, once).unidentified
    assert "E" not in fit(SATURATING, points).unidentified


def test_evaluations_of_a_run_that_go_together_count_as_one():
    run = np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    alone, together = rng.normal(0, 1, 80), np.repeat(rng.normal(0, 1, 10), 8)
    assert design_effect(together + 1e-6 * alone, run) == pytest.approx(8, rel=1e-3)
    assert design_effect(alone, run) < 2
    assert design_effect(alone, np.zeros(80, np.int64)) == 1.0


def test_too_few_points_are_said_not_fitted():
    points = planted(U_SHAPED, U_CONSTANTS, runs=1)
    one = fit(SATURATING, points.where(points.unique == 25_000))
    assert one.why_not == "not fitted: it needs 2 budgets of unique tokens, there are 1"
    few = fit(U_SHAPED, points.where(np.arange(80) % 5 == 0))
    assert few.why_not == "not fitted: its 7 constants need 21 evaluations, there are 16"
    assert np.isnan(few.rms)


@pytest.mark.slow
def test_a_fit_is_reproducible():
    points = planted(SATURATING, (2.0, 2.0, 0.5, 5.0), noise=0.02)
    assert fit(SATURATING, points, seed=1).theta == fit(SATURATING, points, seed=1).theta
