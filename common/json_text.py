"""JSON from files of others, read with bounds: what is parsed here can be walked, hashed and written again."""

import json
import math
from collections import Counter
from typing import Any

from .errors import WorkError, one_line, printable

MOST_DEPTH = 64
"""Levels of lists and mappings; no file of ours has more than a dozen."""

MOST_INTEGER = 2**64


MOST_VALUES = 4_000_000
"""Values in one text, some hundred bytes each in memory: a vocabulary has a million, a manifest three a shard."""


def parse_json(text: str | bytes, where: str, most_values: int = MOST_VALUES) -> Any:
    """Return the value of a JSON text, as `strict_json` does, whose integers have at most 64 bits.

    Args:
        where: the file, for the error.
        most_values: that its bounds leave room for.

    Raises:
        WorkError: for what `strict_json` refuses.
    """
    try:
        return strict_json(text, most_values, MOST_INTEGER)
    except ValueError as error:
        raise WorkError(f"{where} is damaged: {error}") from None


def strict_json(text: str | bytes, most_values: int = MOST_VALUES, most_integer: int | None = None) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: of one line, for what is not JSON, for what JSON's readers disagree about (NaN and infinities,
            integers from `most_integer` on, halves of surrogate pairs, a key that comes twice), for more than
            MOST_DEPTH levels or `most_values` values.
    """
    count = text.count if isinstance(text, str) else lambda mark: text.count(mark.encode())
    if sum(map(count, ",[{")) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_mapping)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels") from None
    except _TwiceError as error:
        raise ValueError(f"it holds the key '{printable(error.key[:80])}' twice") from None
    except ValueError as error:  # not UTF-8 either, or a number of thousands of digits
        raise ValueError(f"it is not JSON ({one_line(error)})") from None
    problem = _problem(value, most_integer)
    if problem:
        raise ValueError(problem)
    return value


class _TwiceError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(next(key for key, n in counts.items() if n > 1))
    return mapping


def _problem(value: Any, most_integer: int | None) -> str | None:
    """Return what is wrong with a parsed value, or None."""
    level = [value]
    for _ in range(MOST_DEPTH):
        if not level:
            return None
        for scalar in level:
            kind = type(scalar)  # of long lists nearly all are integers or short texts
            if kind is int:
                if most_integer is not None and abs(scalar) >= most_integer:
                    return "it holds an integer beyond 64 bits"
            elif kind is str:
                if not scalar.isascii() and not _is_text(scalar):
                    return "it holds half of a surrogate pair"
            elif kind is float and not math.isfinite(scalar):
                return f"it holds the number {scalar}"
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
