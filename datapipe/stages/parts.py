"""Parts: what each ingest task makes of its share of the documents, for the stages after it.

A part is a folder, local or at a URL, published whole (in an object store part.json comes last):

    documents.bin   DOCUMENT records        tokens.bin   ids of all documents, EOD after each
    ids.bin         document ids, UTF-8     buckets.bin  per run: uint64 (buckets, documents), see signatures.py
    signatures.bin  uint32 (documents, buckets * hashes), in the order in which the documents came
    kept.bin        values of the rows' fields that are kept, JSON; only where the build keeps some
    part.json       run boundaries and the task's counts
    cuts.bin        per run: uint32 (partitions + 1,), where in it each of `partitions` equal ranges of place begins

Documents come in runs, each as many as fit into memory, sorted by place. So a packing task reads only its own range of
places from each run.
"""

import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...common.json_text import parse_json
from ...common.publish import copy_folder
from ...common.remote.patience import ATTEMPTS, patiently
from ...shards.file_array import FileArray
from ..arrays.gather import apart, gathered, in_order, starts_of
from ..arrays.ordering import order_by
from ..arrays.records import joined

DOCUMENT = np.dtype(
    [
        ("place_hi", "<u8"),
        ("place_lo", "<u8"),
        ("key_hi", "<u8"),
        ("key_lo", "<u8"),
        ("raw", "<u8"),  # digest of the text as it came
        ("drawn", "<u8"),  # order in which clusters are drawn for validation
        ("text_bytes", "<u8"),
        ("token_start", "<u8"),  # in tokens.bin, counted in ids
        ("tokens", "<u4"),  # EOD included
        ("source", "<u2"),
        ("signed", "u1"),  # 1 when it has a signature: texts shorter than one shingle have none
        ("distinct", "u1"),  # 1 when no other document of its source is a copy of it, even with the same key
        ("id_start", "<u8"),  # in ids.bin
        ("id_bytes", "<u4"),
        ("signature", "<u4"),  # its row in signatures.bin
    ]
)

WITH_KEPT = np.dtype([*DOCUMENT.descr, ("kept_start", "<u8"), ("kept_bytes", "<u4")])
"""A DOCUMENT of a build that keeps fields of rows, and where in kept.bin they are."""

PART_NAME = "part.json"
WRITE_BYTES = 1 << 18
AT_ONCE = 1 << 20
"""Documents whose records are read together by whatever goes through all of them."""

BUILD_AGAIN = "remove the work folder it lies in and build again"
"""What to do about a damaged file of a work folder."""

Documents = NDArray[np.void]


@dataclass(frozen=True)
class Batch:
    """Documents on their way into a run. What is of different length lies one after the other, as `records` count it.

    Attributes:
        records: DOCUMENT or WITH_KEPT, (n,), without token_start, id_start, signature and kept_start.
        ids: UTF-8.
        tokens: EOD after each document, of the part's dtype.
        signatures: uint32 (n, buckets * hashes).
        buckets: uint64 (n, buckets).
        kept: values of kept fields, JSON; empty where the build keeps none.
    """

    records: Documents
    ids: bytes
    tokens: NDArray[np.unsignedinteger]
    signatures: NDArray[np.uint32]
    buckets: NDArray[np.uint64]
    kept: bytes = b""

    def held_bytes(self) -> int:
        """Return how much of memory it takes until its run is written."""
        return self.records.nbytes + len(self.ids) + self.tokens.nbytes + self.buckets.nbytes + len(self.kept)


