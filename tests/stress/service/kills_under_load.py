"""kill -9 of a server under load: `python -m epochal.tests.stress.service.kills_under_load --kills 50 [--postgresql]`.

Runs report as fast as they can (`tests/stress/kills.py`), while others look documents up over 20 plans and 20 mixtures
and read orders as streams. The server is killed again and again; half way a backup is taken beside it. At the end
nothing that was acknowledged may be missing; what the backup has is restored into another database, must be consistent
and have all that was acknowledged before it was begun; look-ups as of a position must always have said the same, and
every part of a stream what the order says.
"""

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from epochal.service.client.client import AwayError, Client
from epochal.service.database import open_database
from epochal.service.models import Report, RunRow
from epochal.service.operations.backup import back_up, restore
from epochal.service.operations.consistency import problems
from epochal.service.service import default_database
from epochal.shards.order.base import Order
from epochal.tests.stress.kills import HAMMERS, Witness
from epochal.tests.support.pools import write_pool
from epochal.tests.support.servers import free_port, postgresql, start_server, until, wait_for

PLANS, DOCUMENTS, STREAM = 20, 30, 2_000_000


class Readers:
    """Threads that ask until they are stopped, of a service that is away now and then; what was wrong is kept."""

    def __init__(self, url: str, orders: list[Order]) -> None:
        self.url, self.orders, self.stop = url, orders, threading.Event()
        self.known: dict[tuple[str, str], Any] = {}
        self.counts = {"look-ups": 0, "look-ups over all runs": 0, "positions streamed": 0, "cut off": 0}
        self.failures: list[BaseException] = []
        jobs = (self._look_up, self._look_up_in_all, self._stream)
        self.threads = [threading.Thread(target=self._again, args=(job, i)) for i, job in enumerate(jobs)]

    def learn(self, client: Client) -> None:
        """Ask once what the look-ups will be asked, before anything is killed; begin."""
        for i in range(0, len(self.orders), 3):
            for number in range(DOCUMENTS):
                self.known[f"fixed-{i}", f"doc{number}"] = self._asked(client, f"fixed-{i}", f"doc{number}")
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Stop, and raise what was wrong."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _again(self, job: Callable[[Client, random.Random], None], seed: int) -> None:
        client, chance = Client(self.url, timeout=20), random.Random(seed)
        while not self.stop.is_set():
            try:
                job(client, chance)
            except (AwayError, pa.ArrowInvalid):
                self.counts["cut off"] += 1
                time.sleep(0.05)
            except BaseException as error:
                self.failures.append(error)
                return

    def _asked(self, client: Client, run: str, document: str) -> Any:
        return client.seen(id=document, run=run)["documents"]

    def _look_up(self, client: Client, chance: random.Random) -> None:
        run, document = chance.choice(list(self.known))
        assert self._asked(client, run, document) == self.known[run, document]
        self.counts["look-ups"] += 1

    def _look_up_in_all(self, client: Client, chance: random.Random) -> None:
        (document,) = client.seen(id=f"doc{chance.randrange(DOCUMENTS)}")["documents"]
        assert document["runs_looked_at"] >= len(self.orders)
        self.counts["look-ups over all runs"] += 1

    def _stream(self, client: Client, chance: random.Random) -> None:
        order = chance.choice(self.orders)
        start = at = chance.randrange(order.positions // 2)
        for ids in client.order_chunks(order.fingerprint, start, min(STREAM, order.positions - start)):
            assert np.array_equal(ids, order.ids(range(at, at + len(ids))))
            at += len(ids)
            self.counts["positions streamed"] += len(ids)
            if self.stop.is_set():
                return


def orders_of(client: Client) -> list[Order]:
    """Return plans and mixtures of a pool's halves, entered."""
    halves = [client.carve("toy", 31_900, replicate=i)["fingerprint"] for i in range(2)]
    policies = ("reshuffle", "fixed", "sequential", "global")
    found: list[Order] = [client.plan("toy", epochs=1000, seed=i, policy=policies[i % 4]) for i in range(PLANS)]
    for i in range(PLANS):
        parts = {"a": {"subset": halves[0], "epochs": 2000, "seed": i}, "b": {"subset": halves[1], "epochs": 1000}}
        found.append(client.mixture(parts, window=1000, seed=i))
    return found


def enter_runs(client: Client, orders: list[Order]) -> None:
    """Enter a run of each order, somewhere along it."""
    for i, order in enumerate(orders):
        body = {"plan": order.to_dict(), "batch_samples": 8, "holder": "f", "session": "f"}
        token = client.post("/runs", name=f"fixed-{i}", **body)["token"]
        position = order.positions * (i + 1) // (len(orders) + 1)
        client.post(f"/runs/fixed-{i}/reports", token=token, reports=[{"position": position, "tokens": position}])


def torture(folder: Path, database: str | None, kills: int, seed: int) -> dict[str, int]:
    """Do it; return how much was done. Raises AssertionError when something is lost or wrong."""
    root = write_pool(folder, 64_000).parents[1]
    chance, port, backup = random.Random(seed), free_port(), folder / "backup.db"
    store = database or default_database(str(root))
    client = Client(f"http://127.0.0.1:{port}", timeout=60)
    servers = [start_server(root, port, database)]
    witness = Witness()
    threads = [threading.Thread(target=witness.hammer, args=(client.url, i)) for i in range(HAMMERS)]
    before: list[tuple[str, int, int]] = []
    try:
        wait_for(client)
        orders = orders_of(client)
        enter_runs(client, orders)
        readers = Readers(client.url, orders)
        readers.learn(client)
        for thread in threads:
            thread.start()
        try:
            for number in range(kills):
                time.sleep(chance.uniform(0.2, 1.5))
                if number == kills // 2:
                    before = list(witness.acknowledged)
                    back_up(store, str(backup))
                servers[-1].kill()
                servers[-1].wait()
                servers.append(start_server(root, port, database))
                if chance.random() < 0.8:  # the others die before they answer
                    wait_for(client)
                    said = len(witness.acknowledged)
                    until(lambda said=said: len(witness.acknowledged) > said + 10 or witness.failures, "reports again")
            wait_for(client)
            time.sleep(2.0)
        finally:
            witness.stop.set()
            for thread in threads:
                thread.join()
            readers.end()
        for run, document in readers.known:
            assert client.seen(id=document, run=run)["documents"] == readers.known[run, document]
    finally:
        servers[-1].kill()
        servers[-1].wait()
    assert witness.failures == []
    other = f"sqlite:///{folder / 'restored.db'}"
    restore(str(backup), other)
    restored = _held(other, before)
    reports = _held(store, witness.acknowledged)
    done = {"kills": kills, "acknowledged": len(witness.acknowledged), "reports": reports}
    return done | {"acknowledged before the backup": len(before), "in the backup": restored} | readers.counts


def _held(url: str | sa.URL, acknowledged: list[tuple[str, int, int]]) -> int:
    """Return how many reports a database has: consistent, and none missing that was acknowledged."""
    opened = open_database(url)
    try:
        with opened.reader() as connection:
            assert problems(connection) == []
            wanted = sa.select(RunRow.name, Report.token, Report.position).join(
                RunRow, RunRow.fingerprint == Report.run
            )
            there = {tuple(row) for row in connection.execute(wanted)}
    finally:
        opened.close()
    lost = [said for said in acknowledged if said not in there]
    assert lost == [], f"{len(lost)} acknowledged reports are lost: {lost[:5]}"
    return len(there)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL of its own")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgresql()) if args.postgresql else None
        found = torture(folder, database, args.kills, args.seed)
    print(f"nothing lost: {', '.join(f'{k} {v:,}' for k, v in found.items())}")


if __name__ == "__main__":
    main()
