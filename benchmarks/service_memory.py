"""Does the service's memory stay flat? `python -m epochal.benchmarks.service_memory [--minutes 60]`.

Writes benchmarks/results/service_memory.json and prints a line a minute: what the service's processes hold (RSS), while
100 runs report every five seconds and, every two seconds, the page is opened, a document is looked up over all runs and
10,000 positions are streamed. `ratio` is what is held at the end over what is held after a tenth of the time.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epochal.benchmarks.common import machine, result_path, write_result
from epochal.benchmarks.many_runs import first_view
from epochal.benchmarks.service import DOCUMENTS, POLICIES, SEQ_LEN, make_pool, plans, register, serve
from epochal.service.client.client import Client
from epochal.shards.order.plan import Plan

RUNS, REPORT_SECONDS, ASK_SECONDS = 100, 5.0, 2.0


def held(pid: int) -> int:
    """Return the bytes that a process and those it started hold, shared pages counted in each."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(held(int(child)) for child in children)


def load(client: Client, orders: Sequence[Plan], leases: Sequence[dict[str, Any]], seconds: float) -> int:
    """Report and ask for so long; return how many requests were answered."""
    stop, asked, answered = time.monotonic() + seconds, 0.0, 0
    while (now := time.monotonic()) < stop:
        if now - asked >= ASK_SECONDS:
            asked = now
            first_view(client.url)
            client.get("/documents/exposures", id=f"document-{answered % DOCUMENTS}")
            client.order(orders[answered % len(orders)].fingerprint, answered, 10_000)
            answered += 8
        lease = leases[answered % len(leases)]
        lease["position"] += 256
        said = {"position": lease["position"], "tokens": lease["position"] * SEQ_LEN, "loss": 2.0, "kind": "nll"}
        client.post(f"/runs/{lease['name']}/reports", token=lease["token"], reports=[said | {"digest": "0" * 32}])
        answered += 1
        time.sleep(max(0.0, REPORT_SECONDS / RUNS - (time.monotonic() - now)))
    return answered


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    args = parser.parse_args()
    megabytes, answered = [], 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        orders = plans(make_pool(root / "pools" / "benchmark"), RUNS, POLICIES)
        server, client = serve(root, None)
        try:
            leases = register(client, orders, "run")
            for minute in range(1, args.minutes + 1):
                answered += load(client, orders, leases, 60.0)
                megabytes.append(held(server.pid) / 1e6)
                print(f"minute {minute:3}  {megabytes[-1]:7.1f} MB  {answered:,} requests", flush=True)
        finally:
            server.terminate()
            server.wait()
    early = megabytes[max(0, args.minutes // 10 - 1)]
    result = {"minutes": args.minutes, "requests": answered, "early_mb": early, "end_mb": megabytes[-1]}
    result |= {"most_mb": max(megabytes), "ratio": megabytes[-1] / early, "machine": machine()}
    write_result(result_path("service_memory"), result)
    print({k: v for k, v in result.items() if k != "machine"})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
