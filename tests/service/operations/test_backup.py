"""Backups in the middle of load, restored into either kind of database, are what the ledger proves consistent."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.service.client.client import Client
from epochal.service.client.reporter import Reporter
from epochal.service.database import open_database
from epochal.service.models import Report, RunRow
from epochal.service.operations.backup import back_up, restore
from epochal.service.operations.consistency import problems
from epochal.service.service import default_database
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import claim, report

BATCH = 4


def plan_of(seed: int) -> Plan:
    """Return a plan of 1000 positions."""
    return Plan("f" * 32, 100, 1600, 16, 16_000, seed)


class Load:
    """Runs that fold real samples and report every batch, until they are stopped; what was acknowledged is kept."""

    def __init__(self, url: str, runs: int) -> None:
        self.stop = threading.Event()
        self.acknowledged: list[tuple[str, int]] = []
        self.failures: list[BaseException] = []
        self.threads = [threading.Thread(target=self.run, args=(url, i)) for i in range(runs)]
        for thread in self.threads:
            thread.start()

    def run(self, url: str, number: int) -> None:
        """Train, report, save; begin again at the end."""
        try:
            client, plan, name = Client(url, timeout=300), plan_of(number), f"run-{number}"
            token, turn = 0, 0
            while not self.stop.is_set():
                receipt, turn = Receipt(plan), turn + 1
                token = claim(client, name, plan, session=f"s{turn}")["token"]
                while receipt.count < plan.positions and not self.stop.is_set():
                    at = np.arange(receipt.count, min(receipt.count + BATCH, plan.positions))
                    receipt.add(at, plan.ids(at))
                    said = {"tokens": 16 * receipt.count, "digest": receipt.digest}
                    report(client, name, token, receipt.count, **said)
                    self.acknowledged.append((name, receipt.count))
                    if receipt.count % 100 == 0:
                        client.post(f"/runs/{name}/checkpoints", token=token, position=receipt.count, name=f"c{turn}")
        except BaseException as error:
            self.failures.append(error)

    def end(self) -> None:
        """Stop all runs."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert self.failures == []


@contextlib.contextmanager
def loaded(url: str, runs: int = 4) -> Iterator[Load]:
    """Yield a load that has begun."""
    load = Load(url, runs)
    try:
        until(lambda: len(load.acknowledged) > 20 * runs or load.failures, "the load has begun")
        yield load
    finally:
        load.end()


def check(url: str | sa.URL, acknowledged: list[tuple[str, int]]) -> int:
    """Assert that rows agree, that no acknowledged report is missing, and that every digest is what its plan has up to
    the run's position; return how many reports there are."""
    opened = open_database(url)
    with opened.reader() as connection:
        assert problems(connection) == []
        wanted = sa.select(RunRow.name, Report.position).join(RunRow, RunRow.fingerprint == Report.run)
        there = {(name, position) for name, position in connection.execute(wanted)}
        assert set(acknowledged) <= there
        plans = dict(connection.exec_driver_sql("SELECT fingerprint, plan FROM plans").all())
        for row in connection.execute(sa.select(RunRow.__table__).where(RunRow.digest.is_not(None))):
            plan = plan_of(int(row.name.removeprefix("run-")))
            assert row.plan in plans
            assert plan.fingerprint == row.plan
            assert plan.digest(0, row.position) == row.digest
    opened.close()
    return len(there)


@pytest.mark.slow
def test_a_backup_in_the_middle_of_load_is_consistent(root: Path, database: str | None, tmp_path: Path):
    url = database or default_database(str(root))
    with serving(root, database) as client, loaded(client.url) as load:
        for number in range(3):
            before = list(load.acknowledged)
            file = str(tmp_path / f"{number}.db")
            found = back_up(url, file)
            assert found["reports"] >= len(set(before))
            target = f"sqlite:///{tmp_path}/restored-{number}/x.db"
            restore(file, target)
            assert check(target, before) >= len(set(before))
            seen = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > seen + 50, "the load goes on")  # noqa: B023


