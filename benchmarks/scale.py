"""The bookkeeping of a build of very many tasks, simulated: `python -m epochal.benchmarks.scale [--tasks 100000]`.

What grows with tasks, partitions and runs, and not with the text in them: lists of input files in every task's
pipeline, marks of finished tasks, part.json of every part with its cuts, the tasks' counts, lists of shards. Written
to a scratch folder as a build would, then read with the build's own functions; documents are not there. Then what grows
with documents: --documents of them, a tenth with copies, without text, ids or signatures, matched by key and clustered.
Prints seconds and the most memory, files that are mapped left out, that each step took; writes
benchmarks/results/scale.json.
"""

import argparse
import json
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.executor.local import LocalPipelineExecutor

from epochal.benchmarks.common import result_path, write_result
from epochal.datapipe import external_sort
from epochal.datapipe.sources.base import InputFile, Listing
from epochal.datapipe.stages.cluster import TRAIN, Corpus, remove_duplicates
from epochal.datapipe.stages.ingest import COUNTS as INGEST_COUNTS
from epochal.datapipe.stages.match import links, open_parts
from epochal.datapipe.stages.pack import (
    ROWS_NAME,
    PoolLayout,
    WrittenShard,
    _Share,
    read_shard_lists,
    write_cuts,
    write_fates,
)
from epochal.datapipe.stages.parts import DOCUMENT, Batch, PartWriter
from epochal.datapipe.stages.statistics import ingest_totals
from epochal.datapipe.stages.validation import draw_validation

COUNTS: dict[str, Any] = {"rows": {"s": 10}, "accepted": {"s": 10}, "rejected": {}, "filters": [], "excerpts": []}
COUNTS |= {"first_rejects": {}, "left_out": []} | dict.fromkeys(INGEST_COUNTS, 0) | {"text_bytes": 10}


def main() -> None:
    """Simulate and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 64], help="powers of two")
    parser.add_argument("--documents", type=int, default=20_000_000)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for in_memory in (1 << 22, external_sort.IN_MEMORY):
        external_sort.IN_MEMORY = in_memory
        folder = Path(tempfile.mkdtemp(prefix="epochal-scale-"))
        try:
            rows += [
                {"documents": arguments.documents, "in_memory": in_memory, **row}
                for row in _documents(folder, arguments.documents)
            ]
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
    write_fates(str(work), np.ones(documents, np.uint8))
    yield _measured("their cuts put into one file", lambda: write_cuts(str(work), opened))
    per_partition = 10**13 // partitions
    layout = PoolLayout(str(work), 1, [per_partition] * partitions, 2048, "uint16", 0, 1 << 14)
    last = layout.n_shards
    yield _measured("a packing task finds its runs", lambda: _Share(layout, opened, str(work), last - 1, last))
    share = _Share(layout, opened, str(work), last - 1, last)
    yield _measured("its records of one partition read", lambda: share._documents(partitions - 1))
    (work / ROWS_NAME).mkdir()
    for rank in range(tasks):
        ours = range(layout.n_shards * rank // tasks, layout.n_shards * (rank + 1) // tasks)
        shards = [asdict(WrittenShard(n, 1 << 14, 1 << 26, "0" * 16, "0" * 64)) for n in ours]
        (work / ROWS_NAME / f"{rank:05d}.json").write_text(json.dumps(shards))
    yield _measured(f"lists of {layout.n_shards:,} shards read", lambda: read_shard_lists(str(work)))


def _documents(work: Path, n: int, per_part: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """Write parts of records with random keys, one in ten a copy of an earlier one, and match and cluster them."""
    rng = np.random.default_rng(0)
    earlier = np.zeros(0, np.uint64)
    for rank in range(-(-n // per_part)):
        records = np.zeros(min(per_part, n - rank * per_part), DOCUMENT)
        keys = rng.integers(0, 1 << 64, len(records), np.uint64)
        if rank:
            keys[::10] = rng.choice(earlier, len(keys[::10]))
        earlier = keys
        records["key_hi"] = records["key_lo"] = records["place_hi"] = records["drawn"] = np.sort(keys)
        records["tokens"] = 1000
        writer = PartWriter(str(work / "parts" / f"part-{rank:05d}"), "uint16", 64, 0, 0, 1 << 40)
        no_tokens = [np.zeros(0, np.uint16)] * len(records)
        writer.add(Batch(records, [b""] * len(records), no_tokens, np.zeros((len(records), 0), np.uint32)))
        writer.close(COUNTS)
    parts = open_parts(str(work))
    edges = work / "edges.bin"

    def match() -> None:
        with open(edges, "wb") as f:
            for some in links(parts, 0):
                f.write(some.tobytes())

    def read() -> Iterator[Any]:
        with open(edges, "rb") as f:
            while data := f.read(1 << 26):
                yield np.frombuffer(data, np.int64).reshape(-1, 2)

    name = f"{n:,} documents, ranges of {external_sort.IN_MEMORY:,}"
    yield _measured(f"{name}: exact duplicates", match)
    corpus = Corpus(parts, ["s"])
    fates = external_sort.array_on_disk((n,), np.uint8)
    fates[:] = TRAIN
    path = str(work / "duplicates.parquet")
    yield _measured(f"{name}: clusters", lambda: remove_duplicates(corpus, read(), fates, path, 0))
    yield _measured(f"{name}: validation drawn", lambda: draw_validation(corpus, fates, n))


def _write_parts(work: Path, tasks: int, partitions: int) -> None:
    """Write one part as a task does, and its files again for every other."""
    writer = PartWriter(str(work / "parts" / "part-00000"), "uint16", partitions, 0, 0, 1 << 20)
    records = np.zeros(10, DOCUMENT)
    records["place_hi"] = np.arange(10, dtype=np.uint64) << np.uint64(60)
    records["tokens"] = 1
    writer.add(Batch(records, [b""] * 10, [np.zeros(1, np.uint16)] * 10, np.zeros((10, 0), np.uint32)))
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


def _anonymous() -> int:
    """Return this process's memory in KiB, without files that are mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
