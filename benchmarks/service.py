"""The service on loopback: `python -m epochal.benchmarks.service [--database postgresql://...]`.

Writes benchmarks/results/service.json and prints a table: positions/s of an order over Arrow; the ledger's look-up of a
document over 100 runs of 10**12 tokens, and with runs on mixtures; the latency of reports while 64 runs report once a
second each. Server and clients are processes on one machine. `ratio` is positions/s over Arrow / positions/s over JSON.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from epochal.benchmarks.common import GPT2_IDS, machine, result_path, write_manifest, write_result
from epochal.service.client.client import AwayError, Client
from epochal.shards import arrow
from epochal.shards.artifact import read_manifest
from epochal.shards.documents import SCHEMA
from epochal.shards.manifest import Content, Manifest, Parent
from epochal.shards.order.base import Order
from epochal.shards.order.mixing import Ingredient, by_tokens
from epochal.shards.order.mixture import Mixture
from epochal.shards.order.plan import Plan

TOKENS, SEQ_LEN, DOCUMENTS = 1_000_000_000, 2048, 1_000_000
BUDGET = 10**12
POLICIES = ("reshuffle", "fixed", "sequential")


def make_pool(folder: Path) -> Manifest:
    """Write a pool of 10**9 tokens in a million documents: manifest and documents.parquet, no shards."""
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(TOKENS - 1, DOCUMENTS - 1, replace=False) + 1)
    starts = np.concatenate([[0], cuts]).astype(np.int64)
    keys = rng.integers(0, 256, (DOCUMENTS, 16), np.uint8)
    columns = {
        "key": arrow.binary(keys),
        "id": [f"document-{i}" for i in range(DOCUMENTS)],
        "source": pa.array(["benchmark"] * DOCUMENTS).dictionary_encode(),
        "start": starts,
        "tokens": np.diff(starts, append=TOKENS),
    }
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / "documents.parquet", row_group_size=65_536)
    manifest = Manifest(
        kind="pool",
        name="benchmark",
        fingerprint="",
        documents=DOCUMENTS,
        tokens=TOKENS,
        samples=-(-TOKENS // SEQ_LEN),
        shards=1,
        seq_len=SEQ_LEN,
        dtype="uint16",
        seed=0,
        tokenizer=GPT2_IDS,
        content=[Content(xxh64="0" * 16, samples=-(-TOKENS // SEQ_LEN))],
    )
    return write_manifest(folder, manifest)


def make_halves(root: Path, pool: Manifest) -> list[Manifest]:
    """Write the manifests of two subsets, the halves of the pool's whole samples."""
    samples = pool.samples // 2
    made = []
    for number in range(2):
        name = f"half-{number}"
        parent = Parent(
            name=pool.name, fingerprint=pool.fingerprint, path="", replicate=number, start_sample=number * samples
        )
        changes = {"kind": "subset", "name": name, "parent": parent, "tokens": samples * SEQ_LEN, "samples": samples}
        half = pool.model_copy(update=changes | {"content": [Content(xxh64=f"{number:016x}", samples=samples)]})
        (root / name).mkdir(parents=True)
        made.append(write_manifest(root / name, half))
    return made


