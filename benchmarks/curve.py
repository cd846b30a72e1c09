"""A curve's mixture of 20 buckets: how long a batch of ids takes, `python -m epochal.benchmarks.curve`.

Writes benchmarks/results/curve.json and prints a line for each batch size: the median over batches at random positions
of a 100B-token run (samples of 2048) in which 20 sources are read for 0.5 to 7 passes each, and the slowest of them.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

from epochal.benchmarks.common import machine, result_path, write_result
from epochal.shards.order.mixture import Mixture, Source
from epochal.shards.order.plan import Plan
from epochal.shards.order.windows import Stage

SEQ_LEN, BUCKETS, TOTAL = 2048, 20, 100_000_000_000
BATCHES = (256, 1024)


def curve_mixture() -> Mixture:
    """Return the mixture of 20 buckets of equal size, the lowest for half a pass, the best for seven."""
    passes = np.linspace(0.5, 7, BUCKETS)
    size = int(TOTAL / passes.sum()) // SEQ_LEN * SEQ_LEN
    plans = [
        Plan(f"{i:032x}", size // SEQ_LEN, size, SEQ_LEN, int(p * size), seed=1) for i, p in enumerate(passes.tolist())
    ]
    shares = tuple(plan.positions for plan in plans)
    sources = tuple(Source(f"quality-q{i:02}", plan) for i, plan in enumerate(plans))
    return Mixture(sources, (Stage(sum(shares), shares),), 1000, 1)


def timed(mixture: Mixture, batch: int, repeats: int) -> dict[str, Any]:
    """Return the times of batches at random positions, in milliseconds; `cpu_ms` is the processor's time, the mean."""
    starts = np.random.default_rng(0).integers(0, mixture.positions - batch, repeats)
    took = []
    before = time.process_time()
    for start in starts.tolist():
        begin = time.perf_counter()
        mixture.ids(range(start, start + batch))
        took.append(1000 * (time.perf_counter() - begin))
    cpu = 1000 * (time.process_time() - before) / repeats
    quantiles = {"median_ms": statistics.median(took), "p99_ms": float(np.quantile(took, 0.99))}
    return {"batch": batch, **quantiles, "cpu_ms": cpu}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="batches of each size (default 2000)")
    args = parser.parse_args(arguments)
    mixture = curve_mixture()
    timed(mixture, 256, 50)  # warm
    rows = [timed(mixture, batch, args.repeats) for batch in BATCHES]
    for row in rows:
        said = f"median {row['median_ms']:.2f} ms, 99 % {row['p99_ms']:.2f} ms, processor {row['cpu_ms']:.2f} ms"
        print(f"{row['batch']:>5} ids of {BUCKETS} buckets: {said}")
    write_result(result_path("curve"), {"machine": machine(), "positions": mixture.positions, "rows": rows})


if __name__ == "__main__":
    main()
