"""The bookkeeping of a build of very many tasks, simulated: `python -m epochal.benchmarks.scale [--tasks 100000]`.

What grows with tasks, partitions and runs, and not with the text in them: lists of input files in every task's
pipeline, marks of finished tasks, part.json of every part with its cuts, the tasks' counts, lists of shards. Written
to a scratch folder as a build would, then read with the build's own functions; documents are not there. Before that
what grows with documents: --documents of them, a tenth of them copies, matched by key and by --buckets of signatures
and clustered by one process and by two. Their records are computed as they are read; whatever the stages leave for each
other is on disk. Prints seconds and the most memory, files that are mapped left out, that each step took; writes
benchmarks/results/scale.json.
"""

import argparse
import json
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from epochal.benchmarks.common import result_path, write_result
from epochal.common.hashing import mix64
from epochal.common.publish import FileInfo
from epochal.datapipe import external_sort
from epochal.datapipe.deduplicate import deduplicate
from epochal.datapipe.sources.base import InputFile, Listing
from epochal.datapipe.stages import division
from epochal.datapipe.stages.division import Corpus, Step, open_parts
from epochal.datapipe.stages.duplicates import DUPLICATES, ROW_GROUP, TABLE
from epochal.datapipe.stages.fates import Fates, write_fates
from epochal.datapipe.stages.ingest import COUNTS as INGEST_COUNTS
from epochal.datapipe.stages.pack import (
    ROWS_NAME,
    PoolLayout,
    WriteCuts,
    WrittenShard,
    _Share,
    cut_groups,
    read_packed,
)
from epochal.datapipe.stages.parts import AT_ONCE, DOCUMENT, Batch, Documents, PartWriter
from epochal.datapipe.stages.statistics import ingest_totals
from epochal.datapipe.tables.joined import Joined, WriteTables
from epochal.datapipe.text.signatures import buckets_of
from epochal.shards.tables import names

PER_PART = 1_000_000
ID_BYTES = len("document ") + 12
HASHES = 8

COUNTS: dict[str, Any] = {"rows": {"s": 10}, "accepted": {"s": 10}, "rejected": {}, "filters": [], "excerpts": []}
COUNTS |= (
    {"first_rejects": {}, "left_out": [], "hits": {}, "left_out_rows": {}}
    | dict.fromkeys(INGEST_COUNTS, 0)
    | {"text_bytes": 10}
)


