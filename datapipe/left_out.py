"""Files of a build that are not in the pool: damaged ones, and those of its folders that are not read. They are listed
in a table beside the pool and on the terminal."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ..common import storage
from ..common.errors import WorkError
from ..shards.arrow import ONE_THREAD
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


def write(path: str, sources: Sequence[str], listings: Iterable[Listing], damaged: Iterable[Row]) -> dict[str, int]:
    """Write the table of all files that were left out; return how many they are, and how many of them should have been
    read."""
    rows = set(damaged)
    for item in listings:
        rows |= {(sources[item.source], name, why) for name, why in (*item.left_out, *item.refused)}
    table = TableWriter(path, SCHEMA)
    for row in sorted(rows):
        table.add(row)
    table.close()
    return {"files_not_read": len(rows), "damaged_files": sum(reason not in NOT_READ for _, _, reason in rows)}


def summary(pool: str) -> Iterator[str]:
    """Yield the lines that name the files that are not in a pool."""
    try:
        with storage.open_read(storage.join(pool, NAME)) as file:
            rows = [tuple(row.values()) for row in pq.ParquetFile(file).read(**ONE_THREAD).to_pylist()]
    except FileNotFoundError:  # a pool of an earlier version
        rows = []
    for source in dict.fromkeys(source for source, _, _ in rows):
        mine = [(file, reason) for s, file, reason in rows if s == source]
        yield from _about(source, mine)


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
