"""Excerpts: short pieces of text for the report, few and chosen by key, so that they are the same for any number of
tasks and any order of the input."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

EXCERPT_CHARS = 300
PER_FILTER = 3
"""Removed documents of each filter that the report shows."""

LARGEST_CLUSTERS = 5
"""Clusters of duplicates that the report shows."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document's text.

    Attributes:
        reason: why the document is not in the pool; empty for one that is.
    """

    id: str
    source: str
    text: str
    reason: str = ""


@dataclass(frozen=True)
class Excerpts:
    """What the report shows of documents, as tasks found it.

    Attributes:
        kept: of documents in the pool.
        filtered: of documents that a filter took away, by filter.
        near: of near-duplicates: (the removed one, the kept one, their estimated similarity).
        clusters: of the largest clusters of duplicates: (first row in their table, rows), largest first.
        hits: rows of the table of contaminated documents, by evaluation file.
    """

    kept: list[Passage] = field(default_factory=list)
    filtered: dict[str, list[Passage]] = field(default_factory=dict)
    near: list[tuple[Passage, Passage, float]] = field(default_factory=list)
    clusters: list[tuple[int, int]] = field(default_factory=list)
    hits: dict[str, int] = field(default_factory=dict)


def excerpt(text: str, start: int = 0) -> str:
    """Return `EXCERPT_CHARS` characters of `text` from `start` on, with `…` where something was cut off."""
    stop = start + EXCERPT_CHARS
    return ("…" if start else "") + text[start:stop] + ("…" if stop < len(text) else "")


def smallest(rows: Iterable[tuple[Any, ...]], n: int) -> list[tuple[Any, ...]]:
    """Return the rows with the `n` smallest first values, in order; of those with equal ones the smallest row."""
    chosen: dict[Any, tuple[Any, ...]] = {}
    for row in sorted(rows):
        chosen.setdefault(row[0], row)
    return list(chosen.values())[:n]