class PartWriter:
    """Writes a part: `add` documents, `close` with the task's counts; nothing is visible before that."""

    def __init__(
        self,
        folder: str,
        dtype: str,
        partitions: int,
        buckets: int,
        hashes: int,
        run_bytes: int,
        keeps: bool = False,
    ) -> None:
        self._folder, self._keeps = folder, keeps
        if storage.is_url(folder):
            self._building = tempfile.mkdtemp(prefix="epochal-")
        else:
            self._building = f"{folder}.{os.getpid()}.partial"
            shutil.rmtree(self._building, ignore_errors=True)
            os.makedirs(self._building)
        self._dtype = np.dtype(dtype)
        self._partitions, self._buckets, self._hashes = partitions, buckets, hashes
        self._run_bytes = run_bytes
        self._pending: list[tuple[Documents, NDArray[np.uint64]]] = []  # records, buckets
        self._tokens, self._ids, self._kept = bytearray(), bytearray(), bytearray()
        self._pending_bytes = 0
        self._runs: list[int] = []
        self._token_start = self._id_start = self._kept_start = self._signatures = 0
        names = ("documents", "tokens", "ids", "signatures", "buckets", "cuts", *(["kept"] if keeps else []))
        paths = {name: os.path.join(self._building, f"{name}.bin") for name in names}
        self._files: dict[str, BinaryIO] = {n: open(path, "wb", WRITE_BYTES) for n, path in paths.items()}  # noqa: SIM115

    def add(self, batch: Batch) -> None:
        """Add documents; when memory for the run is used up, the run is sorted and written."""
        batch.records["signature"] = self._signatures + np.arange(len(batch.records))
        self._signatures += len(batch.records)
        self._files["signatures"].write(np.ascontiguousarray(batch.signatures).data)
        self._tokens += batch.tokens.tobytes()
        self._ids += batch.ids
        self._kept += batch.kept
        self._pending.append((batch.records, batch.buckets))
        self._pending_bytes += batch.held_bytes()
        if self._pending_bytes >= self._run_bytes:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending:
            return
        records = joined([some for some, _ in pending])
        order = order_by(*(records[name] for name in ("place_hi", "place_lo", "key_hi", "key_lo", "raw")))
        # `write`, not `tofile`: a full disk must show as what it is.
        self._files["tokens"].writelines(in_order(self._tokens, records["tokens"], order, self._dtype.itemsize))
        self._files["ids"].writelines(in_order(self._ids, records["id_bytes"], order))
        if self._keeps:
            self._files["kept"].writelines(in_order(self._kept, records["kept_bytes"], order))
        self._tokens, self._ids, self._kept = bytearray(), bytearray(), bytearray()
        records = records.take(order)
        records["token_start"] = self._token_start + starts_of(records["tokens"])
        records["id_start"] = self._id_start + starts_of(records["id_bytes"])
        self._token_start += int(records["tokens"].sum(dtype=np.int64))
        self._id_start += int(records["id_bytes"].sum(dtype=np.int64))
        if self._keeps:
            records["kept_start"] = self._kept_start + starts_of(records["kept_bytes"])
            self._kept_start += int(records["kept_bytes"].sum(dtype=np.int64))
        edges = np.arange(self._partitions, dtype=np.uint64) << np.uint64(64 - self._partitions.bit_length() + 1)
        cuts = np.searchsorted(records["place_hi"], edges) if self._partitions > 1 else np.zeros(1, np.int64)
        self._runs.append(len(order))
        self._files["cuts"].write(np.append(cuts, len(order)).astype(np.uint32).data)
        self._files["documents"].write(records.data)
        for bucket in range(self._buckets):
            values = np.concatenate([buckets[:, bucket] for _, buckets in pending])
            self._files["buckets"].write(values[order].data)

    def close(self, counts: dict[str, Any]) -> None:
        """Write what is left and publish the part together with `counts`."""
        self._flush()
        sizes = {name: file.tell() for name, file in self._files.items()}
        for file in self._files.values():
            file.close()
        info: dict[str, Any] = {
            "bytes": sizes,
            "dtype": self._dtype.name,
            "buckets": self._buckets,
            "hashes": self._hashes,
            "runs": self._runs,
        }
        info |= {"kept": True} if self._keeps else {}
        with open(os.path.join(self._building, PART_NAME), "w", encoding="utf-8") as f:
            json.dump(info | {"partitions": self._partitions, "counts": counts}, f)
        if storage.is_url(self._folder):
            copy_folder(self._building, self._folder, PART_NAME)
            shutil.rmtree(self._building)
            return
        try:
            os.rename(self._building, self._folder)
        except OSError:
            if not os.path.isdir(self._folder):
                raise
            shutil.rmtree(self._building)  # a task that outlived a killed build was first: its part is the same


@dataclass(frozen=True)
class SortedRun:
    """A run: `documents` records from row `first` of a part on, sorted by place."""

    first: int
    documents: int