@pytest.mark.slow
def test_a_restore_under_a_running_service_loses_nothing_of_runs_that_live(
    root: Path, database: str | None, tmp_path: Path
):
    url, file = database or default_database(str(root)), str(tmp_path / "backup.db")
    plan, said = plan_of(1), []
    with serving(root, database) as client:
        body = {"name": "run-1", "plan": plan.to_dict(), "batch_samples": BATCH}
        reporter = Reporter(client.url, str(tmp_path / "run"), body, said.append)
        (tmp_path / "run").mkdir(exist_ok=True)
        reporter.start()
        receipt = Receipt(plan)

        def train(until_position: int) -> None:
            while receipt.count < until_position:
                at = np.arange(receipt.count, receipt.count + BATCH)
                receipt.add(at, plan.ids(at))
                reporter.report(position=receipt.count, tokens=16 * receipt.count, digest=receipt.digest)
            until(lambda: client.get("/runs/run-1")["position"] == until_position, "all is reported")

        train(200)
        back_up(url, file)
        train(600)
        restore(file, url, replace=True)
        assert client.get("/runs/run-1")["position"] == 200  # the service has forgotten
        train(1000)
        reporter.close("finished", receipt.to_dict(), wait=60)
        until(lambda: client.get("/runs/run-1")["receipt"] == "valid", "the receipt was checked")
        assert client.get("/audit")["entries"][0]["action"] == "run closed"
        assert "database restored" in [e["action"] for e in client.get("/audit")["entries"]]
    everything = [("run-1", position) for position in range(BATCH, 1001, BATCH)]
    assert check(url, everything) == 250  # what it had forgotten was sent again


def test_into_the_other_kind_of_database_and_back(root: Path, cluster: str, database: str | None, tmp_path: Path):
    if database is None:
        pytest.skip("needs PostgreSQL")
    with serving(root, None) as client:
        plan, child = plan_of(1), plan_of(2)
        claim(client, "run-1", plan)
        report(client, "run-1", 1, 40, tokens=640, digest=plan.digest(0, 40))
        claim(client, "a-child", child, parent={"run": "run-1", "position": 40})  # sorts before its parent
        client.post("/limits", kind="tokens", cap=10**12)
        before = client.get("/runs/a-child"), client.get("/lineage"), client.get("/limits")
    first, second = str(tmp_path / "first.db"), str(tmp_path / "second.db")
    rows = back_up(default_database(str(root)), first)
    restore(first, database)
    assert back_up(database, second) == rows | {"audit": rows["audit"] + 1}
    with serving(root, database) as client:
        now = client.get("/runs/a-child"), client.get("/lineage"), client.get("/limits")
        assert client.post("/limits", kind="tokens", cap=5)["id"] == 2  # numbers go on
    assert now == before


def test_nothing_is_overwritten_unasked(root: Path, tmp_path: Path, capsys):
    with serving(root) as client:
        claim(client, "run-1", plan_of(1))
    file = str(tmp_path / "a.db")
    words = [file, "--root", str(root)]
    assert main(["backup", *words]) == 0
    assert "1 pool" not in capsys.readouterr().err
    assert main(["backup", *words]) == 2
    assert f"{file} exists: name another file, or replace it with --replace" in capsys.readouterr().err
    assert main(["backup", *words, "--replace"]) == 0
    assert main(["restore", *words]) == 2
    assert "is not empty (artifacts 1, names 1, plans 1, " in capsys.readouterr().err
    assert main(["restore", *words, "--replace"]) == 0
    assert "restored" in capsys.readouterr().out
    assert main(["backup", file + "2", "--root", str(tmp_path / "nowhere")]) == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_is_no_backup_or_contradicts_itself_is_refused(root: Path, tmp_path: Path):
    with serving(root) as client:
        claim(client, "run-1", plan_of(1))
        report(client, "run-1", 1, 40, tokens=640)
    file, target = str(tmp_path / "a.db"), f"sqlite:///{tmp_path}/target.db"
    back_up(default_database(str(root)), file)
    for name, data in (("text", b"hello"), ("empty", b""), ("sqlite", b"SQLite format 3\0" + bytes(100))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RequestError, match="is no backup of epochal"):
            restore(str(tmp_path / name), target)
    damages = {
        "UPDATE runs SET position = 44": "no report says position 44",
        "UPDATE reports SET position = 1001": "position 1,001 is told of, and its plan ends at 1,000",
        "UPDATE leases SET token = 0": "reports came under lease 1, and the last one is 0",
        "DELETE FROM plans": "refers to a row of plans that is not there",
        "UPDATE plans SET plan = replace(plan, '16000', '15000')": "it was changed after it was written",
        f"UPDATE plans SET plan = '{json.dumps(plan_of(2).to_dict())}'": f"it is the plan {plan_of(2).fingerprint}",
        "UPDATE alembic_version SET version_num = '9999'": "made by a newer epochal",
    }
    for number, (damage, said) in enumerate(damages.items()):
        damaged = tmp_path / f"damaged-{number}.db"
        damaged.write_bytes(Path(file).read_bytes())
        engine = sa.create_engine(f"sqlite:///{damaged}")
        with engine.begin() as connection:
            connection.exec_driver_sql(damage)
        engine.dispose()
        with pytest.raises((RequestError, WorkError), match=said):
            restore(str(damaged), target)
    assert not Path(tmp_path / "target.db").exists()
