"""Conditions on rows: the `where` of a source, SQL as `polars.sql_expr` reads it.

What a condition says of a row depends on that row alone. Rows are judged together with others whose values are of the
same types, each type as the row has it, so that neither the other rows of a file nor the number of tasks shows.
"""

import io
import itertools
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..errors import one_line
from .fields import MISSING, field_of

_TOKENS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/
    | (?P<path> [^\W\d]\w* (?: \s*\.\s* [^\W\d]\w* )+ )
    | [^\W\d]\w*
    | (?P<number> (?: \d+\.\d* | \.\d+ ) (?![\w.]) )
    | \d[\w.]*""",
    re.DOTALL | re.VERBOSE,
)
_CLOCK = re.compile(r"\bCURRENT_(DATE|TIME|TIMESTAMP)\b|\b(NOW|TODAY|LOCALTIME|LOCALTIMESTAMP)\b", re.IGNORECASE)

_PARTS: dict[str, tuple[str, ...]] = {
    "Column": (), "Literal": (), "Alias": (), "BinaryExpr": ("left", "right"), "Cast": ("expr",),
    "Ternary": ("predicate", "truthy", "falsy"),
}  # fmt: skip
_FUNCTIONS = {
    "Abs", "Atan2", "Boolean", "Ceil", "Coalesce", "Exp", "Floor", "ListExpr", "Log", "Log1p", "MaxHorizontal",
    "MinHorizontal", "Pow", "Round", "Sign", "Sql", "StringExpr", "StructExpr", "TemporalExpr", "Trigonometry",
    "Truncate",
}  # fmt: skip
_OF_MANY_ROWS = {"Any", "All", "IsUnique", "IsDuplicated", "IsFirstDistinct", "IsLastDistinct", "ConcatVertical"}
"""How polars names the steps of an expression that look at one row at a time, and some of their kind that do not."""

_STEPS = {
    "Over": "a window", "SubPlan": "a subquery", "Selector": "a choice of columns", "Len": "a count of rows",
    "IntRange": "a row number", "Mean": "an average", "Sum": "a sum", "Explode": "UNNEST",
}  # fmt: skip

_COMPARISONS = {"Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq", "EqValidity", "NotEqValidity"}

_TYPES = {
    "bool": "Boolean", "int": "Int64", "large": "Int128", "float": "Float64", "text": "String",
    "timestamp": "Datetime", "date": "Date", "time": "Time", "duration": "Duration",
}  # fmt: skip
_OF_NULL = ("Null", "String", "Float64", "Boolean", "Datetime", "list String", "list Float64", "list Int64")
_OF_EMPTY_LIST = ("list String", "list Float64", "list Boolean", "list Int64")
_MOST_TRIES = 20_000

_OPERATORS = re.compile(r"\b(?:AND|OR|NOT|CASE|WHEN|XOR)\b|::|\|\||(?<=[\w)\"' ])[-+*/%](?![\d.])", re.IGNORECASE)
_MOST_OPERATORS = 2_000
"""In a condition. polars ends the whole process where some 6,000 follow each other."""

_TOO_DEEP = "it has too many steps one in another: write a choice of values as lang IN ('en', 'de')"

_SPOKEN = {
    "null": "null", "bool": "true or false", "int": "a whole number", "large": "a whole number", "float": "a number",
    "text": "text", "timestamp": "a time", "date": "a date", "time": "a time of day", "duration": "a duration",
}  # fmt: skip

Signature = tuple[str, ...]
"""The kind of value that each of a condition's columns has in a row."""


