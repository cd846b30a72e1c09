"""JSON from files of others, read with bounds: what is parsed here can be walked, hashed and written again."""

import json
import math
from typing import Any

from .errors import WorkError

MOST_DEPTH = 64
"""Levels of lists and mappings; no file of ours has more than a dozen."""

MOST_INTEGER = 2**64


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the value of a JSON text.

    Args:
        where: the file, for the error.

    Raises:
        WorkError: for what is not JSON, and for what JSON's readers disagree about: NaN and infinities, integers beyond
            64 bits, halves of surrogate pairs, more than MOST_DEPTH levels.
    """
    try:
        value = json.loads(text)
        problem = _problem(value)
    except RecursionError:
        problem = f"it is nested deeper than {MOST_DEPTH} levels"
    except ValueError as error:  # not UTF-8 either
        problem = f"it is not JSON ({error})"
    if problem:
        raise WorkError(f"{where} is damaged: {problem}")
    return value


def _problem(value: Any) -> str | None:
    """Return what is wrong with a parsed value, or None."""
    level = [value]
    for _ in range(MOST_DEPTH):
        if not level:
            return None
        for scalar in level:
            if isinstance(scalar, float) and not math.isfinite(scalar):
                return f"it holds the number {scalar}"
            if isinstance(scalar, int) and abs(scalar) >= MOST_INTEGER:
                return "it holds an integer beyond 64 bits"
            if isinstance(scalar, str) and not scalar.isascii() and not _is_text(scalar):
                return "it holds half of a surrogate pair"
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in ((*outer.keys(), *outer.values()) if isinstance(outer, dict) else outer)
        ]
    return f"it is nested deeper than {MOST_DEPTH} levels"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
