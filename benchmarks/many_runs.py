"""The service with many runs: `python -m epochal.benchmarks.many_runs [--runs 10000] [--database postgresql://...]`.

Writes benchmarks/results/many_runs.json and prints a table. The runs are entered into the database as the service would
enter them, 100 of them live, all on plans of one pool; one has 100,000 reports, the others share --reports. Measured
are the requests that the page makes when it is opened, their bytes and the time of all of them together, and single
ones: a run with its curve, a page late in the list, an old run's lineage. `ratio` is the first view at all runs over
that at 100.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa

from epochal.benchmarks.common import machine, result_path, write_result
from epochal.benchmarks.service import POLICIES, SEQ_LEN, make_pool, percentiles, plans, serve
from epochal.common.hashing import digest
from epochal.service.client.client import Client
from epochal.service.database import database_url
from epochal.service.models import Lease, Report, RunRow
from epochal.service.service import default_database
from epochal.shards.order.plan import Plan

FIRST_VIEW: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/", {}),
    ("/artifacts", {"limit": 100}),
    ("/runs", {"limit": 25}),
    ("/optouts", {"limit": 25}),
    ("/limits", {}),
    ("/lineage", {"limit": 30}),
    ("/plans", {"limit": 25}),
)
"""What service/page/page.js asks for when it is opened."""

LIVE, LONG_RUN, AT_ONCE = 100, 100_000, 20_000


def enter(database: sa.URL, orders: list[Plan], first: int, runs: int, reports: int) -> list[str]:
    """Enter runs `first` to `runs`, each with so many reports, the first of all with LONG_RUN; return their
    fingerprints."""
    engine = sa.create_engine(database)
    now, rows, leases, at = time.time(), [], [], []
    for i in range(first, runs):
        plan, name = orders[i % len(orders)], f"run-{i:05}"
        identity: dict[str, Any] = {"name": name, "plan": plan.fingerprint, "parent": None, "details": {}}
        n = LONG_RUN if i == 0 else reports
        at.append(np.linspace(plan.positions // 100, plan.positions // 2, n).astype(np.int64))
        end = int(at[-1][-1])
        rows.append(
            identity
            | {"fingerprint": digest(identity), "batch_samples": 256, "parent_position": 0, "state": "open", "token": 1}
            | {"position": end, "tokens": end * plan.seq_len, "loss": 2.0, "kind": "nll"}
            | {"digest": None, "reported": now - i, "receipt": None, "receipt_problem": None, "added": now - i - 1}
        )
        until = now + 86_400 if i < LIVE else 0.0
        lease = {"name": name, "run": rows[-1]["fingerprint"], "token": 1, "holder": "h", "session": "s"}
        leases.append(lease | {"seconds": 3600.0, "calls": 0, "until": until})
    said = (
        {"run": row["fingerprint"], "token": 1, "split": "train", "kind": "nll", "digest": None, "at": row["reported"]}
        | {"position": p, "tokens": p * SEQ_LEN, "loss": 4.0 - p / (2 * row["position"])}
        for row, positions in zip(rows, at, strict=True)
        for p in positions.tolist()
    )
    with engine.begin() as connection:
        for model, values in ((RunRow, iter(rows)), (Lease, iter(leases)), (Report, said)):
            while part := list(itertools.islice(values, AT_ONCE)):
                connection.execute(sa.insert(model), part)
    engine.dispose()
    return [row["fingerprint"] for row in rows]


def first_view(url: str) -> tuple[float, int]:
    """Return the milliseconds and bytes of all requests that the page makes when it is opened, one after the other."""
    with httpx.Client(base_url=url, trust_env=False) as http:
        started = time.perf_counter()
        size = sum(len(http.get(path, params=query).raise_for_status().content) for path, query in FIRST_VIEW)
        return 1000 * (time.perf_counter() - started), size


def timed(job: Callable[[], Any], n: int = 20) -> dict[str, float]:
    """Return the milliseconds of `n` calls after a first one."""
    job()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - started))
    return percentiles(times)


def last_page(client: Client, runs: int) -> None:
    """Read the list from its oldest rows back to no more: the page before the last, by its cursor."""
    oldest = client.get("/runs", limit=1, name=f"run-{runs - 30:05}")["runs"][0]
    client.get("/runs", limit=25, cursor=f"{oldest['reported']!r}~{oldest['fingerprint']}")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=1_000_000, help="of all runs, but for the 100,000 of a long one")
    parser.add_argument("--database", help="postgresql://... of an empty database (default: SQLite)")
    parser.add_argument("--out", type=Path, default=result_path("many_runs"))
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        orders = plans(make_pool(root / "pools" / "benchmark"), 100, POLICIES)
        server, client = serve(root, args.database)
        try:
            for order in orders:
                client.post(
                    "/plans", subset=order.subset, total_tokens=order.total_tokens, seed=order.seed, policy=order.policy
                )
            database = database_url(args.database) if args.database else default_database(str(root))
            views, entered = {}, list[str]()
            for runs in (LIVE, args.runs):
                entered += enter(database, orders, len(entered), runs, max(1, args.reports // args.runs))
                views[runs] = [first_view(client.url) for _ in range(21)][1:]
            found["first_view_ms"] = percentiles([ms for ms, _ in views[args.runs]])
            found["first_view_bytes"] = views[args.runs][0][1]
            found["ratio"] = found["first_view_ms"]["p50"] / percentiles([ms for ms, _ in views[LIVE]])["p50"]
            found["long_run_ms"] = timed(lambda: client.get(f"/runs/{entered[0]}"))
            found["last_page_ms"] = timed(lambda: last_page(client, args.runs))
            found["old_lineage_ms"] = timed(lambda: client.get("/lineage", of=entered[-1]))
        finally:
            server.terminate()
            server.wait()
    kind = (args.database or "sqlite").partition(":")[0]
    found |= {"runs": args.runs, "reports": args.reports + LONG_RUN, "database": kind}
    found["machine"] = f"{machine()}, load {os.getloadavg()[0]:.1f}"
    write_result(args.out, found)
    for name, value in found.items():
        numbers = "  ".join(f"{k} {v:.1f}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:<20} {numbers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
