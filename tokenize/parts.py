"""The tokenized part: what one task makes of its share of the documents, on its way to the pool.

A part is a folder, published whole:

    documents.bin   DOCUMENT records        tokens.bin   ids of all documents, EOD after each
    ids.bin         document ids, UTF-8     signatures.bin   per run: uint32 (buckets, documents, hashes)
    part.json       run boundaries and the task's counts

Documents come in runs, as many as fit into memory; within a run they are sorted by place. `cuts` says where each of
`partitions` equal ranges of place begins within a run, so that whoever orders the pool reads just its range.
"""

import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

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
        ("signed", "<u2"),  # 1 when it has a signature: texts shorter than one shingle have none
        ("id_start", "<u8"),  # in ids.bin
        ("id_bytes", "<u4"),
    ]
)

Documents = NDArray[np.void]


@dataclass
class PendingDocument:
    """A document on its way into a run; `record` is a DOCUMENT whose starts are not known yet."""

    record: tuple[int, ...]
    id: bytes
    ids: NDArray[np.unsignedinteger]
    signature: NDArray[np.uint32] | None


class PartWriter:
    """Writes a part: `add` documents, `close` with the task's counts; nothing is visible before that."""

    def __init__(self, folder: str, dtype: str, partitions: int, buckets: int, hashes: int, run_bytes: int) -> None:
        self._folder, self._building = folder, f"{folder}.{os.getpid()}.partial"
        shutil.rmtree(self._building, ignore_errors=True)
        os.makedirs(self._building)
        self._dtype = np.dtype(dtype)
        self._partitions, self._buckets, self._hashes = partitions, buckets, hashes
        self._run_bytes = run_bytes
        self._pending: list[PendingDocument] = []
        self._pending_bytes = 0
        self._runs: list[dict[str, Any]] = []
        self._token_start = self._id_start = 0
        names = ("documents", "tokens", "ids", "signatures")
        paths = {name: os.path.join(self._building, f"{name}.bin") for name in names}
        self._files: dict[str, BinaryIO] = {n: open(path, "wb") for n, path in paths.items()}  # noqa: SIM115

    def add(self, document: PendingDocument) -> None:
        """Add a document; when memory for the run is used up, the run is sorted and written."""
        self._pending.append(document)
        self._pending_bytes += 256 + len(document.id) + document.ids.nbytes + 4 * self._buckets * self._hashes
        if self._pending_bytes >= self._run_bytes:
            self._flush()

    def _flush(self) -> None:
        run = sorted(self._pending, key=lambda d: d.record[:5])
        self._pending, self._pending_bytes = [], 0
        if not run:
            return
        records = np.zeros(len(run), DOCUMENT)
        names = ("place_hi", "place_lo", "key_hi", "key_lo", "raw", "drawn", "text_bytes", "source", "signed")
        for name, values in zip(names, zip(*(d.record for d in run), strict=True), strict=True):
            records[name] = values
        records["tokens"] = [len(d.ids) for d in run]
        records["id_bytes"] = [len(d.id) for d in run]
        records["token_start"] = self._token_start + _starts(records["tokens"])
        records["id_start"] = self._id_start + _starts(records["id_bytes"])
        self._token_start += int(records["tokens"].sum(dtype=np.int64))
        self._id_start += int(records["id_bytes"].sum(dtype=np.int64))
        edges = np.arange(self._partitions, dtype=np.uint64) << np.uint64(64 - self._partitions.bit_length() + 1)
        cuts = np.searchsorted(records["place_hi"], edges) if self._partitions > 1 else np.zeros(1, np.int64)
        self._runs.append({"documents": len(run), "cuts": [*cuts.tolist(), len(run)]})
        # `write`, not `tofile`: a full disk must show as what it is.
        self._files["documents"].write(records.data)
        self._files["ids"].write(b"".join(d.id for d in run))
        self._files["tokens"].write(np.concatenate([d.ids for d in run]).astype(self._dtype).data)
        if self._buckets:
            blank = np.zeros(self._buckets * self._hashes, np.uint32)
            rows = np.stack([blank if d.signature is None else d.signature for d in run])
            by_bucket = rows.reshape(len(run), self._buckets, self._hashes).transpose(1, 0, 2)
            self._files["signatures"].write(np.ascontiguousarray(by_bucket).data)

    def close(self, counts: dict[str, Any]) -> None:
        """Write what is left and publish the part together with `counts`."""
        self._flush()
        for file in self._files.values():
            file.close()
        info = {"dtype": self._dtype.name, "buckets": self._buckets, "hashes": self._hashes, "runs": self._runs}
        with open(os.path.join(self._building, "part.json"), "w") as f:
            json.dump(info | {"partitions": self._partitions, "counts": counts}, f)
        try:
            os.rename(self._building, self._folder)
        except OSError:
            if not os.path.isdir(self._folder):
                raise
            shutil.rmtree(self._building)  # a task that outlived a killed build was first: its part is the same


