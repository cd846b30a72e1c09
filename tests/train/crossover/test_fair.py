"""Best against best on planted grids: arms, gaps and multiples are recovered within their intervals."""

import json
import math
from typing import Any

import numpy as np
import pytest

from epochal.train.crossover import analysis, fair
from epochal.train.crossover.arms import arms
from epochal.train.crossover.curves import by_run

pytestmark = pytest.mark.usefixtures("quick_fits")
BUDGETS = (25_000, 50_000, 100_000, 200_000)
NOISE = 0.01
BENEFIT = 0.2
"""Of the arm `good`, in nats."""

GAP = 0.3
"""Of MDM's best behind the default AR's."""

SLOPE = 0.5
"""Nats per factor e of unique tokens."""


def rows_of(
    objective: str, n: int, replicate: int, arm: str, level: float, rng: np.random.Generator, halves: bool = True
) -> list[dict[str, Any]]:
    """Return a run's evaluations: lowest, at `level`, at the fifth of ten, and 1 nat above at the ends."""
    draw, found = rng.normal(0, 0.03), []
    for i in range(1, 11):
        loss = level + draw + ((i - 5) / 5) ** 2
        row = {
            "run": f"{objective}-{arm}-{n}-{replicate}",
            "unique_tokens": n,
            "objective": objective,
            "seed": 17,
            "replicate": replicate,
            "settings": json.dumps({} if arm == "default" else {"arm": arm}),
            "arm": arm,
            "decays_from": "",
            "parameters": 10,
            "step": i,
            "tokens": 100_000 * i,
            "passes": 100_000 * i / n,
            "kind": "nll" if objective == "ar" else "nelbo",
            "loss": loss,
            "loss_se": 0.0,
            "decayed": False,
        }
        row |= {f"{half}/loss": loss + rng.normal(0, NOISE) for half in ("even", "odd")} if halves else {}
        found.append(row)
    return found


