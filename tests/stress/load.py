"""Heavy reads and silent connections at a service: `python -m epochal.tests.stress.load --digests 40 --silent 1100`.

First digests of 20 million positions each are asked for all at once, and `GET /runs` again and again beside them; then
connections that say nothing are opened, and `GET /runs` is asked over new ones. Printed: the latencies of `GET /runs`,
alone and beside the rest, the memory of the server, how the digests and the silent connections ended. Server and
clients share one machine: part of what is measured is clients.
"""

import argparse
import contextlib
import http.client
import json
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from epochal.service.client.client import Client
from epochal.shards.order.plan import Plan
from epochal.tests.support.pools import write_pool
from epochal.tests.support.servers import free_port, start_server, wait_for

POSITIONS = 20_000_000
SECONDS = 30.0
"""For how long `GET /runs` is asked alone, and beside silent connections."""


def memory(process: int, name: str) -> int:
    """Return a figure of a process's memory in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith(name))


def get(port: int, path: str, timeout: float) -> int:
    """Return the status that a path is answered with, over a new connection, the answer read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def latencies(port: int, going_on: Any, pause: float = 0.02) -> dict[str, Any]:
    """Ask for `GET /runs` while `going_on()`; return figures in milliseconds."""
    took, refused = [], 0
    while going_on():
        began = time.perf_counter()
        try:
            right = get(port, "/runs", 120) == 200
        except (OSError, http.client.HTTPException):
            right = False
        if right:
            took.append(1e3 * (time.perf_counter() - began))
        refused += not right
        time.sleep(pause)
    ms = {f"p{q}": round(float(np.percentile(took, q)), 1) for q in (50, 99, 100)} if took else {}
    return {"asked": len(took) + refused, "failed": refused} | ms


def for_seconds(seconds: float) -> Any:
    """Return what is true for so long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def digests(port: int, plan: str, n: int) -> tuple[Counter[Any], dict[str, Any]]:
    """Ask for `n` digests at once; return how they were answered, and the latencies beside them."""
    answers: Counter[Any] = Counter()

    def ask(number: int) -> None:
        try:
            answers[get(port, f"/plans/{plan}/digest?start={number}&stop={number + POSITIONS}", 3600)] += 1
        except (OSError, http.client.HTTPException) as error:
            answers[type(error).__name__] += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    beside = latencies(port, lambda: any(thread.is_alive() for thread in threads))
    return answers, beside


def silent(port: int, n: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Open `n` connections that say nothing; return how many of them were closed, and the latencies beside them."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(n):
            with contextlib.suppress(OSError):
                opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
        beside = latencies(port, for_seconds(SECONDS))
        closed = 0
        for connection in opened:
            connection.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionError):
                    connection.recv(1)
                closed += 1
    return {"opened": len(opened), "closed by the server": closed}, beside


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digests", type=int, default=40)
    parser.add_argument("--silent", type=int, default=1100)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 1 << 16, hard))
    root, port = Path(tempfile.mkdtemp(prefix="epochal-load-")), free_port()
    write_pool(root, 4000)
    server = start_server(root / "artifacts", port)
    try:
        client = Client(f"http://127.0.0.1:{port}", timeout=120)
        wait_for(client)
        samples = POSITIONS + args.digests
        plan = Plan("f" * 32, samples, 16 * samples, 16, 16 * samples)
        claim = {"plan": plan.to_dict(), "batch_samples": 8, "holder": "a", "session": "a"}
        client.post("/runs", name="run", **claim)
        say("alone", latencies(port, for_seconds(SECONDS)), server.pid)
        answers, beside = digests(port, plan.fingerprint, args.digests)
        beside |= {"digests": dict(answers)}
        say(f"beside {args.digests} digests of {POSITIONS:,} positions", beside, server.pid)
        ends, beside = silent(port, args.silent)
        say(f"beside {args.silent:,} silent connections", beside | ends, server.pid)
        failed = beside["failed"] or set(answers) - {200, 503} or server.poll() is not None
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(root)
    sys.exit(bool(failed))


def say(what: str, figures: dict[str, Any], process: int) -> None:
    """Print the figures of a part, and the server's memory now and at most."""
    memories = {"MB": memory(process, "VmRSS"), "most MB": memory(process, "VmHWM")}
    print(f"GET /runs {what}: {json.dumps(figures | memories)}", flush=True)


if __name__ == "__main__":
    main()
