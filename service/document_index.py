"""Finding a document of a pool by its key or id, without reading the pool's table from end to end.

The index of a pool lies in `documents/<pool fingerprint>/` of the service's folder: numpy arrays, read where they are
asked, built once.
"""

import bisect
import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from ..common import storage
from ..common.cli import say
from ..common.errors import RequestError, WorkError
from ..common.publish import FileInfo, publishing
from ..shards import arrow
from ..shards.documents import DOCUMENTS_NAME, ROW_GROUP, open_documents
from ..shards.file_array import FileArray
from ..shards.tables.table import Table

NAMES = ("key", "start", "tokens", "key_prefix", "key_row", "id_hash", "id_row", "group")
"""Arrays of an index, each in `<name>.npy`."""

HASHES_NAME = "hashes.json"
"""Size and xxh64 of each of these files."""

_ATTEMPTS = 3


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
        waiting: list[pa.Table] = []
        for group in f.groups(["key", "start", "tokens"]):
            waiting.append(group)
            if sum(map(len, waiting)) >= ROW_GROUP:
                yield _spans(waiting)
                waiting = []
        if any(map(len, waiting)):
            yield _spans(waiting)


def _spans(groups: list[pa.Table]) -> dict[str, Any]:
    table = pa.concat_tables(groups)
    return {"key": table["key"]} | {name: arrow.array(table[name]) for name in ("start", "tokens")}


class DocumentIndex:
    """The documents of the pool at `root` (path or URL), whose fingerprint is `pool`. Safe to share among threads.

    The index has a checksum of each of its files, which is compared when it is opened, and again when a file is another
    one; an index that is damaged is built again, and so is every one without checksums. What it says of a document is
    held against the pool's table.

    Attributes:
        folder: where indexes are kept; this one is built there when it is missing, and appears whole or not at all.
    """

    def __init__(self, root: str, pool: str, folder: str) -> None:
        self.pool = pool
        self._root = root
        self._where = os.path.join(folder, pool)
        self._opening, self._reading = threading.Lock(), threading.Lock()
        self._table: Table | None = None
        self._stamps: list[str] = []
        self._strings = lru_cache(maxsize=16)(self._read_rows)
        self._arrays = self._open()

    def by_key(self, key: bytes) -> list[Document]:
        """Return the document with this 16-byte key, if any: a list of one or none."""

        def look(arrays: dict[str, FileArray]) -> list[Document]:
            rows = _rows(arrays, "key_prefix", "key_row", _prefix(key))
            return [self._document(arrays, row) for row in rows if arrays["key"][row].tobytes() == key]

        return self._answer(look)

    def by_id(self, id_: str) -> list[Document]:
        """Return the documents with this id: sources may share ids."""

        def look(arrays: dict[str, FileArray]) -> list[Document]:
            rows = _rows(arrays, "id_hash", "id_row", xxhash.xxh3_64_intdigest(id_.encode()))
            return [d for d in (self._document(arrays, row) for row in rows) if d.id == id_]

        return self._answer(look)

    def many(self, keys: Collection[bytes], ids: Collection[str]) -> list[Document]:
        """Return the documents that have one of these keys or ids, in the order of the pool; the pool's table is read a
        row group at a time where some of them are."""

        def look(arrays: dict[str, FileArray]) -> list[Document]:
            rows = {row for key in keys for row in _rows(arrays, "key_prefix", "key_row", _prefix(key))}
            hashes = (xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids)
            rows.update(row for hashed in hashes for row in _rows(arrays, "id_hash", "id_row", hashed))
            found = (self._document(arrays, row) for row in sorted(rows))
            return [d for d in found if bytes.fromhex(d.key) in keys or d.id in ids]

        return self._answer(look)

    def _answer(self, look: Callable[[dict[str, FileArray]], list[Document]]) -> list[Document]:
        """Return what `look` finds in an index whose files are the ones that were checked, before and after."""
        for _ in range(_ATTEMPTS):
            arrays, stamps = self._arrays, self._stamps
            with contextlib.suppress(WorkError):  # cut meanwhile
                if _stamps(self._where) == stamps:
                    found = look(arrays)
                    if _stamps(self._where) == stamps:
                        return found
            with self._opening:
                if self._stamps is stamps:
                    self._arrays = self._open()
        raise WorkError(f"the index of the documents of pool {self.pool} at {self._where} is changed again and again")

    def _open(self) -> dict[str, FileArray]:
        """Return the arrays of the index, built if it is not there or damaged."""
        for _ in range(_ATTEMPTS):
            self._stamps = _stamps(self._where)
            if os.path.isdir(self._where):
                problem = _damage(self._where)
                if problem is None and self._stamps == _stamps(self._where):
                    return {name: _array(os.path.join(self._where, f"{name}.npy")) for name in NAMES}
                if problem is not None:
                    say(f"the index of the documents of pool {self.pool} {problem}: it is built again")
                    shutil.rmtree(self._where, ignore_errors=True)
            if not os.path.isdir(self._where):
                _build(self._root, self._where)
        raise WorkError(f"the index of the documents of pool {self.pool} at {self._where} is damaged again and again")

    def _document(self, arrays: dict[str, FileArray], row: int) -> Document:
        first = arrays["group"][:]
        group = int(np.searchsorted(first, row, "right")) - 1
        table = self._strings(group)
        at = row - int(first[group])
        key, start, tokens = arrays["key"][row].tobytes(), int(arrays["start"][row]), int(arrays["tokens"][row])
        found = {name: column[at].as_py() for name, column in table.items()}
        if (found["key"], found["start"], found["tokens"]) != (key, start, tokens):
            raise RequestError(f"{self._root}/{DOCUMENTS_NAME} is damaged: restore it (epochal verify says more)")
        return Document(self.pool, key.hex(), found["id"], found["source"], start, tokens)

    def _read_rows(self, group: int) -> dict[str, pa.ChunkedArray]:
        with self._reading:
            if self._table is None:  # a copy of what lies at a URL is kept; what lies here is opened each time
                self._table = open_documents(self._root, keep=None if storage.is_url(self._root) else 0)
            table = self._table.read(group, ["key", "id", "source", "start", "tokens"])
        return {name: table[name] for name in table.column_names}