def serve(root: Path, database: str | None) -> tuple[subprocess.Popen, Client]:
    """Start the server; return it and a client once it answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "epochal", "serve", "--root", str(root), "--port", str(port)]
    command += ["--rate", "1e6", *(["--database", database] if database else [])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = Client(f"http://127.0.0.1:{port}")
    for _ in range(600):
        try:
            client.get("/health")
            return server, client
        except AwayError:
            time.sleep(0.05)
    raise SystemExit("the server did not start")


def order_rates(client: Client, plan: Plan, n_arrow: int) -> dict[str, float]:
    """Return positions/s over Arrow and over JSON, the best of three each; what arrives is compared with the plan."""
    n_json = 1_000_000
    rates: dict[str, list[float]] = {"arrow": [], "json": []}
    for _ in range(3):
        started, seen = time.perf_counter(), 0
        for ids in client.order_chunks(plan.fingerprint, plan.samples // 2, n_arrow):
            seen += len(ids)
        rates["arrow"].append(seen / (time.perf_counter() - started))
        assert seen == n_arrow
        started = time.perf_counter()
        found = client.get(f"/plans/{plan.fingerprint}/order", start=plan.samples // 2, count=n_json)["ids"]
        rates["json"].append(len(found) / (time.perf_counter() - started))
    last = range(plan.samples // 2 + n_arrow - len(ids), plan.samples // 2 + n_arrow)
    assert np.array_equal(ids, plan.ids(last))
    started = time.perf_counter()
    for begin in range(0, n_arrow, 1 << 18):
        plan.ids(range(begin, min(begin + (1 << 18), n_arrow)))
    computed = n_arrow / (time.perf_counter() - started)
    return {name: max(values) for name, values in rates.items()} | {"computed on one core": computed}


def plans(manifest: Manifest, n: int, policies: tuple[str, ...]) -> list[Plan]:
    """Return `n` plans of 10**12 tokens."""
    return [Plan.for_artifact(manifest, BUDGET, i, policies[i % len(policies)]) for i in range(n)]  # type: ignore[arg-type]


def mixtures(halves: list[Manifest], n: int) -> list[Mixture]:
    """Return `n` mixtures of 10**12 tokens, two thirds of them from the first half of the pool."""
    return [
        by_tokens(
            [(Ingredient("a", halves[0], i), 2 * BUDGET // 3), (Ingredient("b", halves[1], i, "fixed"), BUDGET // 3)],
            window=1000,
            seed=i,
        )
        for i in range(n)
    ]


def register(client: Client, orders: Sequence[Order], prefix: str) -> list[dict[str, Any]]:
    """Register runs of these plans, each somewhere along its own."""
    leases = []
    for i, plan in enumerate(orders):
        body = {"plan": plan.to_dict(), "batch_samples": 256, "holder": f"{prefix}{i}", "session": "s"}
        lease = client.post("/runs", name=f"{prefix}-{i}", lease_seconds=3600, **body)
        position = plan.positions * (i + 1) // (len(orders) + 1)
        said = [{"position": position, "tokens": position * SEQ_LEN, "loss": 2.0, "kind": "nll"}]
        client.post(f"/runs/{prefix}-{i}/reports", token=lease["token"], reports=said)
        leases.append(lease | {"plan": plan, "position": position})
    return leases


def look_ups(client: Client, n: int) -> dict[str, float]:
    """Return the milliseconds of look-ups of `n` documents, each the first of its kind."""
    rng, times, segments = np.random.default_rng(1), [], 0
    for number in rng.integers(0, DOCUMENTS, n).tolist():
        key = client.seen(id=f"document-{number}")["documents"][0]["key"]
        started = time.perf_counter()
        (document,) = client.seen(key=key)["documents"]
        times.append(1000 * (time.perf_counter() - started))
        segments = len(document["runs"])
    return percentiles(times) | {"runs": segments}


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest."""
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99)), "max": max(times)}


def reports(client: Client, leases: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Return the milliseconds until reports are acknowledged, each run reporting once a second from its own thread."""
    times: list[float] = []

    clients = [Client(client.url) for _ in leases]
    stop = time.monotonic() + seconds

    def run(i: int) -> None:
        own, lease = clients[i], leases[i]
        position = lease["position"]
        due = time.monotonic() + i / len(leases)
        while due < stop:
            time.sleep(max(0.0, due - time.monotonic()))
            position += 256
            said = {"position": position, "tokens": position * SEQ_LEN, "loss": 2.0, "kind": "nll", "digest": "0" * 32}
            started = time.perf_counter()
            own.post(f"/runs/{lease['name']}/reports", token=lease["token"], reports=[said])
            times.append(1000 * (time.perf_counter() - started))
            due += 1.0
        own.close()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(leases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    warm = times[2 * len(leases) :]  # the first reports of each run open its connection
    return percentiles(warm) | {"reports": len(warm)}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=400_000_000, help="of an order, over Arrow")
    parser.add_argument("--seconds", type=float, default=20.0, help="that 64 runs report for")
    parser.add_argument("--database", help="postgresql://... of an empty database (default: SQLite)")
    parser.add_argument("--out", type=Path, default=result_path("service"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest = make_pool(root / "pools" / "benchmark")
        assert read_manifest(str(root / "pools" / "benchmark")) == manifest
        halves = make_halves(root / "subsets", manifest)
        server, client = serve(root, args.database)
        try:
            register(client, plans(manifest, 100, POLICIES), "run")
            plan = Plan.for_artifact(manifest, BUDGET, 0)
            found: dict[str, Any] = {
                "positions_per_second": order_rates(client, plan, args.positions),
                "look_up_ms": look_ups(client, 100),
            }
            live = register(client, plans(manifest, 64, POLICIES), "live")
            found["report_ms"] = reports(client, live, args.seconds)
            register(client, plans(manifest, 1, ("global",)), "shuffled")
            found["look_up_with_a_global_run_ms"] = look_ups(client, 20)
            register(client, mixtures(halves, 100), "mixed")
            found["look_up_with_100_mixtures_ms"] = look_ups(client, 100)
        finally:
            server.terminate()
            server.wait()
    rates = found["positions_per_second"]
    found |= {
        "ratio": rates["arrow"] / rates["json"],
        "database": (args.database or "sqlite").partition(":")[0],
        "machine": f"{machine()}, load {os.getloadavg()[0]:.1f}",
    }
    write_result(args.out, found)
    for name, rate in rates.items():
        print(f"{'order, positions/s: ' + name:<44} {rate / 1e6:8.1f} M")
    for name in (name for name in found if name.endswith("_ms")):
        numbers = "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in found[name].items())
        print(f"{name:<44} {numbers}")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
