"""Files of a build that are not in the pool: damaged ones, and those of its folders that are not read. They are listed
in a table beside the pool and on the terminal."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ..common import storage
from ..common.errors import WorkError
from ..shards.artifact import read_manifest
from .config import Build
from .external_sort import TableWriter
from .sources.base import MEND
from .sources.listing import NOT_READ, Listing

NAME = "left_out.parquet"
SCHEMA = pa.schema([("source", pa.string()), ("file", pa.string()), ("reason", pa.string())])

DAMAGED_SHOWN, OTHERS_SHOWN = 20, 5
"""Files of a source that are named on the terminal."""

Row = tuple[str, str, str]
"""Source, file, reason."""


def check_names(config: Build, listings: Sequence[Listing]) -> None:
    """Raise WorkError when there are files that cannot be read, as their names show, and none may be left out."""
    rows = [(config.sources[item.source].name, name, why) for item in listings for name, why in item.refused]
    if rows and config.on_damaged == "error":
        raise WorkError(stopped(rows))


def stopped(rows: Sequence[Row]) -> str:
    """Return the message about files for which a build stops."""
    (source, file, reason), *others = sorted(rows)
    more = f" (and {len(others):,} more)" if others else ""
    return f"source '{source}': {file} {reason}{more}: {MEND}"


def place(first: Sequence[object]) -> str:
    """Return where a reject is, as it is kept for the first of each reason."""
    _, file, row, fields = first
    names = f", whose fields are: {', '.join(map(str, fields))}" if isinstance(fields, list) and fields else ""
    return f"{file} row {row}, from 0{names}"


def write(path: str, sources: Sequence[str], listings: Iterable[Listing], damaged: Iterable[Row]) -> int:
    """Write the table of all files that were left out; return how many of them should have been read."""
    rows = set(damaged)
    for item in listings:
        rows |= {(sources[item.source], name, why) for name, why in (*item.left_out, *item.refused)}
    table = TableWriter(path, SCHEMA)
    for row in sorted(rows):
        table.add(row)
    table.close()
    return sum(reason not in NOT_READ for _, _, reason in rows)


def summary(pool: str) -> Iterator[str]:
    """Yield the lines that say which files and rows are not in a pool."""
    try:
        with storage.open_read(storage.join(pool, NAME)) as file:
            rows = [tuple(row.values()) for row in pq.read_table(file).to_pylist()]
    except FileNotFoundError:  # a pool of an earlier version
        rows = []
    for source in dict.fromkeys(source for source, _, _ in rows):
        mine = [(file, reason) for s, file, reason in rows if s == source]
        yield from _about(source, mine)
    if rows:
        yield f"files left out: {len(rows):,}, listed in {storage.join(pool, NAME)}"
    rejected = read_manifest(pool).statistics.get("rejected", {})
    if rejected:
        ranked = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in ranked[:OTHERS_SHOWN])
        more = f" and {len(ranked) - OTHERS_SHOWN} more reasons" if len(ranked) > OTHERS_SHOWN else ""
        total = sum(rejected.values())
        table = storage.join(pool, "rejects.parquet")
        yield f"rows that cannot be used: {total:,} ({reasons}{more}), listed in {table}"


def _about(source: str, files: Sequence[tuple[str, str]]) -> Iterator[str]:
    damaged = [(file, reason) for file, reason in files if reason not in NOT_READ]
    for file, reason in damaged[:DAMAGED_SHOWN]:
        yield f"source '{source}': left out: {file} {reason}"
    if len(damaged) > DAMAGED_SHOWN:
        yield f"source '{source}': left out: {len(damaged) - DAMAGED_SHOWN:,} more damaged files"
    others = [file for file, reason in files if reason in NOT_READ]
    if others:
        named = ", ".join(others[:OTHERS_SHOWN]) + (", ..." if len(others) > OTHERS_SHOWN else "")
        kinds = [kind for kind in NOT_READ if any(reason == kind for _, reason in files)]
        files_are = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
        yield f"source '{source}': {files_are} not read ({'; '.join(kinds)}): {named}"
