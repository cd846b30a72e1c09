"""JSON that others may hand over: what is not read alike by everybody, or not within bounds, is refused in a line."""

import json

import pytest

from epochal.common.errors import WorkError
from epochal.common.json_text import MOST_DEPTH, parse_json, strict_json

ODD = {
    "[" * 100_000: "nested deeper",
    "[" * 100_000 + "]" * 100_000: "nested deeper",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "nested deeper",
    "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1): "nested deeper",
    "[NaN]": "the number nan",
    '{"a": -Infinity}': "the number -inf",
    "1e999999999": "the number inf",
    "9" * 5000: "not JSON",
    '"\\ud800"': "surrogate",
    '{"\\udfff": 1}': "surrogate",
    '{"a": {"b": 1, "b": 1}}': "the key 'b' twice",
    '{"\x1b]0;x": 1, "\x1b]0;x": 2}': "not JSON",
    '{"\\u001b": 1, "\\u001b": 2}': r"the key '\x1b' twice",
    "[" + "{}," * 4_000_000 + "{}]": "more than 4,000,000 values",
    "": "not JSON",
    "{": "not JSON",
    b"\xff\xfe\x00": "not JSON",
}


@pytest.mark.parametrize("text", ODD, ids=lambda text: str(text[:12]))
def test_odd_json_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        strict_json(text)
    assert ODD[text] in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(WorkError, match="here is damaged"):
        parse_json(text, "here")


def test_integers_of_any_size_where_they_are_allowed() -> None:
    assert strict_json(str(2**80)) == 2**80
    assert parse_json(str(2**64 - 1), "here") == 2**64 - 1
    with pytest.raises(WorkError, match="beyond 64 bits"):
        parse_json(str(2**64), "here")


def test_what_is_plain_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5, None, True, "é\U0001f600", {"b": {}}], "": "x" * 100}
    assert strict_json(json.dumps(value)) == strict_json(json.dumps(value).encode()) == value
