"""Tables of samples, whether they are written as Parquet (parquet.py) or as Arrow streams (hugging_face.py).

One column, `input_ids`, a list of uint16 (or uint32) per sample; only the last sample may be shorter than the others.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from .. import arrow
from ..manifest import Manifest
from .rows import Block, Rows, Stretch, regroup

COLUMN = "input_ids"
FILE_BYTES = 256 << 20
"""Bytes of token ids in a file, about."""

GROUP_BYTES = 4 << 20
"""Bytes of token ids in a row group (Parquet) or record batch (Arrow), about."""


def schema_of(subset: Manifest) -> pa.Schema:
    """Return the schema of the tables of a subset."""
    return pa.schema([(COLUMN, pa.list_(pa.from_numpy_dtype(np.dtype(subset.dtype))))])


def _rows_per_group(subset: Manifest) -> int:
    return max(1, GROUP_BYTES // (subset.seq_len * np.dtype(subset.dtype).itemsize))


def rows_per_file(subset: Manifest) -> int:
    """Return how many rows of a subset a file holds: whole groups."""
    per_group = _rows_per_group(subset)
    return per_group * max(1, FILE_BYTES // (per_group * subset.seq_len * np.dtype(subset.dtype).itemsize))


def names(pattern: str, subset: Manifest, n_rows: int) -> list[str]:
    """Return the names of the files of an export of `n_rows`."""
    n_files = -(-n_rows // rows_per_file(subset))
    return [pattern.format(number, n_files) for number in range(n_files)]


def files(
    pattern: str, rows: Iterable[Rows], subset: Manifest, stretch: Stretch
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Yield (name, record batches) of each file of a stretch; its batches must be used up before the next."""
    per_file, all_names = rows_per_file(subset), names(pattern, subset, stretch.n_rows)
    groups = regroup(rows, _rows_per_group(subset))
    for number in stretch.files(per_file):
        n_groups = -(-min(per_file, stretch.stop - number * per_file) // _rows_per_group(subset))
        yield all_names[number], (_batch(group, subset) for group in itertools.islice(groups, n_groups))


def _batch(rows: Rows, subset: Manifest) -> pa.RecordBatch:
    offsets = np.concatenate([[0], np.cumsum(rows.lengths)]).astype(np.int32)
    column = pa.ListArray.from_arrays(arrow.numbers(offsets), arrow.numbers(rows.flat()))
    return pa.record_batch([column], schema=schema_of(subset))


def check_column(column: str, names: list[str]) -> None:
    """Raise ValueError unless `column` is among the `names` of a table's columns."""
    if column not in names:
        raise ValueError(f"it has no column '{column}', only {', '.join(names)}")


def lists(array: Any, column: str) -> Block:
    """Return the ids and lengths of the lists in a batch's column.

    Raises:
        ValueError: for other columns.
    """
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ValueError(f"column '{column}' holds {kind}, not lists of token ids")
    values = array.flatten()
    if not pa.types.is_integer(values.type):
        raise ValueError(f"column '{column}' holds {kind}, not lists of token ids")
    if nulls := array.null_count + values.null_count:
        raise ValueError(f"column '{column}' holds {nulls:,} nulls among its lists of token ids")
    lengths = array.value_lengths() if not pa.types.is_fixed_size_list(kind) else None
    sizes = np.full(len(array), kind.list_size) if lengths is None else arrow.array(lengths)
    return arrow.array(values), sizes.astype(np.int64)
