"""kill -9 of servers and runs at random moments: `python -m epochal.tests.stress.kills --kills 50 [--postgresql]`.

Four runs train (they fold real receipts and keep checkpoints), four clients report as fast as they can and write down
what was acknowledged, and three compete for one name with leases of a second. Every few tenths of a second a server or
a run is killed and started again. At the end nothing that was acknowledged may be missing, no lease may have had two
holders, nothing may have been accepted under a lease after the next one was granted, and every receipt must be valid.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

import epochal
from epochal.common import storage
from epochal.service.client.client import AwayError, Client, RefusedError
from epochal.service.client.reporter import JOURNAL, Reporter
from epochal.service.database import open_database
from epochal.service.models import Report, RunRow
from epochal.service.service import default_database
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.servers import free_port, postgresql, start_server, wait_for

RUNS, HAMMERS, RIVALS, BATCH = 4, 4, 3, 8


def plan_of(seed: int, steps: int) -> Plan:
    """Return the plan of a run or client."""
    return Plan("f" * 32, 100, 1600, 16, steps * BATCH * 16, seed)


def simulate(url: str, folder: str, seed: int, until: str, steps: int) -> None:
    """Be a run: fold samples batch by batch, checkpoint, report; go on from the last checkpoint.

    It goes slowly until the file `until` exists, so that it lives as long as things are killed.
    """
    plan, state = plan_of(seed, steps), os.path.join(folder, "state.json")
    receipt = Receipt(plan)
    with contextlib.suppress(FileNotFoundError):
        receipt = Receipt(plan, json.loads(storage.read_bytes(state)))
    claim = {"name": os.path.basename(folder), "plan": plan.to_dict(), "batch_samples": BATCH}
    reporter = Reporter(url, folder, claim, lambda text: None, lease_seconds=5.0)
    reporter.start()
    while receipt.count < plan.positions:
        positions = np.arange(receipt.count, min(receipt.count + BATCH, plan.positions))
        receipt.add(positions, plan.ids(positions))
        said = {"position": receipt.count, "tokens": 16 * receipt.count, "digest": receipt.digest}
        reporter.report(**said, loss=1.0, kind="nll")
        if receipt.count // BATCH % 5 == 0:
            storage.write_atomic(state, json.dumps(receipt.state.tolist()).encode())
        while not os.path.exists(until) and receipt.count > steps * BATCH * 0.9:
            time.sleep(0.05)
        time.sleep(0.02)
    reporter.close("finished", receipt.to_dict(), wait=60.0)


@dataclass
class Witness:
    """What clients were told. acknowledged: (name, token, position). granted: (token, session, when) of the contested
    name. accepted: (token, when it was sent) of reports for it."""

    steps: int
    stop: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[tuple[str, int, int]] = field(default_factory=list)
    granted: list[tuple[int, str, float]] = field(default_factory=list)
    accepted: list[tuple[int, float]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def hammer(self, url: str, number: int) -> None:
        """Report for a run of its own as fast as it goes."""
        name, client, position = f"hammer-{number}", Client(url, timeout=5), 0
        body = {
            "plan": plan_of(1000 + number, self.steps).to_dict(),
            "batch_samples": 1,
            "holder": name,
            "session": name,
        }
        while not self.stop.is_set():
            try:
                token = client.post("/runs", name=name, **body)["token"]
                while not self.stop.is_set():
                    position = position % (self.steps * BATCH) + 1
                    said = [{"position": position, "tokens": 16 * position}]
                    client.post(f"/runs/{name}/reports", token=token, reports=said)
                    self.acknowledged.append((name, token, position))
            except AwayError:
                time.sleep(0.05)
            except BaseException as error:
                self.failures.append(error)
                return

    def rival(self, urls: list[str], number: int) -> None:
        """Compete for one name; whoever has it reports a little and lets the lease end."""
        client = Client(urls[number % len(urls)], timeout=5)
        body = {
            "plan": plan_of(2000, self.steps).to_dict(),
            "batch_samples": 1,
            "holder": f"rival-{number}",
            "lease_seconds": 1,
        }
        turn = 0
        while not self.stop.is_set():
            turn += 1
            session = f"rival-{number}-{turn}"
            try:
                token = client.post("/runs", name="contested", session=session, **body)["token"]
                self.granted.append((token, session, time.monotonic()))
                while not self.stop.is_set():
                    sent = time.monotonic()
                    said = [{"position": turn % (self.steps * BATCH), "tokens": 0}]
                    client.post("/runs/contested/reports", token=token, reports=said)
                    self.accepted.append((token, sent))
                    time.sleep(random.choice([0.01, 1.1]))
            except (AwayError, RefusedError):
                time.sleep(0.05)
            except BaseException as error:
                self.failures.append(error)
                return


def torture(root: Path, database: str | None, kills: int, seed: int, steps: int = 400) -> dict[str, int]:
    """Do it, with runs of so many steps; return how much was checked. Raises AssertionError when something was lost."""
    chance = random.Random(seed)
    until = str(root / "over")
    ports = [free_port() for _ in range(2 if database else 1)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    servers = [start_server(root, port, database) for port in ports]
    for url in urls:
        wait_for(Client(url))
    folders = [root / "runs" / f"run-{i}" for i in range(RUNS)]

    def start_run(i: int) -> subprocess.Popen:
        words = ["--run", urls[i % len(urls)], str(folders[i]), str(i), until, str(steps)]
        return subprocess.Popen([sys.executable, "-W", "ignore", __file__, *words], env=environment())

    runs = [start_run(i) for i in range(RUNS)]
    witness = Witness(steps)
    threads = [threading.Thread(target=witness.hammer, args=(urls[i % len(urls)], i)) for i in range(HAMMERS)]
    threads += [threading.Thread(target=witness.rival, args=(urls, i)) for i in range(RIVALS)]
    for thread in threads:
        thread.start()
    counts = {"servers killed": 0, "runs killed": 0}
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 1.5))
            if chance.random() < 0.5:
                i = chance.randrange(len(servers))
                servers[i].kill()
                servers[i].wait()
                servers[i] = start_server(root, ports[i], database)
                if chance.random() < 0.8:  # the others die before they answer
                    wait_for(Client(urls[i]))
                counts["servers killed"] += 1
            else:
                i = chance.randrange(RUNS)
                runs[i].kill()
                runs[i].wait()
                runs[i] = start_run(i)
                counts["runs killed"] += 1
        for url in urls:
            wait_for(Client(url))
        time.sleep(1.0)
        _stop(witness, threads)
        Path(until).touch()
        assert [run.wait(timeout=300) for run in runs] == [0] * RUNS
        return counts | _check(Client(urls[0]), witness, folders, database or default_database(str(root)))
    finally:
        _stop(witness, threads)
        for process in [*servers, *runs]:
            process.kill()
            process.wait()


def _stop(witness: Witness, threads: list[threading.Thread]) -> None:
    witness.stop.set()
    for thread in threads:
        thread.join()


def _check(client: Client, witness: Witness, folders: list[Path], database: str | sa.URL) -> dict[str, int]:
    """Hold what the database has against what was acknowledged."""
    assert witness.failures == []
    opened = open_database(database)
    with opened.reader() as connection:
        wanted = sa.select(RunRow.name, Report.token, Report.position).join(RunRow, RunRow.fingerprint == Report.run)
        there = {tuple(row) for row in connection.execute(wanted)}
    opened.close()
    lost = [said for said in witness.acknowledged if said not in there]
    assert lost == [], f"{len(lost)} acknowledged reports are lost: {lost[:5]}"
    positions = {(name, position) for name, _, position in there}
    written = 0
    for folder in folders:
        calls = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
        reported = [(folder.name, call["body"]["position"]) for call in calls if call["call"] == "reports"]
        assert set(reported) <= positions, f"reports of {folder.name} are lost"
        written += len(reported)
        for _ in range(200):
            run = client.get(f"/runs/{folder.name}")
            if run["receipt"] != "not checked yet":
                break
            time.sleep(0.05)
        assert (run["state"], run["receipt"]) == ("finished", "valid"), run
        assert run["position"] == run["positions"]
    _check_leases(witness)
    return {"acknowledged": len(witness.acknowledged), "of runs": written, "leases": len(witness.granted)}


def _check_leases(witness: Witness) -> None:
    """No number was granted to two sessions; nothing was accepted for one after the next was granted."""
    holders: dict[int, str] = {}
    for token, session, _ in witness.granted:
        assert holders.setdefault(token, session) == session, f"lease {token} was granted twice"
    for token, sent in witness.accepted:
        later = [at for other, _, at in witness.granted if other > token]
        assert not later or sent <= min(later), f"a report under lease {token} was accepted after it was over"


def environment() -> dict[str, str]:
    """Return what a run's process needs."""
    return os.environ | {"PYTHONPATH": str(Path(epochal.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true", help="two servers on a PostgreSQL of their own")
    parser.add_argument("--run", nargs=5, metavar=("URL", "FOLDER", "SEED", "UNTIL", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        url, folder, seed, until, steps = args.run
        simulate(url, folder, int(seed), until, int(steps))
        return
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(postgresql()) if args.postgresql else None
        found: dict[str, Any] = torture(root, database, args.kills, args.seed)
    print(f"nothing lost: {', '.join(f'{k} {v:,}' for k, v in found.items())}")


if __name__ == "__main__":
    main()
