"""How a pool is divided into buckets: the setting, and the bucket of each document by its value of a column. No file is
read here."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ...common.config import Section
from ...common.errors import RequestError

MOST_BUCKETS = 200
"""Each is a pool, whose shard in the making is held in memory."""

NULL = "null"
"""The bucket of documents that have no value."""

OWN_COLUMNS = {"source": "text", "tokens": "int"}
"""Of documents.parquet, that a pool may be divided by besides what the build kept, and their types."""


class Split(Section):
    """A pool divided by a column of its documents, each part a pool of its own.

    Attributes:
        by: a column that the build keeps, or `source`, or `tokens`.
        quantiles: of a number: so many buckets of about as many tokens each; documents of one value stay together.
        edges: of a number: values at which buckets begin, ascending.

    Without `quantiles` and `edges` each value has its bucket.
    """

    by: str = Field(min_length=1)
    quantiles: int | None = Field(default=None, ge=2, le=MOST_BUCKETS - 1)
    edges: list[float] | None = Field(default=None, min_length=1, max_length=MOST_BUCKETS - 2)

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: list[float] | None) -> list[float] | None:
        if edges is not None and not (all(map(math.isfinite, edges)) and all(map(float.__lt__, edges, edges[1:]))):
            raise ValueError("must ascend, as in [0.2, 0.5]")
        return edges

    @model_validator(mode="after")
    def _one_way(self) -> "Split":
        if self.quantiles is not None and self.edges is not None:
            raise ValueError("give quantiles or edges, not both")
        return self


@dataclass(frozen=True)
class Part:
    """A bucket: its name, and its values as `Bucket` of the manifest has them."""

    name: str
    lower: float | None = None
    upper: float | None = None
    value: str | None = None


@dataclass(frozen=True)
class Division:
    """The bucket of every document.

    Attributes:
        parts: in ascending order of their values, the one without values last; each has a document.
        of: int16 (documents,), the number of each document's bucket.
        empty: quantiles, or ranges between edges, that hold no document.
    """

    parts: tuple[Part, ...]
    of: NDArray[np.int16]
    empty: int = 0


def by_number(split: Split, values: NDArray[np.float64], tokens: NDArray[np.int64]) -> Division:
    """Return the buckets of documents by a number, by the quantiles or edges of `split`.

    Args:
        split: see there.
        values: float64 (documents,), NaN for those without one.
        tokens: int64 (documents,).
    """
    known = ~np.isnan(values)
    edges = list(split.edges or ()) if split.quantiles is None else _quantiles(values[known], tokens[known], split)
    of = np.searchsorted(np.array(edges, np.float64), values, side="right")
    of[~known] = len(edges) + 1
    there = np.unique(of).tolist()
    letter, digits = "e" if split.quantiles is None else "q", max(2, len(str(len(edges))))
    bounds = [None, *(edge if math.isfinite(edge) else None for edge in edges), None]
    parts = [
        Part(f"{letter}{i:0{digits}}", bounds[i], bounds[i + 1]) if i <= len(edges) else Part(NULL)
        for i in range(len(edges) + 2)
    ]
    empty = sum(1 for i in range(len(edges) + 1) if i not in there)
    return Division(tuple(parts[i] for i in there), _renumbered(of), empty)


def _quantiles(values: NDArray[np.float64], tokens: NDArray[np.int64], split: Split) -> list[float]:
    """Return the values at which quantiles by tokens begin, all but the first: each larger than all values of the
    quantile before, infinite where none is. Where a value has the tokens of several quantiles, the first of them takes
    its documents, and the others begin where the next one does."""
    assert split.quantiles is not None, "there are edges else"
    distinct, back = np.unique(values, return_inverse=True)
    held = np.bincount(back, tokens, len(distinct)).astype(np.int64) if len(distinct) else np.zeros(0, np.int64)
    ends = np.cumsum(held)
    total = int(ends[-1]) if len(ends) else 0
    wanted = np.array([-(-total * i // split.quantiles) for i in range(1, split.quantiles)], np.int64)
    at = np.searchsorted(ends, wanted, side="left") + 1  # the quantile before ends with the value that reaches it
    return np.append(distinct, math.inf)[np.minimum(at, len(distinct))].tolist()


def by_value(values: Sequence[str | None], column: str) -> Division:
    """Return the buckets of documents by text, one for each distinct value.

    Args:
        values: of each document, None for those without one.
        column: for the message.

    Raises:
        RequestError: when there are too many.
    """
    distinct = sorted({value for value in values if value is not None})
    if len(distinct) >= MOST_BUCKETS:
        raise RequestError(
            f"'{column}' has {len(distinct):,} values, as {distinct[0][:40]!r}: {MOST_BUCKETS - 1} buckets are the "
            "most; divide by a number into quantiles, or by a column with fewer values"
        )
    number = {value: i for i, value in enumerate(distinct)}
    of = np.array([len(distinct) if value is None else number[value] for value in values], np.int64)
    names = _names(distinct)
    parts = [Part(name, value=value) for name, value in zip(names, distinct, strict=True)]
    return Division(tuple(parts + ([Part(NULL)] if (of == len(distinct)).any() else [])), _renumbered(of))


def _names(values: list[str]) -> list[str]:
    """Return a name for each value that a folder's may end with; they differ."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", value)[:40].strip("-") for value in values]
    unlike = [name and name != NULL and plain.count(name) == 1 for name in plain]
    digests = [hashlib.blake2b(value.encode(), digest_size=4).hexdigest() for value in values]
    return [
        name if good else f"{name}-{digest}".lstrip("-")
        for name, good, digest in zip(plain, unlike, digests, strict=True)
    ]


def _renumbered(of: NDArray[np.int64]) -> NDArray[np.int16]:
    return np.unique(of, return_inverse=True)[1].astype(np.int16)