def main() -> None:
    """Simulate and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, nargs="*", default=[1, 64], help="powers of two")
    parser.add_argument("--documents", type=int, default=20_000_000)
    parser.add_argument("--buckets", type=int, default=0, help="of their signatures, of 8 hashes each")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="that match and cluster them")
    parser.add_argument("--file-rows", type=int, default=names.FILE_ROWS, help="rows of a file of a table")
    parser.add_argument("--in-memory", type=int, default=external_sort.IN_MEMORY, help="records of a range at most")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    external_sort.IN_MEMORY, names.FILE_ROWS = arguments.in_memory, arguments.file_rows
    for processes in arguments.processes:
        folder = Path(tempfile.mkdtemp(prefix="epochal-scale-"))
        same = {name: getattr(arguments, name) for name in ("documents", "buckets", "in_memory")}
        try:
            for row in _documents(folder, arguments.documents, arguments.buckets, processes):
                rows.append(same | {"processes": processes} | row)
        finally:
            shutil.rmtree(folder)
    for partitions in arguments.partitions:
        folder = Path(tempfile.mkdtemp(prefix="epochal-scale-"))
        try:
            rows += [
                {"tasks": arguments.tasks, "partitions": partitions, **row}
                for row in _steps(folder, arguments.tasks, partitions)
            ]
        finally:
            shutil.rmtree(folder)
    write_result(result_path("scale"), {"steps": rows})


def _steps(work: Path, tasks: int, partitions: int) -> Iterator[dict[str, Any]]:
    files = [InputFile(f"data/part-{i:06d}.jsonl.gz", f"part-{i:06d}.jsonl.gz", 1 << 25) for i in range(tasks)]
    listing = [Listing(0, "s3://bucket", files)]
    yield _measured("list of input files pickled and read back", lambda: pickle.loads(pickle.dumps(listing)))
    _write_parts(work, tasks, partitions)
    (work / "logs" / "completions").mkdir(parents=True)
    for rank in range(tasks):
        (work / "logs" / "completions" / f"{rank:05d}").touch()
    executor = LocalPipelineExecutor([], tasks=tasks, logging_dir=str(work / "logs"))
    yield _measured("which tasks are done", executor.get_incomplete_ranks)
    opened: list[Any] = []
    yield _measured("open all parts", lambda: opened.extend(open_parts(str(work))))
    yield _measured("sum their counts", lambda: ingest_totals(opened))
    documents = sum(part.n_documents for part in opened)
    write_fates(str(work), 0, np.ones(documents, np.uint8))
    fates = Fates(str(work), documents)
    groups = cut_groups(opened)
    yield _measured(f"their cuts put into {len(groups)} files", lambda: _run([WriteCuts(str(work), groups)], 0, 1))
    per_partition = 10**13 // partitions
    layout = PoolLayout(str(work), 1, [per_partition] * partitions, 2048, "uint16", 0, 1 << 14)
    last = layout.n_shards
    yield _measured("a packing task finds its runs", lambda: _Share(layout, opened, fates, str(work), last - 1, last))
    share = _Share(layout, opened, fates, str(work), last - 1, last)
    yield _measured("its records of one partition read", lambda: share._documents(partitions - 1))
    (work / ROWS_NAME).mkdir()
    for rank in range(tasks):
        ours = range(layout.n_shards * rank // tasks, layout.n_shards * (rank + 1) // tasks)
        shards = [asdict(WrittenShard(n, 1 << 14, 1 << 26, "0" * 16, "0" * 64)) for n in ours]
        said = {"rows": [rank, 0], "shards": shards}
        (work / ROWS_NAME / f"{rank:05d}.json").write_text(json.dumps(said))
    yield _measured(f"lists of {layout.n_shards:,} shards read", lambda: read_packed(str(work)))


def _documents(work: Path, n: int, buckets: int, processes: int) -> Iterator[dict[str, Any]]:
    """Find the duplicates among `n` documents, in as many processes, and decide what becomes of each."""
    parts: list[Any] = [GeneratedPart(first, min(PER_PART, n - first), buckets) for first in range(0, n, PER_PART)]
    division.open_parts = lambda *_: parts
    corpus = Corpus(parts, ["s"])
    near = SimpleNamespace(buckets=buckets) if buckets else None
    config: Any = SimpleNamespace(deduplicate=SimpleNamespace(near=near), tasks=processes, validation_tokens=n)
    rows: list[dict[str, Any]] = []

    def run(stage: str, steps: list[Step], tasks: int) -> None:
        name = stage.split("-", 4)[4]
        rows.append(_in_processes(name, [partial(_run, steps, rank, tasks) for rank in range(tasks)]))

    outcome = deduplicate(corpus, str(work), config, run)
    pieces, where = tuple(outcome.removed.pieces), outcome.division.path("rows")
    table = Joined(str(work), TABLE, DUPLICATES, ROW_GROUP, where, pieces)
    step = WriteTables(str(work), [table])
    tasks = min(processes, len(step.units))
    rows.append(_in_processes("tables", [partial(_run, [step], rank, tasks) for rank in range(tasks)]))
    exact, near_too = outcome.removed.exact_documents, outcome.removed.near_documents
    hashed = " ".join(FileInfo.at(str(work / name)).xxh64 for name in table.files)
    print(f"{n:,} documents, removed {exact:,} and {near_too:,}, xxh64 of the table {hashed}, {processes} processes")
    yield from rows
    total = {
        name: round(sum(row[name] for row in rows), 1) for name in ("seconds", "cpu_seconds", "longest_cpu_seconds")
    }
    grown = max(row["grown_mib"] for row in rows)
    yield _shown({"step": "all of it", **total, "grown_mib": grown})


class GeneratedPart:
    """A part of `n` documents from number `first` on, which computes what is read of it: the records of 10^9 documents
    would take 84 GB. One in ten is a copy of an earlier document, anywhere before; with `buckets`, one in ten more has
    the signature of one and a key of its own."""

    keeps, partitions = False, 64

    def __init__(self, first: int, n: int, buckets: int) -> None:
        self.first, self.n_documents, self.n_hashes = first, n, HASHES * buckets

    def text_bytes(self) -> int:
        """Return how long all ids are."""
        return ID_BYTES * self.n_documents

    def forget(self) -> None:
        """Do nothing: there are no files."""

    def stretches(self, start: int, stop: int) -> Iterator[tuple[None, int, Documents]]:
        """Yield (run, row of the first, records) of documents `start` to `stop`, some at a time."""
        for begin in range(start, stop, AT_ONCE):
            yield None, begin, self._records(np.arange(begin, min(begin + AT_ONCE, stop)))

    def _records(self, rows: NDArray[np.int64]) -> Documents:
        numbers = self.first + rows
        records = np.zeros(len(rows), DOCUMENT)
        keys = mix64(np.where(numbers % 10 == 0, _earlier(numbers), numbers).astype(np.uint64))
        records["key_hi"], records["key_lo"] = keys, mix64(keys)
        records["place_hi"] = records["drawn"] = keys
        records["tokens"], records["signed"] = 1000, self.n_hashes > 0
        records["id_start"], records["id_bytes"] = rows * ID_BYTES, ID_BYTES
        records["signature"] = rows
        return records

    def bucket(self, b: int, _: None, start: int, stop: int) -> NDArray[np.uint64]:
        """Return bucket `b` of the signatures of documents `start` to `stop`, shape (n,)."""
        return buckets_of(self._hashes(np.arange(start, stop))[:, b * HASHES : (b + 1) * HASHES], 1)[:, 0]

    def signatures(self, documents: Documents) -> NDArray[np.uint32]:
        """Return the signatures of `documents`, shape (n, buckets * hashes)."""
        return self._hashes(documents["signature"].astype(np.int64))

    def _hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        numbers = self.first + rows
        of = np.where(numbers % 10 < 2, _earlier(numbers), numbers).astype(np.uint64)
        at = of[:, None] * np.uint64(self.n_hashes) + np.arange(self.n_hashes, dtype=np.uint64)
        return mix64(at).astype(np.uint32)

    def texts(self, documents: Documents) -> bytes:
        """Return the ids of `documents` of this part, one after the other."""
        numbers = self.first + documents["id_start"] // ID_BYTES
        return b"".join([b"document %012d" % number for number in numbers.tolist()])


def _earlier(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a document before each, one that is no copy; the first ten have none and get themselves."""
    tens = np.maximum(numbers // 10, 1).astype(np.uint64)
    drawn = mix64(numbers.astype(np.uint64) ^ np.uint64(0x5DEECE66D))
    some = (drawn % tens * np.uint64(10) + np.uint64(2) + (drawn >> np.uint64(32)) % np.uint64(8)).astype(np.int64)
    return np.where(numbers < 10, numbers, some)


def _run(steps: Sequence[PipelineStep], rank: int, tasks: int) -> None:
    for step in steps:
        for _ in step.run(rank=rank, world_size=tasks):
            pass


def _in_processes(step: str, actions: Sequence[Callable[[], None]]) -> dict[str, Any]:
    """Do each of `actions` in a process of its own, side by side; return seconds, those of the CPU of all and of the
    one that took most, and the most memory that one of them took beyond what it began with."""
    before, start = _anonymous(), time.perf_counter()
    alive = {_started(action) for action in actions}
    cpu, most = [], before
    while alive:
        process, status, usage = os.wait4(-1, os.WNOHANG)
        if process:
            alive.remove(process)
            assert status == 0, f"{step} failed"
            cpu.append(usage.ru_utime + usage.ru_stime)
        else:
            most = max([most, *map(_anonymous, alive)])
            time.sleep(0.01)
    figures = {"seconds": time.perf_counter() - start, "cpu_seconds": sum(cpu), "longest_cpu_seconds": max(cpu)}
    rounded = {name: round(value, 2) for name, value in figures.items()}
    return _shown({"step": step, **rounded, "grown_mib": round((most - before) / 1024)})


def _started(action: Callable[[], None]) -> int:
    """Return the number of a process that does `action`."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        action()
        status = 0
    finally:
        os._exit(status)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    print(
        f"{row['step']:30s} {row['seconds']:8.2f} s, of CPU {row['cpu_seconds']:8.2f} s in all and "
        f"{row['longest_cpu_seconds']:8.2f} s in one process, {row['grown_mib']:6d} MiB",
        flush=True,
    )
    return row


def _write_parts(work: Path, tasks: int, partitions: int) -> None:
    """Write one part as a task does, and its files again for every other."""
    writer = PartWriter(str(work / "parts" / "part-00000"), "uint16", partitions, 0, 0, 1 << 20)
    records = np.zeros(10, DOCUMENT)
    records["place_hi"] = np.arange(10, dtype=np.uint64) << np.uint64(60)
    records["tokens"] = 1
    no_signatures = np.zeros((10, 0), np.uint32)
    writer.add(Batch(records, b"", np.zeros(10, np.uint16), no_signatures, buckets_of(no_signatures, 0)))
    writer.close(COUNTS)
    first = work / "parts" / "part-00000"
    data = {
        path.name: path.read_bytes()
        for path in first.iterdir()
        if path.name in ("part.json", "documents.bin", "cuts.bin")
    }
    for rank in range(1, tasks):
        folder = work / "parts" / f"part-{rank:05d}"
        folder.mkdir()
        for name, content in data.items():
            (folder / name).write_bytes(content)


def _measured(step: str, action: Callable[[], Any]) -> dict[str, Any]:
    done = threading.Event()
    most = before = _anonymous()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    grown = max(most, _anonymous()) - before
    print(f"{step:70s} {seconds:8.2f} s  {grown / 1024:8.0f} MiB", flush=True)
    return {"step": step, "seconds": round(seconds, 3), "grown_mib": round(grown / 1024)}


def _anonymous(process: int | str = "self") -> int:
    """Return a process's memory in KiB, without files that are mapped."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