def planted(halves: bool = True, replicates: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows and runs: AR with arms `bad` and `good`, MDM with the default alone."""
    rng = np.random.default_rng(5)
    rows = []
    for n in BUDGETS:
        level = 6 - SLOPE * math.log(n / 1000)
        for r in range(replicates):
            for arm, worth in (("default", 0.0), ("bad", -BENEFIT), ("good", BENEFIT)):
                rows += rows_of("ar", n, r, arm, level - worth, rng, halves)
            rows += rows_of("mdm", n, r, "default", level + GAP, rng, halves)
    runs = [
        {k: r[k] for k in ("run", "unique_tokens", "objective", "settings", "decays_from")}
        | {"state": "finished", "flops": 6e7, "total_tokens": 1_000_000}
        for r in rows
        if r["step"] == 1
    ]
    return rows, runs


def pick(found: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (one,) = (f for f in found if wanted.items() <= f.items())
    return one


@pytest.mark.slow
def test_planted_arms_gaps_and_multiples_are_recovered_within_their_intervals():
    rows, runs = planted()
    found = analysis.analyse(rows, runs)
    inside = 0
    for n in BUDGETS:
        against = {side: pick(found["best"], unique_tokens=n, ar_side=side) for side in ("default", "best")}
        assert against["best"]["ar"]["arm"] == "good"
        assert against["best"]["held_out"]
        for side, lead in (("default", -GAP), ("best", -GAP - BENEFIT)):
            f = against[side]
            assert f["lead"] == pytest.approx(lead, abs=0.12)
            inside += abs(f["lead"] - lead) <= f["half_width"]
            assert f["ar"]["tokens"] == pytest.approx(500_000, abs=1e5)
            assert f["checkpoints"]["status"] == "none"
        worth = pick(
            found["multiples"], unique_tokens=n, objective="ar", side="best", baseline="ar", baseline_side="default"
        )
        expected = math.exp(BENEFIT / SLOPE)  # 1.49 times the unique tokens
        if n < BUDGETS[-1]:
            assert worth["ratio"] == pytest.approx(expected, rel=0.2)
            inside += worth["low"] <= expected <= worth["high"]
        else:
            assert (worth["sign"], worth["ratio"]) == (">", 1.0)
            inside += worth["low"] <= expected <= worth["high"]
    assert inside >= 11  # of 12


def test_what_each_arm_gains_at_its_best_and_at_the_end_is_recovered():
    curves = by_run(planted()[0])
    found, inside = list(arms(curves, curves, ["loss"])), 0
    assert {f["objective"] for f in found} == {"ar"}  # MDM has one arm
    for n in BUDGETS:
        own = [f for f in found if f["unique_tokens"] == n]
        assert [f["arm"] for f in own] == ["good", "default", "bad"]  # the best one first
        for f, gain in zip(own, (BENEFIT, 0.0, -BENEFIT), strict=True):
            for which in ("best", "final"):
                assert f[which]["gain"] == pytest.approx(gain, abs=0.12)
                inside += abs(f[which]["gain"] - gain) <= f[which]["half_width"]
            assert f["final"]["loss"] - f["best"]["loss"] == pytest.approx(1.0, abs=0.05)
            assert f["passes"] == pytest.approx(500_000 / n, rel=0.2)
            assert len(f["units"]) == 3
            assert f["held_out"]
    assert inside >= 22  # of 24


def test_where_mdm_falls_below_ars_best_is_told_in_tokens_and_flops():
    rng = np.random.default_rng(2)
    rows = []
    for r in range(3):
        rows += rows_of("ar", 25_000, r, "default", 3.0, rng)
        for row in rows_of("mdm", 25_000, r, "default", 3.0, rng):
            falling = 3.6 - 0.1 * row["step"]  # 3.0 at 600k tokens
            rows.append(row | {"loss": falling, "even/loss": falling, "odd/loss": falling})
    runs = [
        {k: r[k] for k in ("run", "unique_tokens", "objective", "settings", "decays_from")}
        | {"state": "finished", "flops": 6e7, "total_tokens": 1_000_000}
        for r in rows
        if r["step"] == 1
    ]
    (f,) = analysis.analyse(rows, runs)["best"]
    over = f["checkpoints"]
    assert over["status"] == "crosses"
    assert over["low"] <= 600_000 <= over["high"]
    assert over["tokens"] == pytest.approx(600_000, rel=0.15)
    assert over["flops"] == pytest.approx(over["tokens"] * 60)
    assert over["tokens_passes"] == over["tokens"] / 25_000


def test_runs_with_their_own_decay_take_part_where_the_best_is_sought_and_nowhere_else():
    rows, runs = planted(replicates=1)
    before = analysis.analyse(rows, runs)
    name = "ar-good-25000-0"
    origin = next(r for r in rows if r["run"] == name and r["step"] == 5)
    better = {"run": "short", "decays_from": name, "decayed": True, "loss": 1.0, "even/loss": 1.0, "odd/loss": 1.1}
    run = next(r for r in runs if r["run"] == name) | {"run": "short", "decays_from": name}
    after = analysis.analyse([*rows, origin | better], [*runs, run])
    f = pick(after["best"], unique_tokens=25_000, ar_side="best")
    assert (f["ar"]["loss"], f["ar"]["decayed"], f["ar"]["runs"]) == (1.1, 1, ["short"])
    for key in ("crossovers", "fits"):
        assert json.dumps(after[key]) == json.dumps(before[key])


def test_old_runs_without_halves_are_compared_and_said_to_be():
    rows, runs = planted(halves=False)
    found = analysis.analyse(rows, runs)
    assert {f["held_out"] for f in found["best"]} == {False}
    assert all(f["ar"]["loss"] == f["ar"]["selecting_loss"] for f in found["best"])
    for row in rows:
        for key in ("arm", "decays_from", "decayed"):
            row.pop(key)
    arms = {json.loads(r["settings"]).get("arm") for r in rows}
    assert arms == {None, "good", "bad"}
    default = [r for r in rows if r["settings"] == "{}"]
    assert analysis.analyse(default, [r for r in runs if r["settings"] == "{}"])["best"]


def test_one_run_that_is_no_number_spoils_no_others():
    rows, runs = planted()
    clean = analysis.analyse(rows, runs)
    spoilt = [
        r | ({"loss": math.nan, "even/loss": math.nan} if (r["run"], r["step"]) == ("ar-default-25000-0", 7) else {})
        for r in rows
    ]
    found = analysis.analyse(spoilt, runs)
    assert found["left_out"] == [{"run": "ar-default-25000-0", "metric": "loss", "evaluations": 1}]
    assert len(found["crossovers"]) == len(clean["crossovers"])
    assert [f["points"] for f in found["fits"][:1]] == [clean["fits"][0]["points"] - 1]
    assert not math.isnan(pick(found["best"], unique_tokens=25_000, ar_side="default")["lead"])
    whole = [r | ({"loss": math.nan} if r["run"] == "ar-default-25000-0" else {}) for r in rows]
    f = pick(analysis.analyse(whole, runs)["crossovers"], unique_tokens=25_000, ar="{}", mdm="{}")
    assert f["units"] == [[1, 17], [2, 17]]


def test_each_side_is_chosen_on_even_samples_and_measured_on_odd_ones():
    rows, runs = planted(replicates=1)
    curves = {r["run"]: [x for x in rows if x["run"] == r["run"]] for r in runs}
    for side in fair.sides(curves, ["loss"]):
        for stop in side.chosen:
            own = {r["tokens"]: r for r in curves[stop.run]}
            assert stop.selecting == own[stop.tokens]["even/loss"] == min(r["even/loss"] for r in own.values())
            assert stop.measured == own[stop.tokens]["odd/loss"]
