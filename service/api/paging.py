"""Lists a page at a time. The `next` of an answer is a cursor: where the rest of the list begins, in its own order."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from ..database import Place

T = TypeVar("T")

CursorQuery = Annotated[
    str | None,
    Query(max_length=120, pattern=r"^[0-9]{1,12}\.[0-9]{1,20}~[0-9a-f]{32}$", description="`next` of the page before"),
]


def place_of(cursor: str | None) -> Place | None:
    """Return the place that a cursor stands for: that of the last row of the page before."""
    if cursor is None:
        return None
    at, _, key = cursor.partition("~")
    return Place(float(at), key)


def page(rows: Sequence[T], most: int, place: Callable[[T], Place]) -> tuple[list[T], str | None]:
    """Return the first `most` rows, and the cursor of what comes after them, None at the end.

    Args:
        rows: one more than `most` where there are more.
        place: from a row to its `Place`.
    """
    kept = list(rows[:most])
    return kept, "{!r}~{}".format(*place(kept[-1])) if len(rows) > most else None
