"""Finding a document of a pool by its key or id, without reading the pool's table from end to end.

The index of a pool lies in `documents/<pool fingerprint>/` of the service's folder: numpy arrays, mapped, built once.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from ..common.errors import RequestError
from ..common.publish import publishing
from ..shards.documents import ROW_GROUP, open_documents
from .ledger import key_array


@dataclass(frozen=True)
class Document:
    """A document of the pool with fingerprint `pool`: `tokens` tokens (EOD included) from `start` of its stream."""

    pool: str
    key: str
    id: str
    source: str
    start: int
    tokens: int


def read_spans(root: str) -> Iterator[dict[str, Any]]:
    """Yield key (pyarrow), start and tokens (int64 arrays) of the documents of the pool at `root`.

    They come in parts of whole row groups, some 65,536 documents or more in each, the last aside.
    """
    with open_documents(root) as f:
        groups: list[int] = []
        rows = 0
        for i in range(f.metadata.num_row_groups):
            groups.append(i)
            rows += f.metadata.row_group(i).num_rows
            if rows >= ROW_GROUP or (rows and i == f.metadata.num_row_groups - 1):
                table = f.read_row_groups(groups, columns=["key", "start", "tokens"])
                yield {"key": table["key"]} | {name: table[name].to_numpy() for name in ("start", "tokens")}
                groups, rows = [], 0


class DocumentIndex:
    """The documents of the pool at `root` (path or URL), whose fingerprint is `pool`. Safe to share among threads.

    Attributes:
        folder: where indexes are kept; this one is built there when it is missing, and appears whole or not at all.
    """

    def __init__(self, root: str, pool: str, folder: str) -> None:
        self.pool = pool
        self._root = root
        where = os.path.join(folder, pool)
        if not os.path.isdir(where):
            _build(root, where)
        self._arrays = {
            name: np.load(os.path.join(where, f"{name}.npy"), mmap_mode="r")
            for name in ("key", "start", "tokens", "key_prefix", "key_row", "id_hash", "id_row", "group")
        }
        self._strings = lru_cache(maxsize=16)(self._read_strings)

    def by_key(self, key: bytes) -> list[Document]:
        """Return the document with this 16-byte key, if any: a list of one or none."""
        rows = self._rows("key_prefix", "key_row", int.from_bytes(key[:8], "big"))
        return [self._document(row) for row in rows if self._arrays["key"][row].tobytes() == key]

    def by_id(self, id_: str) -> list[Document]:
        """Return the documents with this id: sources may share ids."""
        rows = self._rows("id_hash", "id_row", xxhash.xxh3_64_intdigest(id_.encode()))
        return [d for d in map(self._document, rows) if d.id == id_]

    def _rows(self, values: str, rows: str, wanted: int) -> list[int]:
        first, stop = (
            int(np.searchsorted(self._arrays[values], np.uint64(wanted), side)) for side in ("left", "right")
        )
        return self._arrays[rows][first:stop].tolist()

    def _document(self, row: int) -> Document:
        group = int(np.searchsorted(self._arrays["group"], row, "right")) - 1
        ids, sources = self._strings(group)
        at = row - int(self._arrays["group"][group])
        return Document(
            pool=self.pool,
            key=self._arrays["key"][row].tobytes().hex(),
            id=ids[at].as_py(),
            source=sources[at].as_py(),
            start=int(self._arrays["start"][row]),
            tokens=int(self._arrays["tokens"][row]),
        )

    def _read_strings(self, group: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        with open_documents(self._root) as f:
            table = f.read_row_group(group, columns=["id", "source"])
        return table["id"], table["source"]


def _build(root: str, where: str) -> None:
    """Write the index of the pool at `root` to the folder `where`. Raises RequestError when it has no documents."""
    columns: dict[str, list[NDArray]] = {"key": [], "start": [], "tokens": [], "id_hash": []}
    groups = [0]
    try:
        with open_documents(root) as f:
            for i in range(f.metadata.num_row_groups):
                table = f.read_row_group(i, columns=["key", "id", "start", "tokens"])
                columns["key"].append(key_array(table["key"]))
                columns["start"].append(table["start"].to_numpy())
                columns["tokens"].append(table["tokens"].to_numpy())
                hashes = (xxhash.xxh3_64_intdigest(id_.encode()) for id_ in table["id"].to_pylist())
                columns["id_hash"].append(np.fromiter(hashes, np.uint64, len(table)))
                groups.append(groups[-1] + len(table))
    except FileNotFoundError:
        raise RequestError(f"{root} has no documents.parquet: which document lies where cannot be known") from None
    arrays: dict[str, NDArray] = {name: np.concatenate(parts) for name, parts in columns.items()}
    prefix = arrays["key"].view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    for name, values in (("key", prefix), ("id", arrays.pop("id_hash"))):
        order = np.argsort(values, kind="stable")
        arrays["key_prefix" if name == "key" else "id_hash"] = values[order]
        arrays[f"{name}_row"] = order.astype(np.uint32 if len(order) < 2**32 else np.uint64)
    arrays["group"] = np.array(groups[:-1], np.int64)
    try:
        with publishing(where, "index") as sink:
            for name, values in arrays.items():
                with sink.create(f"{name}.npy") as file:
                    np.save(file, values)
    except RequestError:
        if not os.path.isdir(where):  # another process was faster: its index is as good
            raise
