"""What is wrong with a value that was checked, in the words of this package rather than of the library that checked."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

_WORDS = {
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "decimal_max_digits": "must have at most {max_digits} digits",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list, as in [a, b]",
    "tuple_type": "must be a list, as in [a, b]",
    "dict_type": "must be a mapping, as in {{key: value}}",
    "model_type": "must be a mapping, as in {{key: value}}",
    "model_attributes_type": "must be a mapping, as in {{key: value}}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}, got '{tag}'",
    "union_tag_not_found": "must have the key {discriminator}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "none_required": "must be null",
    "missing": "must be given",
    "extra_forbidden": "is not a known key",
    "json_invalid": "is not JSON ({error})",
}
"""By pydantic's name of an error; the braces take what it tells of it."""


def problem_text(problem: Mapping[str, Any]) -> str:
    """Return what is wrong, one line, given an entry of pydantic's `ValidationError.errors()`; the key is not in it."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    context = problem.get("ctx") or {}
    text, given = words.format(**context), problem["input"]
    match problem["type"], given:
        case "string_type", int() | float():
            return f"{text}: write it in quotes, '{given}'"
        case "string_pattern_mismatch", str() if context["pattern"] == NAME_PATTERN:
            return f"{_NAME_WORDS}, got {given!r}"
        case "int_parsing" | "float_parsing", str() if _COUNT.fullmatch(given.strip()):
            return f"{text} in digits, got '{given}'"
        case "literal_error", str():
            return f"{text}, got '{given}'{did_you_mean(given, _quoted(context['expected']))}"
        case "union_tag_invalid", _:
            return f"{text}{did_you_mean(context['tag'], _quoted(context['expected_tags']))}"
    return text


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of names that become names of folders."""

_NAME_WORDS = "may have letters a to z and A to Z, digits, '.', '_' and '-', the first a letter or digit"

_COUNT = re.compile(r"[0-9.]+\s*[kKmMbBgG]")


def _quoted(text: str) -> list[str]:
    return re.findall("'([^']*)'", text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` with the one of `known` that is most like `word`; empty when none is."""
    near = nearest(word, known)
    return "" if near is None else f": did you mean '{near}'?"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that is most like `word`, None when none is like it."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return names[near[0]] if near else None
