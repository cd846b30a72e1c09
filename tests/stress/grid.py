"""A grid of runs through the service, on real text: `python -m epochal.tests.stress.grid [--artifacts A] [--out O]`.

AR and MDM train two at a time, each in a process of its own, five passes over a subset of the demonstration's pool that
is carved over HTTP, and a thirtieth of a pass over the whole pool; then an AR model is continued from the one on the
other, with another policy. While they train, the page must show two live runs; at the end the ledger must equal, for
1,000 documents and every run, a walk over the positions that the runs recorded. Takes a few minutes.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import epochal
from epochal.examples.demo import POOL, make_data
from epochal.service.client.client import Client
from epochal.service.document_index import read_spans
from epochal.shards.order.plan import Plan
from epochal.tests.support.browser import CHROMIUM, Page, browser
from epochal.tests.support.servers import serving

DOCUMENTS = 1000
MODEL = ["model.layers=2", "model.hidden=64", "model.heads=2", "model.ffn=128"]


def train(objective: str, data: Path, name: str, url: str, out: Path, *more: str) -> None:
    """Train one run in a process of its own."""
    settings = [f"train_loader.dataset.path={data}", "eval_loader=null", "optimizer.lr=3e-3", f"run_name={name}"]
    settings += ["global_train_batch_size=8", f"save_folder={out / name}", "progress_bar=false", "autoresume=true"]
    settings += [f"service.url={url}", "service.interval=0.5", "device=cpu", *MODEL, *more]
    command = [sys.executable, "-W", "ignore", "-m", "epochal.train", f"tiny-{objective}", *settings]
    paths = {"PYTHONPATH": str(Path(epochal.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=os.environ | paths, stdout=subprocess.DEVNULL)


def watch(page: Page, client: Client, done: list[bool], picture: Path) -> int:
    """Return the most live runs that the page showed at once; keep a picture of that."""
    page.open(client.url)
    most = 0
    while not done:
        live = page.run("document.querySelectorAll('#runs-table .good').length")
        if live > most:
            most = live
            page.picture(picture)
        time.sleep(0.5)
    return most


def walk(client: Client, pool: Path, name: str) -> dict[str, list[int]]:
    """Return the exposures of every token of 1,000 documents, from the recorded positions of a run's ancestry."""
    stream = np.zeros(client.get(f"/artifacts/{POOL}")["tokens"], int)
    for run in client.get(f"/runs/{name}")["ancestry"]:
        shown = client.get(f"/plans/{run['plan']}")
        plan = Plan.from_dict({k: v for k, v in shown.items() if k not in ("tokens", "passes", "partial_samples")})
        low = plan.start_sample * plan.seq_len
        for id_ in plan.ids(range(run["position"])).tolist():
            begin = low + id_ * plan.seq_len
            stream[begin : min(begin + plan.seq_len, low + plan.unique_tokens)] += 1
    spans = [span for chunk in read_spans(str(pool)) for span in zip(*chunk.values(), strict=True)]
    inside = [s for s in spans if stream[s[1] : s[1] + s[2]].any()]
    step = max(1, len(spans) // DOCUMENTS)
    chosen = {key.as_py().hex(): (start, n) for key, start, n in [*inside, *spans[::step]]}
    return {key: stream[start : start + n].tolist() for key, (start, n) in list(chosen.items())[:DOCUMENTS]}


def compare(client: Client, pool: Path, name: str) -> str:
    """Hold the ledger against the walk; return what was compared."""
    expected = walk(client, pool, name)
    for key, counts in expected.items():
        (run,) = client.seen(key=key, run=name)["documents"][0]["runs"]
        found = [i["exposures"] for i in run["intervals"] for _ in range(i["start"], i["stop"])]
        assert found == counts, f"document {key} of run {name}"
    seen = sum(1 for counts in expected.values() if any(counts))
    return f"{name}: {len(expected):,} documents ({seen:,} of them seen) equal the walk"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--out", type=Path, default=Path("runs/service-grid"))
    args = parser.parse_args()
    make_data(args.artifacts)
    pool, done = args.artifacts / "pools" / POOL, []
    with serving(args.artifacts) as server, browser() as page, ThreadPoolExecutor(3) as threads:
        client = Client(server.url, timeout=300)
        subset = args.artifacts / "subsets" / client.carve(POOL, "25k")["names"][0]
        data = {"25k": (subset, "max_duration=5ep"), "pool": (pool, "max_duration=400k")}
        args.out.mkdir(parents=True, exist_ok=True)
        watching = threads.submit(watch, page, client, done, args.out / "live.png")
        grid = [(objective, n) for n in data for objective in ("ar", "mdm")]
        runs = [
            threads.submit(train, objective, data[n][0], f"{objective}-{n}", client.url, args.out, data[n][1])
            for objective, n in grid
        ]
        for run in runs:
            run.result()
        done.append(True)
        assert watching.result() >= 2, "the page never showed two live runs"
        more = [f"init_from={args.out / 'ar-25k' / 'final'}", "service.parent=ar-25k"]
        more += ["train_loader.dataset.policy=global", data["pool"][1]]
        train("ar", pool, "ar-continued", client.url, args.out, *more)
        for name in [*(f"{objective}-{n}" for objective, n in grid), "ar-continued"]:
            print(compare(client, pool, name), flush=True)
        receipts = {run["name"]: run["receipt"] for run in client.get("/runs")["runs"]}
    assert set(receipts.values()) == {"valid"}, receipts
    print(f"{len(receipts)} runs, every receipt valid; the page showed them live: {args.out / 'live.png'}")


if __name__ == "__main__":
    assert CHROMIUM, "chromium is needed"
    main()
