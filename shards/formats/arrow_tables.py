"""Tables of samples: Parquet files, and the Arrow files that `datasets.load_from_disk` reads.

One column, `input_ids`, a list of uint16 (or uint32) per sample; only the last sample may be shorter than the others.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...common.publish import Sink
from ..manifest import Manifest
from .rows import Rows, Tokens, regroup

COLUMN = "input_ids"
FILE_BYTES = 256 << 20
"""Bytes of token ids in a file, about."""

GROUP_BYTES = 4 << 20
"""Bytes of token ids in a row group (Parquet) or record batch (Arrow), about."""


def write_parquet(sink: Sink, rows: Iterable[Rows], subset: Manifest, n_rows: int) -> None:
    """Write `data/train-NNNNN-of-NNNNN.parquet`: so `load_dataset(folder)` finds the split `train`, and pyarrow and
    polars read the folder `data`, where nothing else lies."""
    schema = _schema(subset)
    for name, batches in _files("data/train-{:05d}-of-{:05d}.parquet", rows, subset, n_rows):
        with (
            sink.create(name) as file,
            # Ids hardly repeat within a page as a dictionary wants them to: it would only cost time.
            pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=batch.num_rows)


def write_arrow(sink: Sink, rows: Iterable[Rows], subset: Manifest, n_rows: int) -> None:
    """Write what `Dataset.save_to_disk` writes: Arrow streams, state.json, dataset_info.json."""
    names = []
    for name, batches in _files("data-{:05d}-of-{:05d}.arrow", rows, subset, n_rows):
        names.append(name)
        with sink.create(name) as file, pa.ipc.new_stream(file, _schema(subset)) as writer:
            for batch in batches:
                writer.write_batch(batch)
    formatting: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
    state = formatting | {"_output_all_columns": False, "_split": "train"}
    state |= {"_data_files": [{"filename": name} for name in names], "_fingerprint": subset.fingerprint[:16]}
    sink.write("state.json", json.dumps(state, indent=2, sort_keys=True).encode())
    # No `features`: they are taken from the Arrow schema, whose names have not changed between versions of datasets.
    info = {"citation": "", "description": subset.name, "homepage": "", "license": ""}
    sink.write("dataset_info.json", json.dumps(info, indent=2).encode())


def _schema(subset: Manifest) -> pa.Schema:
    return pa.schema([(COLUMN, pa.list_(pa.from_numpy_dtype(np.dtype(subset.dtype))))])


def _files(
    pattern: str, rows: Iterable[Rows], subset: Manifest, n_rows: int
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Yield (name, record batches) of each file; its batches must be used up before the next."""
    width = subset.seq_len * np.dtype(subset.dtype).itemsize
    per_group = max(1, GROUP_BYTES // width)
    groups_per_file = max(1, FILE_BYTES // (per_group * width))
    n_files = -(-n_rows // (per_group * groups_per_file))
    groups = regroup(rows, per_group)
    for number in range(n_files):
        batches = (_batch(next(groups), subset) for _ in range(groups_per_file))
        left = n_rows - number * per_group * groups_per_file
        yield pattern.format(number, n_files), _take(batches, -(-left // per_group))


def _take(items: Iterator[Any], n: int) -> Iterator[Any]:
    for _, item in zip(range(n), items, strict=False):
        yield item


def _batch(rows: Rows, subset: Manifest) -> pa.RecordBatch:
    offsets = np.concatenate([[0], np.cumsum(rows.lengths)]).astype(np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(rows.flat())))
    return pa.record_batch([column], schema=_schema(subset))


def read_parquet(file: Any, column: str = COLUMN) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield (ids, lengths of the rows they make up) of an opened file, a batch at a time.

    Raises ValueError when it has no such column, or one that holds no lists of integers.
    """
    table = pq.ParquetFile(file)
    if column not in table.schema_arrow.names:
        raise ValueError(f"it has no column '{column}', only {', '.join(table.schema_arrow.names)}")
    for group in range(table.num_row_groups):  # one at a time: asked for all, Arrow reads far ahead
        for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
            yield _lists(batch.column(0), column)


def read_arrow(file: Any, column: str = COLUMN) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield (ids, lengths of the rows they make up) of an opened Arrow stream; raises like `read_parquet`."""
    with pa.ipc.open_stream(file) as reader:
        if column not in reader.schema.names:
            raise ValueError(f"it has no column '{column}', only {', '.join(reader.schema.names)}")
        for batch in reader:
            yield _lists(batch.column(batch.schema.get_field_index(column)), column)


_ROWS_AT_ONCE = 1024


def _lists(array: Any, column: str) -> tuple[Tokens, Tokens]:
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"column '{column}' holds {kind}, not lists of token ids")
    values = array.flatten()
    if not pa.types.is_integer(values.type) or array.null_count or values.null_count:
        raise ValueError(f"column '{column}' holds {kind} (nulls: {array.null_count}), not lists of token ids")
    lengths = array.value_lengths() if not pa.types.is_fixed_size_list(kind) else None
    sizes = np.full(len(array), kind.list_size) if lengths is None else lengths.to_numpy(zero_copy_only=False)
    return values.to_numpy(zero_copy_only=False), sizes.astype(np.int64)