def _starts(lengths: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
    ends = np.cumsum(lengths, dtype=np.uint64)
    return np.concatenate([np.zeros(1, np.uint64), ends[:-1]])


@dataclass(frozen=True)
class Run:
    """`documents` records from row `first` of a part; partition p's are rows first + cuts[p] to first + cuts[p + 1]."""

    first: int
    documents: int
    cuts: list[int]


class Part:
    """A published part, read through memory maps."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(os.path.join(folder, "part.json")) as f:
            self._info = json.load(f)
        self.counts: dict[str, Any] = self._info["counts"]
        firsts = np.cumsum([0] + [r["documents"] for r in self._info["runs"]]).tolist()
        self.runs = [Run(f, r["documents"], r["cuts"]) for f, r in zip(firsts, self._info["runs"], strict=False)]
        self.n_documents: int = firsts[-1]

    def _map(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = os.path.join(self.folder, f"{name}.bin")
        if os.path.getsize(path) == 0:
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, "r")

    @cached_property
    def documents(self) -> Documents:
        """DOCUMENT records, one per document."""
        return self._map("documents", DOCUMENT)

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """Ids of all documents."""
        return self._map("tokens", np.dtype(self._info["dtype"]))

    @cached_property
    def _ids(self) -> NDArray[np.uint8]:
        return self._map("ids", np.dtype(np.uint8))

    def id(self, row: int) -> str:
        """Return the id of the document at `row`."""
        record = self.documents[row]
        return self.id_at(int(record["id_start"]), int(record["id_bytes"]))

    def id_at(self, start: int, n_bytes: int) -> str:
        """Return the id that lies at `start` in ids.bin."""
        return self._ids[start : start + n_bytes].tobytes().decode()

    def bucket(self, b: int) -> NDArray[np.uint32]:
        """Return bucket `b` of all signatures, shape (n_documents, hashes)."""
        return np.concatenate([self._signatures(run)[b] for run in self.runs] or [np.zeros((0, 1), np.uint32)])

    def signatures(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the signatures of `rows`, shape (len(rows), buckets * hashes)."""
        size = self._info["buckets"] * self._info["hashes"]
        out = np.zeros((len(rows), size), np.uint32)
        for run in self.runs:
            mine = (rows >= run.first) & (rows < run.first + run.documents)
            block = self._signatures(run)[:, rows[mine] - run.first]
            out[mine] = block.transpose(1, 0, 2).reshape(-1, size)
        return out

    def _signatures(self, run: Run) -> NDArray[np.uint32]:
        buckets, hashes = self._info["buckets"], self._info["hashes"]
        flat = self._map("signatures", np.dtype(np.uint32))
        block = flat[run.first * buckets * hashes : (run.first + run.documents) * buckets * hashes]
        return block.reshape(buckets, run.documents, hashes)