class ConditionError(ValueError):
    """A condition that cannot be used, or not on row `row` of those that were judged; the message says how to mend it.

    Attributes:
        row: None where it is no row's fault.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class Condition:
    """A condition on rows.

    Attributes:
        text: as it was written.
        columns: the fields that it looks at, in order of name.
    """

    def __init__(self, text: str) -> None:
        """Read a condition.

        Raises:
            ConditionError: when it is none, or looks at more than a row.
        """
        self.text = text
        self._expression, tree = _parsed(text)
        self._compared = _compared(tree)
        self.columns = sorted(set(self._expression.meta.root_names()))
        if not self.columns:
            raise ConditionError("it names no field of a row, as quality >= 0.6 does")
        self._resolved: dict[Signature, tuple[str, ...]] = {}
        self._types_of(("null",) * len(self.columns))  # where no type of its columns would do, none of a row will

    def judge(self, rows: Sequence[dict[str, Any]]) -> list[bool | None]:
        """Return for each row whether the condition holds; None where it is null.

        Raises:
            ConditionError: when it cannot be computed of one.
        """
        groups: dict[Signature, list[int]] = {}
        values = []
        for i, row in enumerate(rows):
            try:
                pairs = [_typed(field_of(row, column), column) for column in self.columns]
            except ConditionError as error:
                raise ConditionError(str(error), i) from None
            values.append([value for _, value in pairs])
            groups.setdefault(tuple(kind for kind, _ in pairs), []).append(i)
        answers: list[bool | None] = [None] * len(rows)
        for signature, members in groups.items():
            try:
                found = self._compute(self._types_of(signature), [values[i] for i in members])
            except _ComputeError:
                raise ConditionError(self._advice(signature), members[0]) from None
            for i, answer in zip(members, found, strict=True):
                answers[i] = answer
        return answers

    def _types_of(self, signature: Signature) -> tuple[str, ...]:
        """Return a type for each column of rows of a signature: what is null or empty is taken for what will do."""
        if signature not in self._resolved:
            choices = [_choices(kind) for kind in signature]
            for types in itertools.islice(itertools.product(*choices), _MOST_TRIES):
                try:
                    self._compute(types, [[None] * len(types)])
                    self._check_alike(types)
                except _ComputeError:
                    continue
                self._resolved[signature] = types
                break
            else:
                if set(signature) == {"null"}:
                    raise ConditionError(
                        "it is neither true nor false, whatever the row holds: look for what is compared with, or "
                        "computed from, a value of another type, or for a regular expression that is none"
                    )
                raise _ComputeError
        return self._resolved[signature]

    def _compute(self, types: Sequence[str], rows: list[list[Any]]) -> list[bool | None]:
        """Return the condition's value for rows of columns of some types; anything polars raises as _ComputeError."""
        import polars as pl

        columns = zip(self.columns, zip(*rows, strict=True), types, strict=True)
        try:
            frame = pl.DataFrame([pl.Series(name, list(v), _polars_type(t), strict=True) for name, v, t in columns])
            found = frame.select(self._expression).to_series()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError):
            raise _ComputeError from None
        if found.dtype not in (pl.Boolean, pl.Null) or len(found) != len(rows):
            raise _ComputeError
        answers: list[bool | None] = found.to_list()
        return answers

    def _check_alike(self, types: Sequence[str]) -> None:
        """Raise _ComputeError where the condition compares values of kinds that have no common order. polars compares a
        date with a number, and text with true and false, as if they were something else."""
        import polars as pl

        columns = zip(self.columns, types, strict=True)
        frame = pl.DataFrame([pl.Series(name, [None], _polars_type(t)) for name, t in columns])
        for sides in self._compared:
            kinds = {_kind_of(frame.select(side).to_series().dtype) for side in sides} - {None}
            if len(kinds) > 1:
                raise _ComputeError

    def _advice(self, signature: Signature) -> str:
        kinds = [f"'{c}' is {_SPOKEN.get(kind, 'a list')}" for c, kind in zip(self.columns, signature, strict=True)]
        mend = "compare like with like, as in TRY_CAST(quality AS DOUBLE) >= 0.6, lang = 'en', "
        return f"it cannot be computed where {_and(kinds)}: {mend}day >= DATE '2024-01-31'"


class _ComputeError(Exception):
    """Types that do not go together, or a value that cannot be converted."""


def _parsed(text: str) -> tuple[Any, Any]:
    """Return the expression of a condition, and its tree. Raises ConditionError when there is none."""
    import polars as pl

    bare = re.sub(
        _TOKENS, lambda match: " " if match[0][0] in "'\"" or match[0][:2] in ("--", "/*") else match[0], text
    )
    if clock := _CLOCK.search(bare):
        raise ConditionError(f"{clock[0]} is another at each build: write the date, as in DATE '2024-01-31'")
    if sum(1 for _ in _OPERATORS.finditer(bare)) > _MOST_OPERATORS:
        raise ConditionError(_TOO_DEEP)
    try:
        expression = pl.sql_expr(_TOKENS.sub(_rewritten, text))
        tree = json.loads(expression.meta.serialize(format="json"))
    except RecursionError:
        raise ConditionError(_TOO_DEEP) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
        raise ConditionError(_syntax(str(error))) from None
    step = _step_of_many_rows(tree)
    if step is not None:
        raise ConditionError(
            f"{step} cannot be used in it: it looks at the fields of one row at a time, without sums, averages, "
            "windows or other tables"
        )
    return expression, tree


def _compared(tree: Any) -> list[list[Any]]:
    """Return both sides of each comparison in an expression."""
    import polars as pl

    found, waiting = [], [tree]
    while waiting:
        ((node, content),) = waiting.pop().items()
        parts = _parts(node, content)
        if node == "BinaryExpr" and content["op"] in _COMPARISONS:
            try:
                found.append([_expression(part) for part in parts])
            except (pl.exceptions.PolarsError, RecursionError):  # it reads fewer levels than it writes
                raise ConditionError(_TOO_DEEP) from None
        waiting += parts
    return found


def _expression(tree: Any) -> Any:
    import polars as pl

    return pl.Expr.deserialize(io.BytesIO(json.dumps(tree).encode()), format="json")


def _kind_of(dtype: Any) -> str | None:
    """Return the kind of values of one of polars' types: those of a kind can be compared. None for null."""
    import polars as pl

    if dtype == pl.Null:
        return None
    kinds = {pl.Boolean: "number", pl.Date: "time", pl.Datetime: "time"}
    return "number" if dtype.is_numeric() else kinds.get(dtype.base_type(), dtype.base_type().__name__)


