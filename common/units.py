"""Token counts as people write them (500M, 1.5B, 96B, 1_000_000), and passes as token counts."""

import re
from decimal import Decimal, InvalidOperation

from .errors import RequestError

MOST = 2**63 - 1
MOST_CHARACTERS = 40
"""Of a count or a number of passes: no longer one is within the bounds."""

_MULTIPLIERS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([KMBT]?)", re.IGNORECASE)


def parse_count(text: str | int, what: str = "token count") -> int:
    """Return the exact integer written as `500M`, `1.5B`, `2k`, `1_000_000` or a plain integer.

    Raises:
        RequestError: when the text is not a count, or not of a whole number (`1.5`).
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise RequestError(f"{what} must not be negative, got {text}")
        return _bounded(text, what)
    short = str(text).strip() if len(str(text)) <= MOST_CHARACTERS else ""
    match = _COUNT.fullmatch(short)
    if not match and _COUNT.fullmatch(short.removeprefix("-")):
        raise RequestError(f"{what} must not be negative, got {text}")
    if not match:
        shown = f"{str(text)[:MOST_CHARACTERS]}..." if len(str(text)) > MOST_CHARACTERS else text
        raise RequestError(f"{what} '{shown}' is not a number: write it as 500M, 1.5B or a plain integer")
    number = Decimal(match[1].replace("_", "").replace(",", "")) * _MULTIPLIERS[match[2].upper()]
    if number != int(number):
        raise RequestError(f"{what} '{text}' is not a whole number")
    return _bounded(int(number), what)


def _bounded(count: int, what: str) -> int:
    if count > MOST:
        raise RequestError(f"{what} is too large: at most 2**63 - 1, which is some 9,000,000T")
    return count


def format_count(n: int) -> str:
    """Return a short exact form: 500M, 1.5B, 20.5M; a plain integer with commas when no short form is exact."""
    for suffix in ("T", "B", "M", "k"):
        unit = _MULTIPLIERS[suffix.upper()]
        if n >= unit and n * 100 % unit == 0:
            return f"{Decimal(n) / unit:f}{suffix}"
    return f"{n:,}"


def round_count(n: float) -> str:
    """Return a short rounded form: 1.23M, 45.6k, 789k, 12."""
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= unit:
            return f"{n / unit:.{0 if n >= 100 * unit else 1 if n >= 10 * unit else 2}f}{suffix}"
    return f"{n:.0f}"


def round_down(n: int) -> int:
    """Return the largest number that is not more than `n` and has one digit other than 0: 722,864 is 700,000."""
    unit: int = 10 ** (len(str(n)) - 1)
    return n // unit * unit


def format_bytes(n: float) -> str:
    """Return `n` bytes as `1.2 MB` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def tokens_for_epochs(epochs: str | int, unique_tokens: int) -> int:
    """Return the token budget of `epochs` passes over `unique_tokens`: exact for whole ones, rounded down otherwise."""
    try:
        number = Decimal(str(epochs)[: MOST_CHARACTERS + 1])
    except InvalidOperation:
        shown = str(epochs)[:MOST_CHARACTERS]
        raise RequestError(f"epochs '{shown}' is no number: write it as 96 or 3.5") from None
    if not number.is_finite() or number <= 0:
        raise RequestError(f"epochs must be more than zero, got {epochs}")
    if len(str(epochs)) > MOST_CHARACTERS or number > MOST or number * unique_tokens > MOST:
        raise RequestError(f"{str(epochs)[:MOST_CHARACTERS]} passes are more than 2**63 - 1 tokens: give fewer")
    return int(number * unique_tokens)
