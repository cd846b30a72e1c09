"""What is left out: the tables that ingest tasks wrote, and the builds that they stop."""

from collections.abc import Callable, Sequence

import pyarrow.parquet as pq

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.problems import did_you_mean
from ...shards.arrow import ONE_THREAD
from ...shards.tables.names import pattern_of
from ..config import Source
from ..sources.auto import named_format
from ..text.decontaminate import CONTAMINATED
from ..text.filters import FILTERED
from .ingest import EMPTY, REJECTED
from .statistics import IngestTotals, conditions

_SHOWN_FIELDS = 20

TABLES = {"rejects": REJECTED, "filtered": FILTERED, "contaminated": CONTAMINATED}
"""By name; each lies as `<name>.parquet` beside the pool."""

Files = dict[str, list[str]]
"""The names of the files of each table, in the order of its rows."""


def table_parts(work: str, table: str) -> list[str]:
    """Return where the rows of a table lie that each ingest task left, in order of rank."""
    parts = storage.join(work, "parts")
    return [storage.join(parts, name) for name in storage.names(parts) if name.endswith(f"-{table}.parquet")]


def check_fields(sources: Sequence[Source], totals: IngestTotals) -> None:
    """Raise RequestError when a condition names a field that no row of its source has."""
    for number, source in enumerate(sources):
        judged = totals.judged.get(source.name)
        if judged is None:
            continue
        for column, n in sorted(judged["absent"].items()):
            if n == judged["rows"] > 0:
                known = ", ".join(judged["fields"][:_SHOWN_FIELDS])
                meant = did_you_mean(column, judged["fields"]) or f": {f'they are {known}' if known else 'it has none'}"
                raise RequestError(
                    f"sources.{number}.where: no row of source '{source.name}' has a field '{column}'{meant} (text is "
                    "written in single quotes)"
                )


def check_left_out(
    work: str, sources: Sequence[Source], max_reject_fraction: float, totals: IngestTotals, write: Callable[[], Files]
) -> None:
    """Raise WorkError when more rows were unusable than allowed, or nothing is left; it names the first of them and
    the tables, which `write` has then written into `work`."""
    rows, rejected = sum(totals.rows.values()), sum(totals.rejected.values())
    too_many = rejected > max_reject_fraction * rows
    if not too_many and any(totals.accepted.values()):
        return
    files = write()
    first = _first_reject(storage.join(work, files["rejects"][0]), sources, totals) if rejected else ""
    if too_many:
        reason, count = max(totals.rejected.items(), key=lambda item: (item[1], item[0]))
        raise WorkError(
            f"{rejected:,} of {rows:,} rows cannot be used, more than max_reject_fraction {max_reject_fraction:g} "
            f"allows (most often: {reason}, {count:,} times){first}, correct the input, or allow more; "
            f"{storage.join(work, str(pattern_of(files['rejects'], 'rejects')))} lists them"
        )
    also = f"; {len(totals.left_out):,} damaged files were left out" if totals.left_out else ""
    raise WorkError(
        f"no document is left of {rows:,} rows ({_losses(totals, sources)}{also})"
        f"{first or ': look at sources and filters'}; {work} holds the tables of what was left out"
    )


def _losses(totals: IngestTotals, sources: Sequence[Source]) -> str:
    counts = {"cannot be used": sum(totals.rejected.values()), "are empty": totals.empty}
    counts |= {f"taken away by {row['name']}": row["removed"] for row in conditions(totals, sources) + totals.filters}
    counts["contaminated"] = totals.contaminated
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n) or "there was none"


def _first_reject(path: str, sources: Sequence[Source], totals: IngestTotals) -> str:
    """Return the first row that cannot be used, of the table at `path`, with its reason, and what to write if a setting
    of its source is wrong: an end of a sentence."""
    table = pq.ParquetFile(storage.open_read(path))
    rows = (row for batch in table.iter_batches(1024, **ONE_THREAD) for row in batch.to_pylist())
    row = next(row for row in rows if row["reason"] != EMPTY)
    number = next(i for i, source in enumerate(sources) if source.name == row["source"])
    kind: str = sources[number].format
    if kind == "auto":
        kind = named_format(row["file"]) or "its first bytes say"
    *_, fields = totals.first_rejects.get(row["reason"], [None])
    named = f"; its fields are {', '.join(map(str, fields))}" if isinstance(fields, list) and fields else ""
    return (
        f"; the first is row {row['row']:,} of {row['file']}, read as {kind} ({row['reason']}{named}): "
        f"{_advice(number, row['reason'])}"
    )


def _advice(number: int, reason: str) -> str:
    """Return what to write where a source seems to be read with the wrong settings."""
    if reason.startswith("no field"):
        return f"name the field of the text as sources.{number}.text_key"
    return f"name the format, if it is another, as sources.{number}.format"
