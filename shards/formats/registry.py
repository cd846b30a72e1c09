"""The formats of exports, each a module with one `write` and one `read`: whoever writes or reads one does so here."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from ...common import storage
from ...common.publish import Sink
from ..manifest import ExportManifest, Manifest
from . import flat, hugging_face, megatron, parquet, webdataset
from .rows import Block, Part, Rows, Stretch


class Format(Protocol):
    """What a module of a format holds.

    Attributes:
        ENDING: of the names of the files that ids are read from.
    """

    ENDING: str

    def rows_per_file(self, subset: Manifest) -> int | None:
        """Return how many rows of `subset` a file holds; None where all are in one file."""

    def write(self, sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
        """Write the rows of a stretch of an export of `subset`, into files that do not depend on how the export is
        divided into stretches."""

    def read(self, path: str, part: Part) -> Iterator[Block]:
        """Yield what is in the file at `path` (local or URL), in order.

        Raises:
            ValueError: where it is not whole.
        """


FORMATS: dict[str, Format] = {
    "wds": webdataset,
    "parquet": parquet,
    "megatron": megatron,
    "bin": flat,
    "hf": hugging_face,
}
"""By the name of the format, `ExportLayout`."""


def in_order(names: Iterable[str]) -> list[str]:
    """Return numbered names by number, also where the numbers have outgrown their digits."""
    return sorted(names, key=lambda name: (len(name), name))


def read_files(root: str, m: Manifest | ExportManifest) -> Iterator[Block]:
    """Yield what is in the files of an export, or of a subset in WebDataset files, in order."""
    module = FORMATS[m.layout]
    for name in in_order(name for name in m.files if name.endswith(module.ENDING)):
        yield from module.read(storage.join(root, name), Part(dtype=m.dtype))
