"""What is said of crossovers, in a terminal of any width."""

import json
import math
from typing import Any

import pytest

from epochal.train.crossover.report import wording
from epochal.train.crossover.report.parts import WORDS

FOUND = {"status": "crosses", "tokens": 3e5, "tokens_passes": 3.0, "budget": 1e6, "unique_tokens": 100_000}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pairs": [1.0], "units": [[0, 17]], "low": math.nan}, "no interval: 1 pair"),
        ({"pairs": [1.0, None], "units": [[0, 17]] * 2, "low": math.nan}, "no interval: 2 pairs; 1 of 2 pairs cross"),
        ({"low_passes": 2.0, "high_passes": 4.5}, "2.0 to 4.5"),
        ({"low_passes": -math.inf, "high_passes": math.inf}, "the first evaluation to beyond"),
        ({"pairs": [None] * 3, "low": math.inf, "high": math.inf}, "beyond the budget"),
        ({"pairs": [1.0, None, 1.0], "low_passes": 2.0, "high_passes": math.inf}, "2.0 to beyond; 2 of 3 pairs cross"),
    ],
)
def test_an_interval_says_what_it_rests_on(changes: dict[str, Any], expected: str) -> None:
    found = FOUND | {"pairs": [1.0] * 3, "units": [[0, 17]] * 3, "low": 1.0, "high": 2.0} | changes
    assert wording.interval(found) == expected


def test_a_setting_names_each_types_own_arm() -> None:
    ar, mdm = {"arm": "masked", "model.dropout": 0.1}, {"arm": "cosine", "model.dropout": 0.1, "objective.eps": 0.01}
    said = wording.setting({"ar": json.dumps(ar), "mdm": json.dumps(mdm)})
    assert said == "model.dropout=0.1, AR arm=masked, MDM arm=cosine, MDM objective.eps=0.01"


@pytest.mark.parametrize(("decayed", "expected"), [(0, "at full rate"), (1, "1 of 3 decayed"), (3, "decayed")])
def test_a_side_says_whether_it_was_measured_after_its_decay(decayed: int, expected: str) -> None:
    own = {"arm": "a", "loss": 3.14159, "passes": 8.04, "decayed": decayed, "runs": ["x", "y", "z"]}
    assert wording.side({"ar": own, "ar_side": "best"}, "ar") == ["a (best)", "3.142", f"8.0, {expected}"]


def test_sentences_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for words in (wording.NOTE, wording.EXACT_NOTE, wording.BEST_NOTE, wording.SAME_NOTE, wording.waits(3)):
        lines = wording.in_lines(words).splitlines()
        assert max(map(len, lines)) <= 40
        assert " ".join(lines) == words


def test_the_meanings_of_words_are_whole():
    assert "…" not in WORDS
