"""Flat files of token ids say nothing of themselves. Before a build starts, their size and first ids are looked at:
whether they can be what a source takes them for.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ...common import storage
from ...common.errors import RequestError
from ...shards.manifest import ExportManifest, TokenizerInfo
from ..config import Source
from .base import Listing
from .foreign_mds import are_wider
from .tokenizers import manifest_beside
from .tokens import assumed_dtype

HEAD_BYTES = 2 << 20
_HEADERS = {  # first bytes of files that begin with something else than ids
    (20240520).to_bytes(4, "little"): "llm.c's header of 1,024 bytes",
    (20240801).to_bytes(4, "little"): "llm.c's header of 1,024 bytes",
    b"\x93NUMPY": "numpy's header",
}

_PAGES = (b"<!doctype html", b"<html")
"""What a server sends instead of a file."""


def check_flat_files(sources: Sequence[Source], listings: Sequence[Listing], info: TokenizerInfo) -> Iterator[str]:
    """Look at the flat files among the sources; yield a line for each source whose ids' type is assumed.

    Raises:
        RequestError: when a file's size or ids are not of the type that the source says, or that is assumed.
    """
    for listing in listings:
        source = sources[listing.source]
        if source.format != "bin" or isinstance(manifest_beside(source), ExportManifest):
            continue
        stated = source.tokenized.dtype if source.tokenized else None
        sizes: dict[str, int] = {}
        for file in listing.files:  # parts of files
            sizes[file.path] = sizes.get(file.path, 0) + file.size
        for path, size in sizes.items():
            _check(source, storage.join(listing.root, path), size, stated, info)
        if stated is None:
            yield (
                f"source '{source.name}': nothing says how its ids are stored; they are read as {assumed_dtype(info)} "
                "(tokenized.dtype)"
            )


def _check(source: Source, path: str, size: int, stated: str | None, info: TokenizerInfo) -> None:
    """Raise RequestError when the file cannot hold ids of the type `stated`, or of the assumed one if that is None."""
    dtype = np.dtype(stated or assumed_dtype(info)).newbyteorder("<")
    with storage.open_read(path, size or None) as file:
        head = file.read(HEAD_BYTES)
    ids = np.frombuffer(head[: len(head) // dtype.itemsize * dtype.itemsize], dtype)
    if problem := _problem(head, size, ids, stated is not None, info):
        others = ", ".join(name for name in ("uint16", "uint32", "int32", "int64") if name != dtype.name)
        raise RequestError(
            f"source '{source.name}': {path.rpartition('/')[2]} {problem}: it does not hold ids of tokenizer "
            f"{info.name} as {dtype.name}; write tokenized.dtype ({others}), or correct the file"
        )


def _problem(head: bytes, size: int, ids: np.ndarray, stated: bool, info: TokenizerInfo) -> str | None:
    """Return what is wrong with a file of `size` bytes that begins with `ids`, if anything."""
    header = next((name for start, name in _HEADERS.items() if head.startswith(start)), None)
    if header:
        return f"begins with {header}"
    if head.lstrip()[:32].lower().startswith(_PAGES):
        return "is an HTML page"
    if size % ids.itemsize:
        return f"has {size:,} bytes, no multiple of {ids.itemsize}"
    if are_wider(ids):
        return "has 0 as every second id, which are wider"
    if stated:
        return None
    if len(ids) and int(ids.max()) >= info.vocab_size:
        return f"has an id of {int(ids.max()):,}, the vocabulary {info.vocab_size:,} ids"
    if len(head) == HEAD_BYTES and not (ids == info.eod).any():
        return f"has no EOD ({info.eod}) among its first {len(ids):,} ids"
    return None
