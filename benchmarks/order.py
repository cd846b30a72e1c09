"""Orders that are amended or packed anew every pass: ids per second, and time and memory of a pass' table.

    python -m epochal.benchmarks.order [--documents 10000000]

Each case has a process of its own, so that its peak of memory is its own; times are of CPU, on one core. What is
measured: `ids` of a range and of positions here and there, of plans with skips too; making the table of a pass from
documents of log-normal lengths (median 500 tokens); finding the documents of a batch of 256 samples in it.
"""

import argparse
import os
import subprocess
import sys
from typing import Any

from .common import machine, result_path, write_result

BATCH, SEQ_LEN, BEST_OF = 256, 2048, 2

TABLE = """
import sys, time, tracemalloc
import numpy as np
from epochal.shards.order.packing import Packing
from epochal.shards.order.plan import Plan
d = int(sys.argv[1])
lengths = np.random.default_rng(0).lognormal(6.2, 1.2, d).astype(np.int64) + 1
edges = np.concatenate([[0], np.cumsum(lengths)])
del lengths
n = int(edges[-1])
plan = Plan("0" * 32, -(-n // 2048), n, 2048, 4 * n, 1, "repack")
packing = Packing(plan, edges)
plan.ids(range(1))
start = time.process_time()
packing.slots(0)
table = time.process_time() - start
tracemalloc.start()
packing.slots(1)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
times = []
for i in range(50):
    positions = range(i * 256, (i + 1) * 256)
    start = time.process_time()
    pieces = packing.pieces(np.zeros(256, np.int64), plan.ids(positions))
    times.append(time.process_time() - start)
held = packing.slots(0).documents.nbytes + packing.slots(0).ends.nbytes
print(table, peak, held, edges.nbytes, min(times), len(pieces.start))
"""

IDS = """
import sys, time
import numpy as np
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.plan import Plan
policy, skips = sys.argv[1], int(sys.argv[2])
n = 10**6
order = Plan("0" * 32, n, n * 2048, 2048, 40 * n * 2048, 1, policy)
order = amend(order, [[a, a + 500] for a in range(10_000, 10_000 + skips * 30_000, 30_000)])
order.ids(range(1000))
ranges, spread = [], []
for i in range(5):
    start = time.process_time()
    order.ids(range(i * 2**20, (i + 1) * 2**20))
    ranges.append(time.process_time() - start)
    positions = np.random.default_rng(i).integers(0, 10 * n, 2**18)
    start = time.process_time()
    order.ids(positions)
    spread.append(time.process_time() - start)
print(2**20 / min(ranges), 2**18 / min(spread))
"""


def run(program: str, *words: object) -> list[float]:
    """Return the numbers that a program prints, which has one core to itself."""
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-c", program, *map(str, words)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | alone).stdout
    return [float(word) for word in text.split()]


def table(documents: int) -> dict[str, float]:
    """Return what the table of a pass of so many documents costs: the best of some tries."""
    tries = [run(TABLE, documents) for _ in range(BEST_OF)]
    seconds, peak, held, edges, batch, pieces = min(tries)
    return {
        "documents": documents,
        "seconds": seconds,
        "peak_bytes": peak,
        "table_bytes": held,
        "edges_bytes": edges,
        "batch_seconds": batch,
        "batch_documents": pieces,
    }


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10**7, help="documents of the larger table")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "seq_len": SEQ_LEN, "batch": BATCH, "ids_per_second": {}}
    for policy, skips in (("reshuffle", 0), ("repack", 0), ("reshuffle", 1000), ("repack", 1000)):
        together, spread = run(IDS, policy, skips)
        name = f"{policy}, {skips} skips" if skips else policy
        result["ids_per_second"][name] = {"a range": together, "random positions of ten passes": spread}
    result["tables"] = [table(documents) for documents in (args.documents // 10, args.documents)]
    write_result(result_path("order"), result)
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    print(f"{result['machine']}\n\n| million ids/s of CPU | a range | random positions of ten passes |\n|---|---|---|")
    for name, row in result["ids_per_second"].items():
        print(f"| {name} | " + " | ".join(f"{value / 1e6:.1f}" for value in row.values()) + " |")
    print("\n| documents | table of a pass | its peak | kept | where documents begin | a batch of 256 samples |")
    print("|---|---|---|---|---|---|")
    for row in result["tables"]:
        sizes = " | ".join(f"{row[name] / 1e6:,.0f} MB" for name in ("peak_bytes", "table_bytes", "edges_bytes"))
        print(
            f"| {row['documents']:,} | {row['seconds']:.2f} s | {sizes} | {row['batch_seconds'] * 1000:.2f} ms for "
            f"{row['batch_documents']:,.0f} documents |"
        )


if __name__ == "__main__":
    main()
