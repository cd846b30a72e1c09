"""RepeatedDataset against stock StreamingDataset and others, in one run: `python -m epochal.benchmarks.loader`.

Writes benchmarks/results/loader.json and prints tables: samples/s in one process and through a DataLoader with 0 and
2 workers; time from construction to the first batch at 0 % and at 95 % of a 480-epoch run; time and memory to know an
epoch's order. `ratio` is ours / stock samples/s in one process. All read the same tokens, in random order, warm; Grain
and LitData (`uv pip install litdata`) where they are installed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from epochal.benchmarks.common import machine, random_pool, result_path, write_result
from epochal.benchmarks.rivals.loaders import RIVALS, Maker, rivals
from epochal.shards.artifact import open_artifact
from epochal.shards.loader.sample_reader import read_shard
from epochal.shards.order.plan import Plan

SEQ_LEN, BATCH, EPOCHS = 2048, 32, 480


def ours(pool: str, position: int = 0, **options: Any) -> Any:
    """Return our dataset at a position of a 480-epoch run."""
    from epochal.shards.loader.dataset import RepeatedDataset

    manifest = open_artifact(pool).manifest
    plan = Plan.for_artifact(manifest, EPOCHS * manifest.tokens, 1)
    dataset = RepeatedDataset(pool, plan, global_batch=BATCH, **options)
    dataset.load_state_dict(dataset.state_dict(position, True))
    return dataset


def stock(pool: str, position: int = 0) -> Any:
    """Return the stock dataset at the same position: its epoch and the sample in it."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=pool, batch_size=BATCH, shuffle=True, shuffle_algo="py1e", num_canonical_nodes=1)
    n = dataset.size
    epoch, sample = divmod(position, n)
    state = {"epoch": epoch, "sample_in_epoch": sample, "num_canonical_nodes": 1, "shuffle_seed": 9176}
    dataset.load_state_dict(state | {"initial_physical_nodes": 1})
    return dataset


