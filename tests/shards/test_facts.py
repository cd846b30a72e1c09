"""What sources say of themselves, as it stands in anybody's manifest."""

from typing import Any

import pytest

from epochal.shards.facts import facts_by_source, facts_of, plain


def test_only_what_is_said_is_returned() -> None:
    sources = [
        {"name": "a", "license": "MIT", "language": ["en", "de"], "path": "x", "url": None},
        {"name": "b", "path": "y"},
    ]
    assert facts_of({"sources": sources})[1] == {"name": "b"}
    assert facts_by_source({"sources": sources}) == {"a": {"license": "MIT", "language": ["en", "de"]}}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sources": None},
        {"sources": [1, {"license": 3, "pii": [1]}, {"name": None}]},
        {"sources": [{"name": "a", "license": " ", "citation": "\n", "language": ["", "\t"], "pii": []}]},
    ],
)
def test_a_manifest_of_anybody_is_no_error(config: dict[str, Any]) -> None:
    assert facts_by_source(config) == {}


def test_what_is_blank_in_a_list_is_left_out() -> None:
    assert facts_by_source({"sources": [{"name": "a", "language": [" ", "en"]}]}) == {"a": {"language": ["en"]}}


def test_a_fact_is_shown_in_a_line() -> None:
    assert plain("Doe\n (2024)") == "Doe (2024)"
    assert plain(["en", "de"]) == "en, de"
    assert plain(2024) == "2024"
    assert len(plain("x" * 1000, 80)) <= 80