class Part:
    """A published part.

    `read_spans` reads ranges of a file; `texts` and `signatures` read here and there in it, or in a copy on a
    scratch disk when the part is at a URL, until `forget`.

    Attributes:
        keep_open: files stay open, each a file descriptor, of which a process has about 1000.
    """

    def __init__(self, folder: str, keep_open: bool = True) -> None:
        self.folder, self._keep_open = folder, keep_open
        where = storage.join(folder, PART_NAME)
        self._info = parse_json(storage.read_bytes(where), where)
        self.counts: dict[str, Any] = self._info["counts"]
        self.partitions: int = self._info["partitions"]
        self.keeps: bool = self._info.get("kept", False)
        firsts = np.cumsum([0, *self._info["runs"]]).tolist()
        self.runs = [SortedRun(first, n) for first, n in zip(firsts, self._info["runs"], strict=False)]
        self.n_documents: int = firsts[-1]
        self.n_hashes: int = self._info["buckets"] * self._info["hashes"]
        self._files: dict[str, FileArray] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of the elements of `<name>.bin`."""
        kinds = {
            "documents": WITH_KEPT if self.keeps else DOCUMENT,
            "tokens": self._info["dtype"],
            "ids": np.uint8,
            "kept": np.uint8,
            "signatures": np.uint32,
            "buckets": np.uint64,
            "cuts": np.uint32,
        }
        return np.dtype(kinds[name])

    def item(self, name: str) -> tuple[int, ...]:
        """Return the shape of an element of `<name>.bin`."""
        return (self.n_hashes,) if name == "signatures" else ()

    def path(self, name: str) -> str:
        """Return where `<name>.bin` lies."""
        return storage.join(self.folder, f"{name}.bin")

    def whole(self, name: str) -> FileArray:
        """Return `<name>.bin` as an array that is read where it is asked."""
        if name in self._files:
            return self._files[name]
        path, dtype = self.path(name), self.dtype(name)
        if storage.is_url(path):
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="epochal-")
            copy = os.path.join(self._scratch.name, name)
            if not os.path.exists(copy):
                fetch = functools.partial(storage.copy_file, path, copy)
                patiently(fetch, f"download {path}", ATTEMPTS, missing_too=True)
            path = copy
        size = os.path.getsize(path)
        self._check_size(name, size)
        item = self.item(name)
        n = size // max(1, int(np.prod(item)) * dtype.itemsize)
        found = FileArray(path, dtype, (n, *item), what=self.path(name), mend=BUILD_AGAIN)
        if self._keep_open:
            self._files[name] = found
        return found

    def _check_size(self, name: str, size: int) -> None:
        """Raise WorkError when `<name>.bin` is not as long as it was written."""
        expected = self._info.get("bytes", {}).get(name, size)
        if size != expected:
            raise WorkError(
                f"{self.path(name)} is damaged: it has {size:,} bytes, {expected:,} were written; {BUILD_AGAIN}"
            )

    def text_bytes(self) -> int:
        """Return how many bytes the ids of all documents have, and what they keep of rows."""
        sizes: dict[str, int] = self._info["bytes"]
        return sizes["ids"] + sizes.get("kept", 0)

    def cuts(self) -> NDArray[np.uint32]:
        """Return where each partition begins in each run, shape (len(runs), partitions + 1)."""
        data = storage.read_bytes(self.path("cuts"))
        self._check_size("cuts", len(data))
        return np.frombuffer(data, np.uint32).reshape(len(self.runs), self.partitions + 1)

    def stretches(self, start: int, stop: int) -> Iterator[tuple[SortedRun, int, Documents]]:
        """Yield (run, row of the first, records) of documents `start` to `stop`, some of one run at a time."""
        for run in self.runs:
            last = min(stop, run.first + run.documents)
            for begin in range(max(start, run.first), last, AT_ONCE):
                (documents,) = read_spans("documents", [(self, begin, min(begin + AT_ONCE, last))])
                yield run, begin, documents

    def bucket(self, b: int, run: SortedRun, start: int, stop: int) -> NDArray[np.uint64]:
        """Return bucket `b` of the signatures of documents `start` to `stop`, all of one run, shape (n,)."""
        base = run.first * (self._info["buckets"] - 1) + b * run.documents
        (block,) = read_spans("buckets", [(self, base + start, base + stop)])
        return block

    def forget(self) -> None:
        """Delete the local copies of a remote part's files."""
        if self._scratch is not None:
            self._files.clear()
            self._scratch.cleanup()
            self._scratch = None

    def texts(self, documents: Documents) -> bytes:
        """Return the id of each of `documents` of this part, in order of row, and the values of kept fields, JSON,
        behind it, one document after the other."""
        ids = self._joined("ids", documents["id_start"], documents["id_bytes"])
        if not self.keeps:
            return ids
        kept = self._joined("kept", documents["kept_start"], documents["kept_bytes"])
        both = zip(apart(ids, documents["id_bytes"]), apart(kept, documents["kept_bytes"]), strict=True)
        return b"".join(itertools.chain.from_iterable(both))

    def _joined(self, name: str, starts: NDArray[np.uint64], lengths: NDArray[np.uint32]) -> bytes:
        """Return pieces of `<name>.bin`, whose starts rise, one after the other."""
        file, stops = self.whole(name), starts + lengths
        return b"".join(
            gathered(file[int(starts[a]) : int(stops[a:b].max())], starts[a:b] - starts[a], lengths[a:b])
            for a, b in file.near(starts.astype(np.int64), stops.astype(np.int64))
        )

    def signatures(self, documents: Documents) -> NDArray[np.uint32]:
        """Return the signatures of `documents` of this part, shape (n, buckets * hashes)."""
        return self.whole("signatures").take(documents["signature"])


def read_spans(name: str, spans: Sequence[tuple[Part, int, int]]) -> list[NDArray[Any]]:
    """Return elements `start` to `stop` of `<name>.bin` for each (part, start, stop); of remote parts these bytes are
    fetched side by side."""
    if not spans or not storage.is_url(spans[0][0].folder):
        return [part.whole(name)[start:stop] for part, start, stop in spans]
    dtype, item = spans[0][0].dtype(name), spans[0][0].item(name)
    size = dtype.itemsize * int(np.prod(item))
    pieces = storage.read_ranges([(part.path(name), start * size, stop * size) for part, start, stop in spans])
    return [np.frombuffer(data, dtype).reshape(-1, *item) for data in pieces]
