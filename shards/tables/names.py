"""How a table of an artifact is divided into files: the one place that knows the rule.

A table `t` of at most FILE_ROWS rows is the file `t.parquet`. One of more is `t-00000.parquet`, `t-00001.parquet`, ...:
row i is in file i // FILE_ROWS. Row groups end where a file does.
"""

import re
from collections.abc import Collection

FILE_ROWS = 1 << 24
"""Rows of a file. Readers take the number from the files: it may be another one in time."""


def file_names(table: str, rows: int) -> list[str]:
    """Return the names of the files that a table of so many rows has, in the order of the rows."""
    if rows <= FILE_ROWS:
        return [f"{table}.parquet"]
    return [f"{table}-{number:05d}.parquet" for number in range(-(-rows // FILE_ROWS))]


def names_in(files: Collection[str], table: str) -> list[str]:
    """Return the names of a table's files among those of an artifact, in the order of the rows; none where it has no
    such table."""
    whole = f"{table}.parquet"
    if whole in files:
        return [whole]
    form = re.compile(rf"{re.escape(table)}-(\d{{5,}})\.parquet")
    numbered = [(int(match[1]), name) for name in files if (match := form.fullmatch(name))]
    return [name for _, name in sorted(numbered)]


def is_one_of_several(name: str) -> bool:
    """Return whether a name is that of one of several files of a table."""
    return re.fullmatch(r"[a-z_]+-\d{5,}\.parquet", name) is not None


def pattern_of(files: Collection[str], table: str) -> str | None:
    """Return the name of a table's one file, or a pattern that its files have and nothing else (`t-*.parquet`); None
    where an artifact with these files has no such table."""
    names = names_in(files, table)
    if not names:
        return None
    return names[0] if names[0] == f"{table}.parquet" else f"{table}-*.parquet"
