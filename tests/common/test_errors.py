"""What errors of libraries become in one line."""

import pytest
import yaml
from sqlalchemy.exc import OperationalError

from epochal.common.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  a\n  b "), "a"),  # an indented line only explains
        (ValueError("one\ntwo"), "one two"),
        (RuntimeError("Error(s) in x:\n\tMissing key(s).\n\tUnexpected key(s)."), "Error(s) in x: Missing key(s)."),
        (KeyError(), "KeyError"),
        ("", "no message"),
        ("a  b", "a b"),
        (OperationalError("SELECT 1", {}, ValueError("connection failed\n\tis it there?")), "connection failed"),
        (ValueError("x" * 500), "x" * 200),
    ],
)
def test_an_error_is_one_line(error: BaseException | str, line: str) -> None:
    assert one_line(error) == line


def test_a_yaml_error_has_its_place() -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: 1\nb: [1\n")
    assert one_line(caught.value).endswith("(line 3)")
