"""A build against the stock stages, in one run on the same input: `python -m epochal.benchmarks.build`.

Stock: datatrove's reader, the four MinHash stages, DocumentTokenizer and its merger, then MDSWriter; `stock` with the
word tokenizer as it comes (English: spaCy), `plain` with a regular expression instead. Same 5-grams, 14 x 8 hashes,
tokenizer and samples. Every build is a process of its own, its start included; they take turns, ours before and after
each other one, and medians count. A small build of each goes before, so that no side's libraries are read from the disk
for the first time while it counts. The input is this environment's Python source, or --input FILE.jsonl. Checked: every
document that both keep has equal ids, and what only one side keeps is a near-duplicate that the other removed.

Writes benchmarks/results/build.json and prints tables. `ratio` is the stock stages' seconds / ours, on one core unless
left out. Beside other work, the ratio of CPU seconds, those of all processes of a build, says more.
"""

import argparse
import contextlib
import ctypes
import gc
import hashlib
import itertools
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from epochal.benchmarks.common import machine, result_path, write_result
from epochal.benchmarks.corpora import FILES, from_jsonl, normalised, python_source, write_input

SEQ_LEN, NGRAM, BUCKETS, HASHES = 2048, 5, 14, 8
CORES = {"one-core": 1, "two-cores": 2}


def build_ours(source: str, out: str, tasks: int) -> dict[str, float]:
    """Build with epochal's command; return seconds by stage."""
    from epochal.__main__ import main as command

    gc.disable()
    from epochal.datapipe import build as module

    gc.freeze()
    gc.enable()
    seconds: dict[str, float] = {}
    run_stage = module.run_stage

    def timed(work: str, stage: str, *rest: Any) -> None:
        start = time.perf_counter()
        run_stage(work, stage, *rest)
        seconds[stage] = time.perf_counter() - start

    module.run_stage = timed  # type: ignore[assignment]
    config = {"name": "p", "out": out, "sources": [{"name": "s", "path": source}], "seq_len": SEQ_LEN}
    more = {"tasks": tasks, "workers": tasks, "validation_tokens": 0}  # stock holds nothing out
    Path(f"{out}.json").write_text(json.dumps(config | more))
    if command(["build", f"{out}.json", "--quiet"]):
        raise SystemExit("the build failed")
    return seconds


def build_stock(source: str, out: str, tasks: int, plain: bool, seed: int = 1) -> dict[str, float]:
    """Build with the stock stages; return seconds by stage.

    Args:
        seed: of the signatures.
    """
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
    from datatrove.utils.word_tokenizers import WordTokenizer

    from epochal.tokenize import gpt2

    class Plain(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text)

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    os.makedirs(out)
    tokenizer = os.path.join(out, "tokenizer.json")
    Path(tokenizer).write_text(json.dumps(gpt2.tokenizer_json()))
    config = minhash.MinhashConfig(n_grams=NGRAM, num_buckets=BUCKETS, hashes_per_bucket=HASHES, seed=seed)
    language = {"language": Plain()} if plain else {}
    reader = JsonlReader(source)
    stages: dict[str, tuple[list[Any], int]] = {
        "signatures": ([reader, minhash.MinhashDedupSignature(f"{out}/sigs", config, **language)], tasks),
        "buckets": ([minhash.MinhashDedupBuckets(f"{out}/sigs", f"{out}/buckets", config=config)], BUCKETS),
        "clusters": ([minhash.MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], 1),
        "filter and tokenize": (
            [
                reader,
                minhash.MinhashDedupFilter(f"{out}/remove"),
                DocumentTokenizer(f"{out}/tokens", tokenizer, eos_token="<|endoftext|>", seed=0),
            ],
            tasks,
        ),
        "merge": ([DocumentTokenizerMerger(f"{out}/tokens", f"{out}/merged", "all", seed=0, progress=False)], 1),
    }
    seconds = {}
    for name, (pipeline, count) in stages.items():
        start = time.perf_counter()
        LocalPipelineExecutor(pipeline, tasks=count, workers=min(count, tasks), logging_dir=f"{out}/logs/{name}").run()
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    _to_mds(f"{out}/merged/000_all.ds", f"{out}/mds")
    return seconds | {"MDS": time.perf_counter() - start}


