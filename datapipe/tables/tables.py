"""Which tables a build writes beside its pools."""

from collections.abc import Sequence

from ...common import storage
from ...common.publish import MANIFEST_NAME
from ...shards.documents import DOCUMENTS, schema_with
from ..deduplicate import Outcome, Run
from ..stages import duplicates
from ..stages.cluster import TRAIN
from ..stages.division import Corpus
from ..stages.duplicates import DUPLICATES
from ..stages.pack import ROWS_NAME, Packed, PoolLayout
from .joined import Joined, Table
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
