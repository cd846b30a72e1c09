"""What is said of ensembles: each loss with its kind, each mean with its interval or why there is none."""

import csv
import io
import math
from typing import Any

import pytest

from epochal.train.crossover import analysis
from epochal.train.crossover.report import ensemble_section, render, summary, wording
from epochal.train.crossover.report.panels import Results

ROW: dict[str, Any] = {
    "metric": "loss",
    "unique_tokens": 25_000,
    "objective": "mdm",
    "kind": "nelbo",
    "settings": "{}",
    "arm": "wide",
    "members": 3,
    "draws": [0, 1, 2],
    "loss": 2.5,
    "loss_se": 0.004,
    "alone": 2.625,
    "gain": 0.125,
    "half_width": 0.01,
    "passes": 8.25,
    "decayed": 4,
}

PLAIN = ROW | {"objective": "ar", "kind": "nll", "arm": "default", "loss_se": 0.0, "decayed": 9}


def section(plan: Any, found: dict[str, Any]) -> str:
    return ensemble_section.section(Results(plan, [], [], found))


def test_a_row_says_kind_noise_interval_and_rate() -> None:
    cells = dict(zip(wording.ENSEMBLE_HEAD, wording.ensemble_row(ROW), strict=True))
    assert (cells["loss"], cells["kind"]) == ("2.500 ± 0.004 noise", "NELBO, upper bound")
    assert (cells["each alone"], cells["gain of the ensemble"]) == ("2.625", "+0.125 ± 0.010")
    assert (cells["stopped at pass"], cells["models"], cells["draws"]) == ("8.2, 4 of 9 decayed", "3", "3")
    few = PLAIN | {"draws": [0], "half_width": math.nan, "settings": '{"model.dropout": 0.1}'}
    cells = dict(zip(wording.ENSEMBLE_HEAD, wording.ensemble_row(few), strict=True))
    assert (cells["loss"], cells["kind"], cells["type"]) == ("2.500", "NLL", "AR")
    assert cells["gain of the ensemble"] == "+0.125 (no interval: 1 draw)"
    assert cells["unique tokens"] == "25k, model.dropout=0.1"


def test_the_section_is_there_for_grids_with_members_and_says_what_is_missing(make_plan):
    made = make_plan(unique_tokens=[300])
    assert section(made, {}) == ""
    whole = section(made, {"ensembles": {"rows": [ROW, PLAIN], "missing": 0}})
    assert "NELBO, upper bound" in whole
    assert "not measured" not in whole
    assert "Ensembles: 2 not measured yet" in section(made, {"ensembles": {"rows": [ROW], "missing": 2}})
    assert "<table" not in section(made, {"ensembles": {"rows": [], "missing": 2}})
    many = section(made, {"ensembles": {"rows": [ROW] * 9, "missing": 0}})
    assert "9 ensembles, and what they mean" in many
    nothing = analysis.analyse([], []) | {"memorised": {"groups": [], "stale": [], "missing": 0}}
    assert "Ensembles" not in render.render(made, [], [], nothing)


@pytest.mark.parametrize(
    ("side", "said"), [("default", "a"), ("best", "a (best)"), ("ensemble of 3", "a (ensemble of 3)")]
)
def test_a_side_names_its_arm_and_what_it_is(side: str, said: str) -> None:
    own = {"arm": "a", "loss": 3.0, "passes": 8.0, "decayed": 0, "runs": ["x"]}
    assert wording.side({"ar": own, "ar_side": side}, "ar")[0] == said
    assert wording.side_words(side) == (side if side.startswith("ensemble") else f"{side} arm")


def test_tables_for_people_and_programs_have_them(make_plan) -> None:
    body = {"grid": "toy", "finished": 4, "runs": 4, "receipts_valid": 4, "waiting": 0, "report": "r", "summary": "s"}
    body |= analysis.analyse([], [])
    with_members = body | {"ensembles": {"rows": [ROW, PLAIN], "missing": 1}}
    for words in (summary.markdown(with_members), wording.describe(with_members)):
        assert "NELBO, upper bound" in words
        assert "1 not measured yet" in words
    assert "nsemble" not in summary.markdown(body) + wording.describe(body) + summary.table_csv(body)
    rows = list(csv.DictReader(io.StringIO(summary.table_csv(with_members))))
    assert [(r["table"], r["side"], r["mdm_arm"], r["value"], r["low"]) for r in rows] == [
        ("ensemble gain", "ensemble of 3", "wide", "0.125", "0.115"),
        ("ensemble gain", "ensemble of 3", "", "0.125", "0.115"),
    ]
    assert "side" not in summary.table_csv(body).splitlines()[0].split(",")


def test_its_words_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for words in (wording.ENSEMBLE_NOTE, wording.unmeasured(12)):
        lines = wording.in_lines(words).splitlines()
        assert max(map(len, lines)) <= 40
        assert " ".join(lines) == words
