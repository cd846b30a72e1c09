"""Best against best: the half that choices are made on is never the half that is measured."""

import math

import numpy as np
import pytest

from epochal.train.crossover.fits.best import Stop, best_arm, best_stop, gap, so_far
from epochal.train.crossover.fits.intervals import half_width, independent, over_draws
from epochal.train.crossover.fits.potential import by_draw

UNITS = [(0, 17), (1, 17), (2, 17)]


def stops(selecting, measured, tokens=None) -> list[Stop]:
    at = tokens or [100 * (i + 1) for i in range(len(selecting))]
    return [Stop(t, s, m, False, "run") for t, s, m in zip(at, selecting, measured, strict=True)]


def test_the_selecting_half_is_never_the_measured_half():
    """Whatever the measured half says changes no choice, and whatever the selecting half says beyond it no figure."""
    rng = np.random.default_rng(0)
    selecting = rng.normal(3, 0.1, 12)
    chosen = [best_stop(stops(selecting, rng.normal(3, 1, 12))).tokens for _ in range(20)]
    assert set(chosen) == {100 * (int(selecting.argmin()) + 1)}
    measured = rng.normal(3, 1, 12)
    best = best_stop(stops(selecting, measured))
    assert best.measured == measured[selecting.argmin()] != measured.min()
    arms = {name: {(0, 17): stops(rng.normal(3, 0.1, 12), [math.nan] * 12)} for name in ("default", "a", "b")}
    assert best_arm(arms) == min(arms, key=lambda name: min(s.selecting for s in arms[name][0, 17]))


def test_choosing_among_noise_flatters_the_selecting_half_alone():
    """Fifty arms of equal worth: the best one looks better where it was chosen, and is what it is on the other half."""
    rng = np.random.default_rng(1)
    chosen, flattered = [], []
    for _ in range(100):
        arms = {str(i): {(0, 17): stops(rng.normal(3, 0.1, 8), rng.normal(3, 0.1, 8))} for i in range(50)}
        best = best_stop(arms[best_arm(arms)][0, 17])
        chosen.append(best.measured)
        flattered.append(best.selecting)
    assert np.mean(chosen) == pytest.approx(3, abs=0.03)
    assert np.mean(flattered) < 2.75


def test_an_arm_is_chosen_over_the_units_that_all_have():
    arms = {
        "default": {unit: stops([3.0], [3.0]) for unit in UNITS},
        "lucky": {UNITS[0]: stops([2.9], [2.9])},  # less than the mean of `good`, but more than its first
        "good": {unit: stops([x], [x]) for unit, x in zip(UNITS, (2.8, 3.0, 3.0), strict=True)},
    }
    assert best_arm(arms) == "good"
    assert best_arm({"b": arms["default"], "a": dict(arms["default"])}) == "b"  # the first of equal ones


def test_the_best_so_far_is_by_the_selecting_half():
    path = so_far(stops([3, 2, 2.5, 1.9], [3.0, 2.2, 1.0, 2.1]))
    assert [(s.tokens, s.measured) for s in path] == [(100, 3.0), (200, 2.2), (300, 2.2), (400, 2.1)]
    twice = stops([3, 2], [3.0, 2.0], [100, 100])  # a run with its own decay ends where the long one is measured
    assert [(s.tokens, s.measured) for s in so_far(twice)] == [(100, 2.0)]


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_planted_gap_and_the_place_where_mdm_falls_below_ars_best_are_recovered(noise):
    """AR is best, 3.0, at 300 tokens; MDM falls by 0.001 a token from 3.6: to 3.0 at 600, and to 2.6 at 1,000."""
    rng = np.random.default_rng(4)
    ar, mdm = {}, {}
    for unit in UNITS:
        x = np.arange(100, 1001, 100)
        draw = rng.normal(0, 0.1)  # common to both types
        halves = [3 + np.square((x - 300) / 400) + draw + rng.normal(0, noise, 10) for _ in range(2)]
        ar[unit] = stops(*halves)
        mdm[unit] = stops(*(3.6 - 0.001 * x + draw + rng.normal(0, noise, 10) for _ in range(2)))
    found = gap(ar, mdm)
    assert found.units == tuple(UNITS)
    assert found.lead == pytest.approx(0.4, abs=1e-9 + 3 * noise)
    assert abs(found.lead - 0.4) <= found.half_width + 1e-9
    assert found.overtakes.tokens == pytest.approx(600, abs=1e-6 + 3000 * noise)
    assert found.overtakes.low - 1e-6 <= 600 <= found.overtakes.high + 1e-6
    assert gap(ar, {(9, 9): mdm[UNITS[0]]}) is None


def test_seeds_on_one_draw_are_no_replicates_of_other_data():
    """Three draws of three seeds, draws differing by far more than seeds: the interval is that of the draws' means,
    and holds the truth in 95 % of cases, where nine pairs taken for independent ones hold it in 70 %."""
    rng = np.random.default_rng(3)
    units = [(draw, seed) for draw in range(3) for seed in range(3)]
    hits = naive = 0
    for _ in range(400):
        leads = dict(zip(units, np.repeat(rng.normal(0, 1, 3), 3) + rng.normal(0, 0.1, 9), strict=True))
        ar = {unit: stops([3.0, 3.0], [3.0, 3.0]) for unit in units}
        mdm = {unit: stops([3 - x, 30.0], [3 - x, 30.0]) for unit, x in leads.items()}
        found = gap(ar, mdm)
        assert found is not None
        hits += abs(found.lead) <= found.half_width
        values = np.array(list(leads.values()))[:, None]
        naive += abs(values.mean()) <= half_width(values)[0]
        assert found.lead == pytest.approx(values.mean())
    assert 0.92 <= hits / 400 <= 0.98
    assert naive / 400 < 0.8
    one_draw = [(0, seed) for seed in range(3)]
    assert independent(units) == independent(one_draw) == 3
    assert over_draws(np.arange(3.0)[:, None], one_draw).shape == (3, 1)
    figures = {100: {(0, 1): 1.0, (0, 2): 2.0, (1, 1): 4.0}, 200: {(0, 1): 5.0, (0, 2): 7.0}}
    assert by_draw(figures) == {100: [1.5, 4.0], 200: [6.0]}
    assert by_draw({200: figures[200]}) == {200: [5.0, 7.0]}
