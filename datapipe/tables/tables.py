"""Which tables a build writes beside its pools."""

from collections.abc import Sequence

from ...common import storage
from ...common.publish import MANIFEST_NAME
from ...shards.documents import DOCUMENTS, schema_with
from ..stages import duplicates
from ..stages.cluster import TRAIN
from ..stages.division import Division
from ..stages.duplicates import DUPLICATES, RemovedCounts
from ..stages.losses import TABLES
from ..stages.pack import ROWS_NAME, Packed, PoolLayout
from .joined import Joined, Merged, Table


def tables_of(
    layouts: Sequence[PoolLayout],
    packed: Sequence[Packed],
    division: Division,
    removed: RemovedCounts,
    sources: Sequence[str],
) -> list[Table]:
    """Return the tables of all pools that are not finished yet.

    Args:
        layouts: of the pools.
        packed: what was written of each.
        division: how the documents were divided.
        removed: what deduplication removed of them.
        sources: names of the sources.
    """
    tables: list[Table] = []
    for layout, written in zip(layouts, packed, strict=True):
        folder = layout.folder
        if not storage.exists(folder) or storage.exists(storage.join(folder, MANIFEST_NAME)):
            continue
        rows = storage.join(folder, ROWS_NAME)
        schema, pieces = schema_with(layout.kept), tuple(written.pieces)
        tables.append(Joined(folder, DOCUMENTS, schema, layout.row_group, rows, pieces, tuple(sources), "zstd"))
        if layout.code == TRAIN:
            where, group = division.path("rows"), duplicates.ROW_GROUP
            tables.append(Joined(folder, duplicates.TABLE, DUPLICATES, group, where, tuple(removed.pieces)))
            parts = storage.join(division.work, "parts")
            tables += [Merged(folder, name, schema, parts) for name, schema in TABLES.items()]
    return tables
