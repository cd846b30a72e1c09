"""The formats of exports: how each is written from rows, and how its token stream is read back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...common import storage
from ...common.publish import Sink
from ..manifest import ExportLayout, ExportManifest, Manifest
from . import arrow_tables, flat, megatron, webdataset
from .rows import Rows, Tokens


def in_order(names: Iterable[str]) -> list[str]:
    """Return numbered names by number, also where the numbers have outgrown their digits."""
    return sorted(names, key=lambda name: (len(name), name))


@dataclass(frozen=True)
class Format:
    """A format. title: for people. write(sink, rows, subset, number of rows, whether in plan order) writes its files.

    read(folder, manifest) yields the token stream of an export, in order; raises ValueError where a file is not whole.
    """

    title: str
    write: Callable[[Sink, Iterable[Rows], Manifest, int, bool], None]
    read: Callable[[str, ExportManifest], Iterator[Tokens]]


def _read_wds(root: str, m: ExportManifest) -> Iterator[Tokens]:
    for name in in_order(m.files):
        with storage.open_read(storage.join(root, name)) as file:
            yield from webdataset.read(file)


def _read_tables(ending: str, read: Callable) -> Callable[[str, ExportManifest], Iterator[Tokens]]:
    def read_all(root: str, m: ExportManifest) -> Iterator[Tokens]:
        for name in in_order(name for name in m.files if name.endswith(ending)):
            with storage.open_read(storage.join(root, name)) as file:
                yield from (ids for ids, _ in read(file))

    return read_all


def _read_megatron(root: str, m: ExportManifest) -> Iterator[Tokens]:
    prefix = storage.join(root, megatron.PREFIX)
    with storage.open_read(f"{prefix}.bin") as data, storage.open_read(f"{prefix}.idx") as index:
        cut = False
        for ids, lengths in megatron.read(data, index):
            ends = np.flatnonzero(ids == m.tokenizer.eod) + 1
            if m.plan is None and (cut or not np.array_equal(ends, lengths.cumsum()[: len(ends)])):
                raise ValueError("its documents are not those that end with EOD")
            cut = len(ends) < len(lengths)  # only the very last document may be cut by the subset's window
            yield ids


def _read_flat(root: str, m: ExportManifest) -> Iterator[Tokens]:
    with storage.open_read(storage.join(root, flat.NAME)) as file:
        yield from flat.read(file, m.dtype)


FORMATS: dict[ExportLayout, Format] = {
    "wds": Format(
        "WebDataset",
        lambda sink, rows, subset, n, ordered: webdataset.write(
            sink.create, (r for block in rows for r in block.arrays())
        ),
        _read_wds,
    ),
    "parquet": Format(
        "Parquet",
        lambda sink, rows, subset, n, ordered: arrow_tables.write_parquet(sink, rows, subset, n),
        _read_tables(".parquet", arrow_tables.read_parquet),
    ),
    "megatron": Format(
        "Megatron-LM .bin/.idx",
        lambda sink, rows, subset, n, ordered: megatron.write(sink, rows, subset, by_row=ordered),
        _read_megatron,
    ),
    "bin": Format(
        "flat memory map",
        lambda sink, rows, subset, n, ordered: flat.write(sink, rows, subset),
        _read_flat,
    ),
    "hf": Format(
        "Hugging Face datasets",
        lambda sink, rows, subset, n, ordered: arrow_tables.write_arrow(sink, rows, subset, n),
        _read_tables(".arrow", arrow_tables.read_arrow),
    ),
}
