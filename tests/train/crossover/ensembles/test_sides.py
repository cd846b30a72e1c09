"""Planted ensembles: what they gain over their members, against each other and in unique tokens is recovered."""

import json
import math
from typing import Any

import numpy as np
import pytest

from epochal.train.crossover import analysis, fair
from epochal.train.crossover.ensembles.members import Measured
from epochal.train.crossover.ensembles.sides import ensemble_sides, gains

pytestmark = pytest.mark.usefixtures("quick_fits")
BUDGETS = (25_000, 50_000, 100_000, 200_000)
SEEDS = (17, 18, 19)
NOISE = 0.005
BENEFIT = {2: 0.12, 3: 0.18}
"""Of ensembles of two and three, in nats."""

WIDE = 0.1
"""How much more the arm `wide` of AR gains together, and how much worse its models are alone."""

GAP = 0.3
"""Of MDM behind AR, alone and together."""

SLOPE = 0.5
"""Nats per factor e of unique tokens."""


def level(n: int, objective: str, arm: str) -> float:
    return 6 - SLOPE * math.log(n / 1000) + (GAP if objective == "mdm" else 0) + (WIDE if arm == "wide" else 0)


def settings_of(arm: str) -> dict[str, str]:
    return {} if arm == "default" else {"arm": arm}


def planted(draws: int = 3, halves: bool = True) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Measured]:
    """Return rows and runs of one evaluation each, and the ensembles of their models."""
    rng = np.random.default_rng(3)
    rows, records = [], []

    def losses(at: float) -> dict[str, float]:
        even, odd = at + rng.normal(0, NOISE, 2)
        return {"loss": (even + odd) / 2, "even": even, "odd": odd}

    for n in BUDGETS:
        for objective, arm in (("ar", "default"), ("ar", "wide"), ("mdm", "default")):
            for draw in range(draws):
                common, members = rng.normal(0, 0.03), []
                for seed in SEEDS:
                    own = losses(level(n, objective, arm) + common + rng.normal(0, 0.01))
                    run = f"{objective}-{arm}-{n}-{draw}-{seed}"
                    rows.append(row(run, n, objective, arm, draw, seed, own, halves))
                    member = {"run": run, "seed": seed, "tokens": 500_000, "decayed": seed == 17}
                    members.append(member | {"fingerprint": run, "receipt": run} | own)
                for size in BENEFIT:
                    worth = BENEFIT[size] + (2 * WIDE if arm == "wide" else 0)
                    mean = float(np.mean([m["odd"] for m in members[:size]]))
                    body = {"unique_tokens": n, "objective": objective, "replicate": draw, "loss_se": 0.0}
                    body |= {"settings": settings_of(arm), "kind": "nll" if objective == "ar" else "nelbo"}
                    body |= {"fingerprint": f"{objective}-{size}", "members": members[:size]} | losses(mean - worth)
                    records.append(body)
    runs = [
        {k: r[k] for k in ("run", "unique_tokens", "objective", "settings", "decays_from")} | {"state": "finished"}
        for r in rows
    ]
    return rows, runs, Measured(tuple(records), 2)


def row(
    run: str, n: int, objective: str, arm: str, draw: int, seed: int, own: dict[str, float], halves: bool
) -> dict[str, Any]:
    body = {"run": run, "unique_tokens": n, "objective": objective, "seed": seed, "replicate": draw, "arm": arm}
    body |= {"settings": json.dumps(settings_of(arm)), "decays_from": "", "parameters": 10, "step": 5}
    body |= {"tokens": 500_000, "passes": 500_000 / n, "kind": "nll" if objective == "ar" else "nelbo"}
    body |= {"loss": own["loss"], "loss_se": 0.0, "decayed": False}
    return body | ({f"{half}/loss": own[half] for half in ("even", "odd")} if halves else {})