def _prefix(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _rows(arrays: dict[str, FileArray], values: str, rows: str, wanted: int) -> list[int]:
    first, stop = bisect.bisect_left(arrays[values], wanted), bisect.bisect_right(arrays[values], wanted)
    found: list[int] = arrays[rows][first:stop].tolist()
    return found


def _stamps(where: str) -> list[str]:
    """Return what changes when a file of an index does."""
    stamps = []
    for name in (*(f"{name}.npy" for name in NAMES), HASHES_NAME):
        try:
            info = os.stat(os.path.join(where, name))
        except OSError:
            stamps.append("")
            continue
        stamps.append(f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}")
    return stamps


def _damage(where: str) -> str | None:
    """Return what is wrong with an index, None when its files are those that were written."""
    try:
        with open(os.path.join(where, HASHES_NAME), "rb") as f:
            hashes = json.load(f)
    except FileNotFoundError:
        return "has no checksums"
    except ValueError:
        return "is damaged"
    for name in NAMES:
        path = os.path.join(where, f"{name}.npy")
        try:
            if hashes.get(name) != FileInfo.at(path).model_dump():
                return "is damaged"
        except (AttributeError, FileNotFoundError):
            return "is damaged"
    return None


def _array(path: str) -> FileArray:
    """Return the array in a file of `numpy.save` whose hash was right."""
    with open(path, "rb") as f:
        np.lib.format.read_magic(f)
        shape, _, dtype = np.lib.format.read_array_header_1_0(f)
        return FileArray(path, dtype, shape, f.tell())


def _build(root: str, where: str) -> None:
    """Write the index of the pool at `root` to the folder `where`. Raises RequestError when it has no documents."""
    columns: dict[str, list[NDArray]] = {"key": [], "start": [], "tokens": [], "id_hash": []}
    groups = [0]
    try:
        with open_documents(root) as f:
            for table in f.groups(["key", "id", "start", "tokens"]):
                columns["key"].append(key_array(table["key"]))
                columns["start"].append(arrow.array(table["start"]))
                columns["tokens"].append(arrow.array(table["tokens"]))
                numbers = (xxhash.xxh3_64_intdigest(id_.encode()) for id_ in table["id"].to_pylist())
                columns["id_hash"].append(np.fromiter(numbers, np.uint64, len(table)))
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
            listed = {name: sink.files[f"{name}.npy"].model_dump() for name in NAMES}
            sink.write(HASHES_NAME, json.dumps(listed).encode())
    except RequestError:
        if not os.path.isdir(where):  # another process was faster: its index is as good
            raise


def key_array(keys: pa.ChunkedArray) -> NDArray[np.void]:
    """Return a column of 16-byte keys as an array of shape (k,), dtype V16. Earlier pools hold them as binary of
    fixed size.

    Raises:
        WorkError: when one is not 16 bytes long.
    """
    flat = keys.combine_chunks()
    if pa.types.is_fixed_size_binary(flat.type):
        return np.frombuffer(flat.buffers()[1], "V16", len(flat), 16 * flat.offset)
    if not len(flat):
        return np.zeros(0, "V16")
    offsets = np.frombuffer(flat.buffers()[1], np.int32, len(flat) + 1, 4 * flat.offset)
    if (np.diff(offsets) != 16).any():
        raise WorkError("documents.parquet is damaged: a key is not 16 bytes long; restore it or build again")
    return np.frombuffer(flat.buffers()[2], "V16", len(flat), int(offsets[0]))
