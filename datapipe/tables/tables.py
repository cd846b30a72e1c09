"""Which tables a build writes beside its pools, or, when it fails, to be looked at."""

from collections.abc import Sequence

from ...common import storage
from ...common.publish import MANIFEST_NAME
from ...shards.documents import DOCUMENTS, schema_with
from ..deduplicate import Outcome, Run, here
from ..stages import duplicates
from ..stages.cluster import TRAIN
from ..stages.division import Corpus, open_parts
from ..stages.duplicates import DUPLICATES
from ..stages.losses import Files
from ..stages.pack import ROWS_NAME, Packed, PoolLayout
from .joined import Joined, Merged, Table, WriteTables
from .range_sort import left_out_tables


def tables_of(
    layouts: Sequence[PoolLayout],
    packed: Sequence[Packed],
    outcome: Outcome,
    corpus: Corpus,
    run: Run,
    tasks: int,
) -> list[Table]:
    """Return the tables of all pools that are not finished yet; their rows are in order.

    Args:
        layouts: of the pools.
        packed: what was written of each.
        outcome: what became of the documents.
        corpus: all of them.
        run: runs a stage.
        tasks: of which it has so many.
    """
    division, tables = outcome.division, list[Table]()
    for layout, written in zip(layouts, packed, strict=True):
        folder = layout.folder
        if not storage.exists(folder) or storage.exists(storage.join(folder, MANIFEST_NAME)):
            continue
        rows = storage.join(folder, ROWS_NAME)
        schema, pieces = schema_with(layout.kept), tuple(written.pieces)
        tables.append(Joined(folder, DOCUMENTS, schema, layout.row_group, rows, pieces, tuple(corpus.sources), "zstd"))
        if layout.code == TRAIN:
            where, group = division.path("rows"), duplicates.ROW_GROUP
            tables.append(Joined(folder, duplicates.TABLE, DUPLICATES, group, where, tuple(outcome.removed.pieces)))
            tables += left_out_tables(folder, division.work, corpus.parts, run, tasks)
    return tables


def write_left_out(work: str, run: Run, tasks: int) -> Files:
    """Write the tables of what was left out of the build in `work` there, as it ends with that; the rest as in
    `tables_of`."""
    tables = left_out_tables(work, work, open_parts(work), run, tasks)
    writing = WriteTables(work, tables)
    few = all(isinstance(table, Merged) for table in tables)
    (here if few else run)("left-out-tables", [writing], min(tasks, len(writing.units)))
    return {table.name: table.files for table in tables}
