"""Spans of a run as people write them: 96B (tokens), 480ep (passes), 1000ba (steps), 0.1dur (a share of the run)."""

import math
import re

from ..common.errors import RequestError
from ..common.units import parse_count, tokens_for_epochs

_SPAN = re.compile(r"(.+?)\s*(ep|ba|tok|dur)?")
_WHOLE = {"ba": "steps", "tok": "tokens", "ep": "passes"}


def _split(text: str | int) -> tuple[str, str]:
    match = _SPAN.fullmatch(str(text).strip())
    return (match[1], match[2] or "") if match else ("", "")


def with_unit(value: str | int | float) -> str | int | float:
    """Return a span of the configuration as it is.

    Raises:
        ValueError: for a bare number, which one person means in steps and another in tokens.
    """
    if isinstance(value, bool) or not re.fullmatch(r"[\d_]*\.?\d*(e[+-]?\d+)?", str(value).strip(), re.IGNORECASE):
        return value
    units = {"dur": "a share of the run", "ep": "passes"} if "." in str(value) else _WHOLE
    raise ValueError(f"no unit: write {', '.join(f'{value}{unit} for {what}' for unit, what in units.items())}")


def _number(text: str, unit: str, what: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RequestError(f"{what} '{text}{unit}' is not a positive number of {unit}")
    return value


def total_tokens(text: str | int, unique_tokens: int, what: str = "max_duration") -> int:
    """Return the tokens a run trains on: `96B` or `96Btok` tokens, `480ep` passes over `unique_tokens`.

    Raises:
        RequestError: for other spans.
    """
    number, unit = _split(text)
    if unit in ("ba", "dur"):
        raise RequestError(f"{what} '{text}' must be in tokens (96B) or passes over the data (480ep)")
    tokens = tokens_for_epochs(number, unique_tokens) if unit == "ep" else parse_count(number, what)
    if tokens < 1:
        raise RequestError(f"{what} '{text}' trains on nothing: give at least one token")
    return tokens


def steps(text: str | int, total_steps: int, batch_tokens: int, unique_tokens: int, what: str) -> int:
    """Return a span in optimizer steps, at least 1; a number without a unit is tokens, as everywhere.

    `0.1dur` is a share of `total_steps`, `2ep` two passes, `1000ba` steps, `1M` tokens.

    Raises:
        RequestError: for a wrong request.
    """
    number, unit = _split(text)
    if unit == "ba":
        span = _number(number, unit, what)
    elif unit == "dur":
        span = _number(number, unit, what) * total_steps
    elif unit == "ep":
        span = _number(number, unit, what) * unique_tokens / batch_tokens
    else:
        span = parse_count(number, what) / batch_tokens
    return max(1, round(span))