def _rewritten(match: re.Match[str]) -> str:
    """Write a dotted field as one name, and a fraction so that it is compared as the floating-point number it is read
    as; polars would else compare it, as a decimal, with text."""
    if match["path"]:
        return '"' + ".".join(part.strip() for part in match["path"].split(".")) + '"'
    return f"{match['number'].rstrip('.')}e0" if match["number"] else match[0]


def _syntax(message: str) -> str:
    """Return what is wrong with a text that is no expression, given what polars says."""
    if match := re.search(r"unsupported function '([^']*)'|no function matches [^`]*`([^`]*)`", message):
        return f"there is no function {match[1] or match[2]}"
    if "relation" in message:
        return "it looks at another table: only the fields of the row can be used"
    if match := re.search(r"found (unexpected token ['`][^'`]*['`])", message):
        return f"it is not a condition in SQL, as quality >= 0.6 AND lang = 'en' is ({one_line(match[1], 60)})"
    return "it is not a condition in SQL, as quality >= 0.6 AND lang = 'en' is"


def _step_of_many_rows(tree: Any) -> str | None:
    """Return the name of a step of an expression that looks at more than one row, None where there is none."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict) or len(part) != 1:
            return _STEPS.get(str(part), str(part)[:40])
        ((node, content),) = part.items()
        if node == "Function":
            family, kind = _function(content["function"])
            if family not in _FUNCTIONS or kind in _OF_MANY_ROWS:
                return _STEPS.get(kind or family, kind or family)
        elif node not in _PARTS:
            inside = next(iter(content), node) if node == "Agg" and isinstance(content, dict) else node
            return _STEPS.get(inside, inside)
        waiting += _parts(node, content)
    return None


def _parts(node: str, content: Any) -> list[Any]:
    """Return the expressions that one is made of."""
    if node == "Function":
        return list(content["input"])
    return [content[0]] if node == "Alias" else [content[key] for key in _PARTS[node]]


def _function(function: Any) -> tuple[str, str]:
    """Return the family of a function, and its name within it."""
    if isinstance(function, str):
        return function, ""
    ((family, inner),) = function.items()
    return family, inner if isinstance(inner, str) else next(iter(inner), "") if isinstance(inner, dict) else ""


def _typed(value: Any, column: str) -> tuple[str, Any]:
    """Return the kind of a value, and the value as it is compared: times in UTC, taken for that without a zone."""
    if value is None or value is MISSING:
        return "null", None
    if isinstance(value, str):
        return "text", value
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return ("int", value) if -(2**63) <= value < 2**63 else _large(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return ("null", None) if number != number else ("float", number)  # what pandas and others have for no number
    if isinstance(value, datetime):
        return _time(value)
    for cls, kind in ((date, "date"), (time, "time"), (timedelta, "duration")):
        if isinstance(value, cls):
            return kind, value
    if isinstance(value, UUID):
        return "text", str(value)
    if isinstance(value, bytes):
        try:
            return "text", value.decode()
        except UnicodeDecodeError:
            raise ConditionError(f"'{column}' holds bytes that are no text: leave it out of the condition") from None
    if isinstance(value, list | tuple):
        return _list(value, column)
    raise ConditionError(f"'{column}' has fields of its own: name one of them, as in {column}.name")


def _large(value: int) -> tuple[str, Any]:
    return ("large", value) if -(2**127) <= value < 2**127 else ("float", float(f"{value}"))


def _time(value: datetime) -> tuple[str, Any]:
    if value != value:  # what pandas has for no time
        return "null", None
    plain = datetime(*value.timetuple()[:6], value.microsecond) if value.tzinfo is None else value.astimezone(UTC)
    return "timestamp", plain.replace(tzinfo=None)


def _list(values: Sequence[Any], column: str) -> tuple[str, Any]:
    pairs = [_typed(value, column) for value in values]
    kinds = {kind for kind, _ in pairs} - {"null"}
    if kinds == {"int", "float"}:
        kinds, pairs = {"float"}, [(kind, None if v is None else float(v)) for kind, v in pairs]
    if len(kinds) > 1 or kinds - _TYPES.keys():
        raise ConditionError(f"'{column}' holds a list of several kinds of values: leave it out of the condition")
    return f"list {kinds.pop()}" if kinds else "list", [value for _, value in pairs]


def _choices(kind: str) -> tuple[str, ...]:
    if kind == "null":
        return _OF_NULL
    if kind == "list":
        return _OF_EMPTY_LIST
    return (f"list {_TYPES[kind[5:]]}",) if kind.startswith("list ") else (_TYPES[kind],)


def _polars_type(name: str) -> Any:
    import polars as pl

    made = pl.Datetime("us") if name.endswith("Datetime") else getattr(pl, name.removeprefix("list "))
    return pl.List(made) if name.startswith("list ") else made


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
