"""A folder of Arrow streams of samples, as `datasets.load_from_disk` reads it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ...common import storage
from ...common.publish import Sink
from ..manifest import Manifest
from .arrow_tables import COLUMN, check_column, files, lists, names, rows_per_file, schema_of
from .rows import Block, Part, Rows, Stretch

__all__ = ["ENDING", "read", "rows_per_file", "write"]

ENDING = ".arrow"

_PATTERN = "data-{:05d}-of-{:05d}.arrow"

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What a stream ends with."""


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
    """Write what `Dataset.save_to_disk` writes: Arrow streams, state.json, dataset_info.json."""
    for name, batches in files(_PATTERN, rows, subset, stretch):
        with sink.create(name) as file, pa.ipc.new_stream(file, schema_of(subset)) as writer:
            for batch in batches:
                writer.write_batch(batch)
    if stretch.start == 0:
        _describe(sink, subset, names(_PATTERN, subset, stretch.n_rows))


def _describe(sink: Sink, subset: Manifest, names: list[str]) -> None:
    """Write what `load_from_disk` asks for beside the streams."""
    formatting: dict[str, Any] = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None}
    state = formatting | {"_output_all_columns": False, "_split": "train"}
    state |= {"_data_files": [{"filename": name} for name in names], "_fingerprint": subset.fingerprint[:16]}
    sink.write("state.json", json.dumps(state, indent=2, sort_keys=True).encode())
    # No `features`: they are taken from the Arrow schema, whose names have not changed between versions of datasets.
    info = {"citation": "", "description": subset.name, "homepage": "", "license": ""}
    sink.write("dataset_info.json", json.dumps(info, indent=2).encode())


def read(path: str, part: Part) -> Iterator[Block]:
    """Yield the ids and lengths of the rows in an Arrow stream, as `parquet.read` does.

    Raises:
        ValueError: also when the end of the stream is missing.
    """
    column = part.column or COLUMN
    with storage.open_read(path, part.size) as file:
        file.seek(max(0, file.seek(0, 2) - len(_END)))
        if file.read() != _END:  # Arrow takes a stream that is cut between two batches for a whole one
            raise ValueError("it ends early")
        file.seek(0)
        yield from _batches(file, column)


def _batches(file: Any, column: str) -> Iterator[Block]:
    with pa.ipc.open_stream(file) as reader:
        check_column(column, reader.schema.names)
        for batch in reader:
            yield lists(batch.column(batch.schema.get_field_index(column)), column)