def _to_mds(tokens_path: str, out: str) -> None:
    from streaming import MDSWriter

    tokens = np.memmap(tokens_path, np.uint16, "r")
    with MDSWriter(out=out, columns={"tokens": f"ndarray:uint16:{SEQ_LEN}"}, hashes=["xxh64"]) as writer:
        for start in range(0, len(tokens) - SEQ_LEN + 1, SEQ_LEN):
            writer.write({"tokens": np.asarray(tokens[start : start + SEQ_LEN])})


def child(kind: str, source: str, out: str, tasks: int) -> None:
    """Run one build in this process and print what it took."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:tasks])
    stages = build_ours(source, out, tasks) if kind == "ours" else build_stock(source, out, tasks, kind == "plain")
    # Not getrusage's: a process inherits the peak of the one that started it.
    peak, written = _number("/proc/self/status", "VmHWM"), _number("/proc/self/io", "wchar")
    print(json.dumps({"stages": stages, "peak_bytes": peak << 10, "written_bytes": written}))


def _number(path: str, name: str) -> int:
    """Return the number in the line of a file under /proc that begins with `name`."""
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(name))


def run_child(kind: str, source: Path, out: Path, tasks: int) -> dict[str, Any]:
    """Run one build in a process of its own; return its seconds, start included, and those of CPU, and its report."""
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling every import anew would be measured, on both sides
    arguments = ["--child", kind, "--input", str(source), "--out", str(out), "--tasks", str(tasks)]
    os.sync()  # what the build before has written is not for this one to wait for
    start, cpu = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "epochal.benchmarks.build", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = {"seconds": time.perf_counter() - start}
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()  # a server that tasks were forked from outlives its build a little
    seconds["cpu_seconds"] = _cpu_of_children() - cpu
    if done.returncode:
        raise SystemExit(f"build '{kind}' failed: {done.stderr.strip().splitlines()[-1]}")
    return seconds | json.loads(done.stdout.splitlines()[-1])


def _adopt_orphans() -> None:
    """Have processes that outlive their parent become children of this one, whose CPU seconds count (Linux)."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_SET_CHILD_SUBREAPER = 36


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(source: Path, ours: Path, stock: Path) -> dict[str, int]:
    """Compare two finished builds document by document.

    Raises:
        SystemExit: unless every document in either has the ids of the reference, Hugging Face `tokenizers`, and every
            document that only the stock build kept is in our table of duplicates.
    """
    import pyarrow.parquet as pq

    from epochal.shards.artifact import open_artifact
    from epochal.tokenize.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("gpt2", fast=False)
    lines = [line for i in range(FILES) for line in (source / f"{i}.jsonl").read_text(encoding="utf-8").split("\n")]
    rows = [json.loads(line) for line in lines if line]
    encoded = {
        row["id"]: _digest(ids) for row, ids in zip(rows, tokenizer.encode([r["text"] for r in rows]), strict=True)
    }
    kept: dict[bytes, int] = {}
    for pool in (ours / "pools").glob("p*"):  # p, and p-val: what is held out for validation is kept too
        artifact = open_artifact(str(pool))
        stream = np.concatenate([_shard_tokens(shard.path) for shard in artifact.shards])[: artifact.manifest.tokens]
        kept |= _documents(stream, tokenizer.info.eod)
    theirs = _documents(np.fromfile(stock / "merged" / "000_all.ds", np.uint16), tokenizer.info.eod)
    removed = {encoded[i] for i in pq.read_table(ours / "pools" / "p" / "duplicates.parquet")["id"].to_pylist()}
    if not (set(kept) | set(theirs)) <= set(encoded.values()):
        raise SystemExit("a document's ids are not the reference's")
    if not set(theirs) - set(kept) <= removed or not set(encoded.values()) - set(kept) <= removed:
        raise SystemExit("a document is missing from our pool and from its table of duplicates")
    return {
        "documents": len(rows),
        "documents kept by ours": len(kept),
        "documents kept by stock": len(theirs),
        "documents kept by both": len(set(kept) & set(theirs)),
        "tokens of ours": sum(kept.values()),
        "tokens of stock": sum(theirs.values()),
    }


def _digest(ids: Any) -> bytes:
    return hashlib.blake2b(np.asarray(ids, np.uint16).tobytes(), digest_size=16).digest()


def _shard_tokens(path: str) -> Any:
    from epochal.shards import mds

    with open(path, "rb") as f:
        return mds.decode_shard(f.read(), SEQ_LEN, "uint16").reshape(-1)


def _documents(stream: Any, eod: int) -> dict[bytes, int]:
    """Return the digest of each document's ids in a stream -> its tokens, EOD included."""
    ends = np.flatnonzero(stream == eod)
    return {_digest(stream[a:b]): int(b - a) + 1 for a, b in zip(np.append(-1, ends[:-1]) + 1, ends, strict=True)}