def rate(items: Iterable[Any], samples_each: int, n_samples: int) -> float:
    """Return samples/s over `n_samples`, the first batch's worth not counted."""
    iterator = iter(items)
    for _ in range(max(1, BATCH // samples_each)):
        next(iterator)
    start, seen = time.perf_counter(), 0
    for _ in iterator:
        seen += samples_each
        if seen >= n_samples:
            break
    return seen / (time.perf_counter() - start)


def throughput(pool: str, n_samples: int, others: dict[str, Maker]) -> dict[str, dict[str, float]]:
    """Return samples/s of ours, of stock and of `others`, by way of reading, each warm: all shards were read before."""
    from torch.utils.data import DataLoader

    fast, batched = ours(pool), ours(pool, batched=True)
    for dataset in (fast, batched):
        dataset._reader.read(np.cumsum(dataset.samples_per_shard) - 1)  # opens, and so hashes, every shard
    found: dict[str, dict[str, float]] = {}
    for name, make_ours, workers in (
        ("one process, samples", lambda: fast, None),
        ("DataLoader, 0 workers", lambda: fast.loader(0), 0),
        ("DataLoader, 2 workers", lambda: fast.loader(2), 2),
        ("batched, 0 workers", lambda: batched.loader(0), 0),
        ("batched, 2 workers", lambda: batched.loader(2), 2),
    ):
        makers: dict[str, Callable[[], Iterable[Any]]] = {"ours": make_ours}
        if workers is None:
            makers["stock"] = lambda: stock(pool)
        else:
            makers["stock"] = lambda: DataLoader(stock(pool), BATCH, num_workers=workers)  # noqa: B023
            makers |= {who: partial(make, workers) for who, make in others.items()}
        best = dict.fromkeys(makers, 0.0)
        for _ in range(3):  # in turns, so that a busy machine is unfair to all
            for who, make in makers.items():
                best[who] = max(best[who], rate(make(), 1 if workers is None else BATCH, n_samples))
        fastest = max(rate for who, rate in best.items() if who != "ours")
        found[name] = best | {"ratio": best["ours"] / best["stock"], "ratio_fastest": best["ours"] / fastest}
    return found


def first_batch(pool: str, n_samples: int) -> dict[str, dict[str, float]]:
    """Return seconds from construction to the first batch at 0 % and 95 % of the run, the best of twelve in turns."""
    from torch.utils.data import DataLoader

    late = int(0.95 * EPOCHS * n_samples) // BATCH * BATCH

    def seconds(make: Callable[[], Iterable[Any]]) -> float:
        start = time.perf_counter()
        next(iter(make()))
        return time.perf_counter() - start

    makers: dict[str, Callable[[int], Iterable[Any]]] = {
        "ours": lambda p: ours(pool, p).loader(),
        "stock": lambda p: DataLoader(stock(pool, p), BATCH),
    }
    found: dict[str, dict[str, float]] = {"0 %": {}, "95 %": {}, "95 % / 0 %": {}}
    for who, make in makers.items():
        times = [(seconds(lambda: make(0)), seconds(lambda: make(late))) for _ in range(12)]  # noqa: B023
        found["0 %"][who], found["95 %"][who] = (min(column) for column in zip(*times, strict=True))
        found["95 % / 0 %"][who] = found["95 %"][who] / found["0 %"][who]
    return found


ORDER = """
import resource, sys, time
import numpy as np
n, who = int(sys.argv[1]), sys.argv[2]
if who == "ours":
    from epochal.shards.order.plan import Plan
    plan = Plan("0" * 32, n, n * 2048, 2048, 480 * n * 2048)
    plan.ids([0])
    def work():
        for i in range(0, n, 2**16):
            plan.ids(range(i, min(i + 2**16, n)))
else:
    from streaming.base.shuffle.py1e import get_shuffle_py1e
    sizes = np.full(n // 16384 + 1, 16384)
    sizes[-1] = n % 16384 or 16384
    work = lambda: get_shuffle_py1e(sizes[: -(-n // 16384)], 1, 9176, 3, 1 << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
work()
seconds = time.perf_counter() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def epoch_order(sizes: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return seconds and bytes to go once through an epoch's order, and ours to its first 1000 positions."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in sizes:
        found[f"{n:.0e}"] = {}
        for who in ("ours", "stock"):
            words = [sys.executable, "-c", ORDER, str(n), who]
            seconds, memory = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
            found[f"{n:.0e}"][who] = {"seconds": float(seconds), "bytes": float(memory)}
        plan = Plan("0" * 32, n, n * SEQ_LEN, SEQ_LEN, EPOCHS * n * SEQ_LEN)
        start = time.perf_counter()
        plan.ids(range(plan.positions // 2, plan.positions // 2 + 1000))
        found[f"{n:.0e}"]["ours"]["seconds_first_1000"] = time.perf_counter() - start
    return found


def _flat(pool: str, path: Path) -> None:
    """Write the tokens of a pool one after another, uint16."""
    artifact = open_artifact(pool)
    with path.open("wb") as file:
        for shard in artifact.shards:
            file.write(read_shard(shard, artifact.manifest).tobytes())


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="samples of the pool (4 kB each)")
    parser.add_argument("--largest", type=int, default=10**8, help="samples of the largest epoch whose order is timed")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="epochal-loader-"))
    try:
        pool = random_pool(folder, args.samples, 2000, SEQ_LEN, document_tokens=50_257)
        result: dict[str, Any] = {"machine": machine(), "samples": args.samples, "seq_len": SEQ_LEN, "batch": BATCH}
        _flat(pool, tokens := folder / "tokens.bin")
        others, result["not_installed"] = rivals(tokens, folder, SEQ_LEN, BATCH)
        result["samples_per_second"] = throughput(pool, args.samples // 2, others)
        result["first_batch_seconds"] = first_batch(pool, args.samples)
        result["epoch_order"] = epoch_order([n for n in (10**6, 10**7, 10**8) if n <= args.largest])
    finally:
        shutil.rmtree(folder)
    result["ratio"] = result["samples_per_second"]["one process, samples"]["ratio"]
    write_result(result_path("loader"), result)
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    print(f"{result['machine']}; {result['samples']} samples of {SEQ_LEN} tokens, batch {BATCH}\n")
    names = [name for name in ("ours", "stock", *RIVALS) if name not in result["not_installed"]]
    print(f"| samples/s | {' | '.join(names)} | to stock | to the fastest |\n|{'---|' * (len(names) + 3)}")
    for name, row in result["samples_per_second"].items():
        rates = " | ".join(f"{row[who]:,.0f}" if who in row else "" for who in names)
        print(f"| {name} | {rates} | {row['ratio']:.1f} | {row['ratio_fastest']:.1f} |")
    if result["not_installed"]:
        print(f"\nnot installed, so not measured: {', '.join(result['not_installed'])}")
    print("\n| construction to first batch | ours | stock |\n|---|---|---|")
    for name, row in result["first_batch_seconds"].items():
        unit, scale = ("", 1) if "/" in name else (" ms", 1000)
        print(f"| {name} | {row['ours'] * scale:.2f}{unit} | {row['stock'] * scale:.2f}{unit} |")
    print("\n| an epoch's order | ours, whole | ours, any 1000 | ours, memory | stock | stock, memory |")
    print("|---|---|---|---|---|---|")
    for name, row in result["epoch_order"].items():
        a, b = row["ours"], row["stock"]
        print(
            f"| {name} samples | {a['seconds']:.2f} s | {a['seconds_first_1000'] * 1000:.1f} ms | "
            f"{a['bytes'] / 1e6:.0f} MB | {b['seconds']:.2f} s | {b['bytes'] / 1e6:,.0f} MB |"
        )


if __name__ == "__main__":
    main()