def pick(found: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (one,) = (f for f in found if wanted.items() <= f.items())
    return one


def test_what_an_ensemble_gains_over_its_members_is_recovered_with_an_interval_over_draws():
    *_, known = planted()
    found, inside = list(gains(known.records, held_out=True)), 0
    assert len(found) == len(BUDGETS) * 3 * 2
    for f in found:
        truth = BENEFIT[f["members"]] + (2 * WIDE if f["arm"] == "wide" else 0)
        assert f["gain"] == pytest.approx(truth, abs=0.02)
        assert f["gain"] == pytest.approx(f["alone"] - f["loss"])
        inside += abs(f["gain"] - truth) <= f["half_width"]
        assert f["draws"] == [0, 1, 2]
        assert f["decayed"] == 3  # the first seed's of every draw
        assert f["passes"] == 500_000 / f["unique_tokens"]
        assert [len(own) for own in f["receipts"]] == [f["members"]] * 3
    assert inside >= 21  # of 24


def test_two_draws_have_no_interval():
    *_, known = planted(draws=2)
    assert all(math.isnan(f["half_width"]) for f in gains(known.records, held_out=True))


def test_best_against_best_sets_ensembles_of_one_size_against_each_other_with_the_arm_that_is_best_together():
    found = analysis.analyse(*planted())
    for n in BUDGETS:
        for size, benefit in BENEFIT.items():
            side = f"ensemble of {size}"
            f = pick(found["best"], unique_tokens=n, ar_side=side)
            assert f["mdm_side"] == side
            assert f["ar"]["arm"] == "wide"  # alone it is the worse one, together the better
            assert f["lead"] == pytest.approx(-GAP - WIDE, abs=0.08)
            assert f["ar"]["loss"] == pytest.approx(level(n, "ar", "wide") - 2 * WIDE - benefit, abs=0.06)
            assert f["units"] == [[0, 17], [1, 17], [2, 17]]
            assert f["half_width"] > 0
            assert len(f["ar"]["runs"]) == 3 * size
            assert (f["ar"]["decayed"], f["checkpoints"], f["curves"]) == (3, None, None)
            assert f["held_out"]
        assert pick(found["best"], unique_tokens=n, ar_side="best")["ar"]["arm"] == "default"
    assert found["ensembles"]["missing"] == 2


def test_what_an_ensemble_is_worth_in_unique_tokens_of_single_models_is_recovered():
    found, inside = analysis.analyse(*planted())["multiples"], 0
    for n in BUDGETS[:2]:
        for size, benefit in BENEFIT.items():
            own = {"unique_tokens": n, "objective": "ar", "side": f"ensemble of {size}"}
            f = pick(found, **own, baseline="ar", baseline_side="default")
            truth = math.exp((benefit + WIDE) / SLOPE)
            assert f["sign"] == "="
            assert f["ratio"] == pytest.approx(truth, rel=0.2)
            inside += f["low"] <= truth <= f["high"]
            against = pick(found, **own | {"objective": "mdm"}, baseline="ar", baseline_side=f"ensemble of {size}")
            assert against["sign"] == "<" or against["ratio"] == pytest.approx(math.exp(-(GAP + WIDE) / SLOPE), rel=0.2)
    assert inside >= 3  # of 4
    sizes = {(f["side"], f["baseline_side"]) for f in found}
    assert ("ensemble of 3", "ensemble of 2") not in sizes
    assert not any(own in ("default", "best") and other.startswith("ensemble") for own, other in sizes)


def test_seeds_of_one_draw_are_one_replicate_beside_an_ensemble():
    rows, *_, known = planted()
    curves = {r["run"]: [r] for r in rows}
    single = next(s for s in fair.sides(curves, ["loss"]) if (s.objective, s.which) == ("mdm", "default"))
    (losses,) = fair._values([single]).values()
    own = [r for r in rows if r["objective"] == "mdm" and r["unique_tokens"] == single.unique_tokens]
    assert losses == [np.mean([r["odd/loss"] for r in own if r["replicate"] == draw]) for draw in range(3)]
    together = next(s for s in ensemble_sides(known.records, held_out=True) if s.objective == "mdm")
    (losses,) = fair._values([together]).values()
    assert losses == [r["odd"] for r in known.records if r["objective"] == "mdm" and len(r["members"]) == 2][:3]


def test_choices_are_made_on_even_samples_and_measured_on_odd_ones_where_both_are_known():
    rows, runs, known = planted()
    for side in ensemble_sides(known.records, held_out=True):
        for stop in side.chosen:
            own = next(r for r in known.records if (r["even"], r["odd"]) == (stop.selecting, stop.measured))
            assert own["settings"].get("arm", "default") == side.arm
    rows, runs, known = planted(halves=False)
    found = analysis.analyse(rows, runs, known)
    losses = {r["loss"] for r in known.records}
    assert {f["held_out"] for f in found["best"]} == {False}
    for side in ensemble_sides(known.records, held_out=False):
        assert {stop.measured for stop in side.chosen} <= losses
    assert {f["held_out"] for f in found["ensembles"]["rows"]} == {False}


def test_a_bounds_noise_is_in_the_error_of_its_side():
    *_, known = planted()
    noisy = [r | {"loss_se": 0.05} for r in known.records if r["objective"] == "mdm"]
    for held_out, error in ((True, 0.05 * 2**0.5), (False, 0.05)):
        assert [side.error for side in ensemble_sides(noisy, held_out)] == [pytest.approx(error)] * 2 * len(BUDGETS)


def test_a_grid_without_members_says_nothing_of_ensembles():
    rows, runs, _ = planted()
    found = analysis.analyse(rows, runs)
    assert "ensembles" not in found
    assert {f["ar_side"] for f in found["best"]} == {"default", "best"}