def measure(source: Path, folder: Path, size: int, kinds: list[str], tasks: int, runs: int) -> dict[str, Any]:
    """Run the builds in turn, `runs` times each, ours before and after each other; return the medians and what came."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    # Ours takes seconds where a stock build takes minutes, in which a virtual machine may change its speed.
    for kind in [kind for _ in range(runs) for stock in kinds[1:] for kind in ("ours", stock)] + ["ours"]:
        found[kind].append(run_child(kind, source, folder / kind, tasks))
        print(f"  {kind}, {tasks} cores: {found[kind][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    table: dict[str, Any] = {}
    for kind, results in found.items():
        seconds = statistics.median(r["seconds"] for r in results)
        stages = {name: statistics.median(r["stages"][name] for r in results) for name in results[0]["stages"]}
        stages["start and the rest"] = seconds - sum(stages.values())
        table[kind] = {
            "seconds": seconds,
            "all_seconds": [r["seconds"] for r in results],
            "cpu_seconds": statistics.median(r["cpu_seconds"] for r in results),
            "MB_per_second_and_core": size / 1e6 / seconds / tasks,
            "stages": stages,
        }
        if tasks == 1:  # with more, most is written by processes that are gone
            table[kind] |= {key: results[-1][key] for key in ("peak_bytes", "written_bytes")}
    for kind in kinds[1:]:
        table[kind]["ratio"] = table[kind]["seconds"] / table["ours"]["seconds"]
        table[kind]["cpu_ratio"] = table[kind]["cpu_seconds"] / table["ours"]["cpu_seconds"]
        if tasks == 1:  # of ours, any number of tasks gives the same bytes
            table[kind]["outputs"] = compare(source, folder / "ours", folder / kind)
    return table


def growth(sources: list[tuple[Path, int]], folder: Path, runs: int) -> dict[str, Any]:
    """Return seconds and peak memory of our build over inputs of growing size, and the exponents of growth."""
    rows = []
    for source, size in sources:
        results = [run_child("ours", source, folder / "growth", 1) for _ in range(runs)]
        rows.append(
            {
                "bytes": size,
                "seconds": statistics.median(r["seconds"] for r in results),
                "peak_bytes": max(r["peak_bytes"] for r in results),
            }
        )
        print(f"  ours, {size / 1e6:.0f} MB: {rows[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    steps = math.log(rows[-1]["bytes"] / rows[0]["bytes"])
    return {
        "rows": rows,
        "time_exponent": math.log(rows[-1]["seconds"] / rows[0]["seconds"]) / steps,
        "memory_exponent": math.log(rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]) / steps,
    }


def pathological(folder: Path, scale: int) -> dict[str, Any]:
    """Build from inputs that have brought other pipelines down, at two sizes; return seconds and memory of each."""
    source = "\n".join(document["text"] for document in python_source(50)).encode("ascii", "ignore").decode()
    kinds: dict[str, Callable[[int], Iterator[str]]] = {
        "identical documents": lambda n: itertools.repeat("the very same few words, in every document there is", n),
        "documents of one word": lambda n: (f"w{i}" for i in range(n)),
        "one giant cluster": lambda n: (f"{_SENTENCE} {i} {_SENTENCE}" for i in range(n)),
        "one long document": lambda n: iter([(source * (n * 1000 // len(source) + 1))[: n * 1000]]),
        "one document without white space": lambda n: iter(["abcdefgh" * n]),
    }
    table: dict[str, Any] = {}
    for name, texts in kinds.items():
        rows = []
        for n in (scale // 4, scale):
            shutil.rmtree(folder / "pathological", ignore_errors=True)
            documents = ({"text": text, "id": str(i)} for i, text in enumerate(texts(n)))
            size = write_input(documents, folder / "pathological")
            rows.append({"bytes": size, **run_child("ours", folder / "pathological", folder / "growth", 1)})
            print(f"  {name}, {n:,}: {rows[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
        table[name] = {
            "rows": [{key: row[key] for key in ("bytes", "seconds", "peak_bytes")} for row in rows],
            "time_exponent": math.log(rows[1]["seconds"] / rows[0]["seconds"]) / math.log(4),
        }
    return table


_SENTENCE = "all these documents are one another's near-duplicate, since but a number in the middle of each is its own"


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=128, help="MB of Python source to build from")
    parser.add_argument("--input", type=Path, help="build from this JSONL instead")
    parser.add_argument("--runs", type=int, default=3, help="runs of each build")
    parser.add_argument("--skip", nargs="*", default=[], choices=["stock", "plain", *CORES, "growth"])
    parser.add_argument(
        "--pathological", type=int, metavar="N", help="also build from N of each awkward document, and from one of N kB"
    )
    parser.add_argument("--child", choices=["ours", "stock", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, str(args.input), args.out, args.tasks)
        return
    _adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="epochal-build-"))
    kinds = ["ours", *(kind for kind in ("plain", "stock") if kind not in args.skip)]
    result: dict[str, Any] = {"machine": machine()}
    try:
        size = write_input(normalised(from_jsonl(args.input) if args.input else python_source(args.mb)), folder / "in")
        result |= {"bytes": size, "input": args.input.name if args.input else "Python source"}
        write_input(normalised(python_source(0.5)), folder / "small")
        for kind in kinds:  # a first start compiles and reads from the disk what each side imports
            run_child(kind, folder / "small", folder / kind, 1)
        for tasks in [tasks for name, tasks in CORES.items() if name not in args.skip]:
            result[f"{tasks} core{'s' * (tasks > 1)}"] = measure(folder / "in", folder, size, kinds, tasks, args.runs)
        if "growth" not in args.skip and not args.input:
            sizes = [args.mb / 8, args.mb / 2, args.mb * 2]
            inputs = [folder / f"in-{mb:g}" for mb in sizes]
            sources = [
                (path, write_input(normalised(python_source(mb)), path)) for path, mb in zip(inputs, sizes, strict=True)
            ]
            result["growth"] = growth(sources, folder, args.runs)
        if args.pathological:
            result["pathological"] = pathological(folder, args.pathological)
    finally:
        shutil.rmtree(folder)
    first: dict[str, Any] = next((result[name] for name in ("1 core", "2 cores") if name in result), {})
    result["ratio"] = next((first[kind]["ratio"] for kind in ("stock", "plain") if kind in first), None)
    write_result(result_path("build"), result)
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    print(f"{result['machine']}; {result['bytes'] / 1e6:.0f} MB, {result['input']}")
    for cores in (name for name in result if name.endswith(("core", "cores"))):
        print(f"\n| {cores} | seconds | MB/s per core | ratio | CPU seconds | ratio | peak memory | written |")
        print("|---|---|---|---|---|---|---|---|")
        for kind, row in result[cores].items():
            more = [f"{row[k] / 1e6:,.0f} MB" if k in row else "" for k in ("peak_bytes", "written_bytes")]
            ratio, cpu_ratio = (f"{row[k]:.1f}" if k in row else "1" for k in ("ratio", "cpu_ratio"))
            speed = row["MB_per_second_and_core"]
            cpu = f"{row['cpu_seconds']:.1f} | {cpu_ratio}"
            seconds = f"{row['seconds']:.1f} ({min(row['all_seconds']):.1f} to {max(row['all_seconds']):.1f})"
            print(f"| {kind} | {seconds} | {speed:.2f} | {ratio} | {cpu} | {more[0]} | {more[1]} |")
        print("\n| stage | seconds |\n|---|---|")
        for kind, row in result[cores].items():
            for stage, seconds in row["stages"].items():
                print(f"| {kind}: {stage} | {seconds:.2f} |")
        for kind, row in result[cores].items():
            for name, n in row.get("outputs", {}).items():
                print(f"{kind}: {n:,} {name}")
    if "growth" in result:
        print("\n| input | seconds | peak memory |\n|---|---|---|")
        for row in result["growth"]["rows"]:
            print(f"| {row['bytes'] / 1e6:.0f} MB | {row['seconds']:.1f} | {row['peak_bytes'] / 1e6:,.0f} MB |")
        print(f"time grows as input^{result['growth']['time_exponent']:.2f}", end=", ")
        print(f"memory as input^{result['growth']['memory_exponent']:.2f}")
    if "pathological" in result:
        print("\n| input | size | seconds | peak memory | exponent of time |\n|---|---|---|---|---|")
        for name, entry in result["pathological"].items():
            row = entry["rows"][1]
            size, memory = (f"{row[key] / 1e6:,.0f} MB" for key in ("bytes", "peak_bytes"))
            print(f"| {name} | {size} | {row['seconds']:.1f} | {memory} | {entry['time_exponent']:.2f} |")


if __name__ == "__main__":
    main()
