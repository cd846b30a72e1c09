"""Fields of rows that `documents.parquet` keeps: their values on the way from a row to a column, and their types.

Each document carries its values as a JSON list through the parts. What kinds of values a column holds is counted over
all documents; its type, where none is stated, follows from these counts: it is the same for any number of tasks.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from ...common.errors import RequestError
from ...common.rows.fields import MISSING
from ...shards import arrow
from ...shards.documents import KEPT_TYPES, ROW_GROUP
from ..config import Kept

MOST_BYTES = 1 << 16
"""Of a kept text: longer ones are null, so that a row group of the table stays small."""

GROUP_BYTES = 256 << 20
"""Of kept values in a row group."""

ABSENT, NULL, UNLIKE, TOO_LONG, NO_ZONE = "absent", "null", "unlike", "too long", "no zone"
"""What is counted besides the kinds of values: rows without the field, with null in it, with a value that is not of the
stated type, or too long a one, all of them null in the table; and times without a zone, which are taken to be UTC."""

_SPOKEN = {
    "bool": "true or false",
    "int": "whole numbers",
    "long": "whole numbers of more than 53 bits",
    "huge": "whole numbers of more than 64 bits",
    "float": "fractions",
    "text": "text",
    "bytes": "bytes that are no text",
    "date": "dates",
    "timestamp": "times",
    "list": "lists",
    "mapping": "fields of their own",
    "other": "values of other kinds",
}

_AS = {frozenset(kinds): kind for kinds, kind in (
    (["int"], "int"), (["long"], "int"), (["int", "long"], "int"), (["float"], "float"), (["int", "float"], "float"),
    (["bool"], "bool"), (["text"], "text"), (["date"], "date"), (["timestamp"], "timestamp"), ([], "text"),
)}  # fmt: skip
"""The type of a column of values of some kinds; all other mixtures are refused."""

_EPOCH, _DAY_ZERO = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1).toordinal()
_MICROSECOND_DAYS = 86_400_000_000

Counts = dict[str, dict[str, dict[str, int]]]
"""By column, source and kind of value: how many documents."""


class KeptValues:
    """The kept values of a task's documents.

    Attributes:
        counts: of the documents that were encoded.
        longest: bytes of the longest document's values.
    """

    def __init__(self, keep: Sequence[Kept]) -> None:
        self._keep = keep
        self.counts: Counts = {kept.name: {} for kept in keep}
        self.longest = 0

    def encode(self, source: str, values: Sequence[Any] | None) -> bytes:
        """Return a document's values as a part holds them, and count what they are.

        Args:
            values: one for each column, MISSING where the row has none; None where rows have no fields.
        """
        found = []
        for i, kept in enumerate(self._keep):
            counts = self.counts[kept.name].setdefault(source, {})
            kind, value, note = _read(MISSING if values is None else values[i], kept.type)
            for counted in filter(None, (kind, note)):
                counts[counted] = counts.get(counted, 0) + 1
            found.append(value)
        encoded = orjson.dumps(found)
        self.longest = max(self.longest, len(encoded))
        return encoded


def row_group(longest: int) -> int:
    """Return how many rows of documents.parquet lie together: fewer where what they keep is long, `longest` bytes at
    most, so that a row group fits into memory."""
    fitting = GROUP_BYTES // max(longest, 1)
    return min(ROW_GROUP, 1 << max(fitting.bit_length() - 1, 8))


def _read(value: Any, stated: str | None) -> tuple[str, Any, str | None]:
    """Return the kind of a value, or why it is null; the value as JSON holds it; and what else is to be counted."""
    if value is MISSING:
        return ABSENT, None, None
    kind, plain, note = _plain(value)
    if kind == NULL:
        return NULL, None, None
    if stated is not None:
        plain = _CONVERSIONS[stated](kind, value, plain)
        if plain is None:
            return UNLIKE, None, None
        kind = stated
        note = note if stated in ("timestamp", "date") else None
    if isinstance(plain, str) and len(plain) > MOST_BYTES // 4 and len(plain.encode()) > MOST_BYTES:
        return TOO_LONG, None, None
    return kind, plain, note


def _plain(value: Any) -> tuple[str, Any, str | None]:
    """Return the kind of a value, the value as JSON holds it (days or microseconds from 1970 on, what is no finite
    number as text), and NO_ZONE for a time without a zone."""
    if value is None:
        return NULL, None, None
    if isinstance(value, str):
        return "text", value, None
    if isinstance(value, bool):
        return "bool", value, None
    if isinstance(value, int):
        return _whole(value), value, None
    if isinstance(value, float | Decimal):
        return "float", _number(float(value)), None
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, date):
        return "date", value.toordinal() - _DAY_ZERO, None
    if isinstance(value, time | UUID):
        return "text", str(value), None
    if isinstance(value, bytes):
        return _decoded(value)
    return "list" if isinstance(value, list | tuple) else "mapping" if isinstance(value, dict) else "other", None, None


def _whole(value: int) -> str:
    if abs(value) <= 1 << 53:
        return "int"
    return "long" if -(1 << 63) <= value < 1 << 63 else "huge"


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _time(value: datetime) -> tuple[str, Any, str | None]:
    if value != value:  # what pandas has for no time
        return NULL, None, None
    zoned = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    since = zoned - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return "timestamp", microseconds, None if value.tzinfo is not None else NO_ZONE


def _decoded(value: bytes) -> tuple[str, Any, str | None]:
    try:
        return "text", value.decode(), None
    except UnicodeDecodeError:
        return "bytes", None, None


def _to_text(kind: str, value: Any, plain: Any) -> str | None:
    if kind == "text":
        return str(plain)
    if kind == "bool":
        return "true" if value else "false"
    if kind in ("date", "timestamp"):
        return str(value.isoformat())
    if kind in ("list", "mapping"):
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    return None if kind == "bytes" else str(value)


def _to_int(kind: str, value: Any, plain: Any) -> int | None:
    try:
        number = int(value) if kind in ("int", "long") else _exact(value) if kind in ("float", "text") else None
    except (ValueError, OverflowError, InvalidOperation):
        return None
    return number if number is not None and -(1 << 63) <= number < 1 << 63 else None


def _exact(value: Any) -> int | None:
    """Return the whole number that a number, or a text, says."""
    number = Decimal(value.decode() if isinstance(value, bytes) else value)
    if not number.is_finite() or abs(number) >= 1 << 63:
        return None
    return int(number) if number == int(number) else None


def _to_float(kind: str, value: Any, plain: Any) -> float | str | None:
    try:
        if kind in ("int", "long", "huge", "float"):
            return _number(float(value))
        return _number(float(plain)) if kind == "text" and "_" not in plain else None
    except (ValueError, OverflowError):
        return None


def _to_bool(kind: str, value: Any, plain: Any) -> bool | None:
    words = {"true": True, "false": False, "1": True, "0": False}
    return words.get(str(plain).strip().lower()) if kind in ("bool", "int", "text") else None


def _to_date(kind: str, value: Any, plain: Any) -> int | None:
    if kind == "date":
        return int(plain)
    microseconds = _to_timestamp(kind, value, plain)
    return None if microseconds is None else microseconds // _MICROSECOND_DAYS


def _to_timestamp(kind: str, value: Any, plain: Any) -> int | None:
    if kind == "timestamp":
        return int(plain)
    if kind == "date":
        return int(plain) * _MICROSECOND_DAYS
    try:
        return int(_time(datetime.fromisoformat(plain.strip()))[1]) if kind == "text" else None
    except (ValueError, OverflowError):
        return None


_CONVERSIONS: dict[str, Callable[[str, Any, Any], Any]] = {
    "text": _to_text,
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "date": _to_date,
    "timestamp": _to_timestamp,
}
"""By stated type: what makes its value, as JSON holds it, of (kind, value, value as JSON holds it); None where none."""


def add_counts(totals: Counts, more: Counts) -> None:
    """Add the counts of a task."""
    for column, sources in more.items():
        for source, counts in sources.items():
            there = totals.setdefault(column, {}).setdefault(source, {})
            for kind, n in counts.items():
                there[kind] = there.get(kind, 0) + n


def types_of(keep: Sequence[Kept], counts: Counts) -> dict[str, str]:
    """Return the type of each column.

    Raises:
        RequestError: for a column of several kinds of values, or of one that has no type.
    """
    return {kept.name: kept.type or _type_of(kept.name, counts.get(kept.name, {})) for kept in keep}


def _type_of(column: str, counts: dict[str, dict[str, int]]) -> str:
    where = {kind: source for source in sorted(counts, reverse=True) for kind in counts[source] if kind in _SPOKEN}
    kinds = sorted(where, key=list(_SPOKEN).index)
    known = _AS.get(frozenset(kinds))
    if known is not None:
        return known
    said = [f"{_SPOKEN[kind]} (source '{where[kind]}')" for kind in kinds]
    alone = next((i for i, kind in enumerate(kinds) if frozenset([kind]) not in _AS), None)
    if alone is not None:
        mend = (
            "leave it out of keep"
            if kinds[alone] in ("bytes", "other")
            else f"state its type, {_stated(column, 'text')}"
        )
        mend += " (as JSON)" if kinds[alone] in ("list", "mapping") else ""
        raise RequestError(f"keep: '{column}' holds {said[alone]}: {mend}")
    numbers, times = set(kinds) <= {"int", "long", "float"}, set(kinds) == {"date", "timestamp"}
    mend = _stated(column, "float" if numbers else "timestamp" if times else "text")
    raise RequestError(f"keep: '{column}' holds {said[0]} and {said[-1]}: state its type, {mend}")


def _stated(column: str, kind: str) -> str:
    return f"keep: {{{column}: {kind}}}"


def lines(types: dict[str, str], counts: Counts) -> Iterator[str]:
    """Yield what a build says of the fields that it keeps, a line each: their types, and where they are null."""
    if types:
        yield "kept in documents.parquet: " + ", ".join(f"{name} ({kind})" for name, kind in types.items())
    for name, kind in types.items():
        by_source = counts.get(name, {})
        for source, kinds in sorted(by_source.items()):
            if set(kinds) == {ABSENT}:
                yield f"source '{source}': no row has a field '{name}', which is null there"
        total, documents = Counter[str](), 0
        for kinds in by_source.values():
            total.update(kinds)
            documents += sum(n for k, n in kinds.items() if k != NO_ZONE)
        yield from _said_of(name, kind, total, documents)


def _said_of(name: str, kind: str, total: "Counter[str]", documents: int) -> Iterator[str]:
    if total[NULL] or 0 < total[ABSENT] < documents:
        absent = f", {total[ABSENT]:,} of which have no such field" if total[ABSENT] else ""
        yield f"{name}: null in {total[ABSENT] + total[NULL]:,} of {documents:,} documents{absent}"
    others = {
        UNLIKE: f"values are not {kind}: they are null",
        TOO_LONG: f"values have more than {MOST_BYTES >> 10} KiB: they are null",
        NO_ZONE: "times name no zone: they are taken to be UTC",
    }
    yield from (f"{name}: {total[kind]:,} of {documents:,} {said}" for kind, said in others.items() if total[kind])


def nulls(types: dict[str, str], counts: Counts) -> dict[str, int]:
    """Return for each column how many documents have null in it."""
    empty = (ABSENT, NULL, UNLIKE, TOO_LONG)
    return {name: sum(kinds.get(k, 0) for kinds in counts.get(name, {}).values() for k in empty) for name in types}


def columns(types: dict[str, str], pieces: Iterable[bytes]) -> list[pa.Array]:
    """Return the columns of documents whose values are `pieces`, which `KeptValues.encode` made."""
    rows = list(map(orjson.loads, pieces))
    by_column = zip(*rows, strict=True) if rows else ([] for _ in types)
    return [_column(kind, values) for kind, values in zip(types.values(), by_column, strict=True)]


def _column(kind: str, values: Sequence[Any]) -> pa.Array:
    if kind == "float":
        values = [None if value is None else float(value) for value in values]
    return arrow.nullable(values, KEPT_TYPES[kind])
