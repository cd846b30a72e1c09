"""Parquet files of samples, as `datasets.load_dataset`, pyarrow and polars read them."""

from collections.abc import Iterable, Iterator

import pyarrow.parquet as pq

from ...common import storage
from ...common.publish import Sink
from ..arrow import ONE_THREAD
from ..manifest import Manifest
from .arrow_tables import COLUMN, check_column, files, lists, rows_per_file, schema_of
from .rows import Block, Part, Rows, Stretch

__all__ = ["ENDING", "read", "rows_per_file", "write"]

ENDING = ".parquet"
_ROWS_AT_ONCE = 1024


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
    """Write `data/train-NNNNN-of-NNNNN.parquet`: so `load_dataset(folder)` finds the split `train`, and pyarrow and
    polars read the folder `data`, where nothing else lies."""
    schema = schema_of(subset)
    for name, batches in files("data/train-{:05d}-of-{:05d}.parquet", rows, subset, stretch):
        with (
            sink.create(name) as file,
            # Ids hardly repeat within a page as a dictionary wants them to: it would only cost time.
            pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=batch.num_rows)


def read(path: str, part: Part) -> Iterator[Block]:
    """Yield the ids and lengths of the rows in a file, a batch at a time.

    Raises:
        ValueError: when it has no such column, or one that holds no lists of integers.
    """
    column = part.column or COLUMN
    with storage.open_read(path, part.size) as file:
        table = pq.ParquetFile(file)
        check_column(column, table.schema_arrow.names)
        for group in range(table.num_row_groups):  # one at a time: asked for all, Arrow reads far ahead
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column], **ONE_THREAD):
                yield lists(batch.column(0), column)
