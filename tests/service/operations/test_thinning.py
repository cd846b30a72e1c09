"""Old reports thinned: what goes, what stays, in steps that can be cut off, while runs report."""

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from epochal.__main__ import main
from epochal.service.client.client import Client
from epochal.service.database import Database, open_database
from epochal.service.models import Checkpoint, Report, RunRow
from epochal.service.operations import thinning
from epochal.service.operations.consistency import problems
from epochal.service.operations.thinning import span_of, thin
from epochal.service.service import default_database
from epochal.shards.order.plan import Plan
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import claim, report

PLAN = Plan("f" * 32, 100, 1600, 16, 160_000)
OLD = 100 * thinning.DAY


@pytest.fixture
def db(root: Path, database: str | None):
    """Yield the database of the service under `root`."""
    opened = open_database(database or default_database(str(root)))
    yield opened
    opened.close()


def say(client: Client, name: str, token: int, positions: list[int], **more: Any) -> None:
    """Report positions."""
    said = [{"position": p, "tokens": 16 * p, "loss": 2.0, "kind": "nll"} | more for p in positions]
    client.post(f"/runs/{name}/reports", token=token, reports=said)


def age(db: Database, seconds: float) -> None:
    """Make all reports older."""
    older = sa.update(Report).values(at=Report.at - seconds)
    db.write(lambda connection: connection.execute(older).rowcount).result()


def positions(db: Database, split: str = "train") -> list[tuple[int, int]]:
    """Return (lease, position) of all reports."""
    rows = sa.select(Report.token, Report.position).where(Report.split == split).order_by(Report.token, Report.position)
    with db.reader() as connection:
        return [tuple(row) for row in connection.execute(rows)]


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "SPANS", 4)
    monkeypatch.setattr(thinning, "TOGETHER", 3)


@pytest.mark.usefixtures("_few")
def test_one_of_a_lease_is_left_in_each_span_and_all_else_stays(client: Client, db: Database):
    claim(client, "a", PLAN)
    say(client, "a", 1, list(range(10, 130, 10)))  # to 120: spans of 16, from 112 on the last
    say(client, "a", 1, [20, 25, 120], split="validation")
    client.post("/runs/a/checkpoints", token=1, position=40, name="c")
    client.post("/runs/a/close", token=1, state="stopped")
    assert claim(client, "a", PLAN, holder="b")["token"] == 2
    say(client, "a", 2, [41, 42, 43, 44])
    age(db, OLD)
    say(client, "a", 2, [45, 63])
    before = client.get("/runs/a")
    assert thin(db, 101).reports == 0
    done = thin(db, 90)
    assert [p for t, p in positions(db) if t == 1] == [10, 30, 40, 60, 70, 90, 110, 120]
    assert [p for t, p in positions(db) if t == 2] == [45, 63]  # spans of 8: 40 to 47 ends with a young one
    assert positions(db, "validation") == [(1, 20), (1, 25), (1, 120)]
    assert done == (8, 1, 13)
    after = client.get("/runs/a")
    assert after["thinned"] == 8
    same = before.keys() - {"thinned", "reports"}
    assert {k: after[k] for k in same} == {k: before[k] for k in same}
    with db.reader() as connection:
        assert problems(connection) == []
        assert connection.execute(sa.select(sa.func.count()).select_from(Checkpoint)).scalar_one() == 1
    assert thin(db, 90) == (0, 0, 13)
    assert [entry["what"] for entry in client.get("/audit")["entries"] if entry["action"] == "reports thinned"] == [
        "8 reports of 1 runs, older than 90 days"
    ]


@pytest.mark.usefixtures("_few")
def test_what_was_done_before_it_was_stopped_stays_done(client: Client, db: Database, monkeypatch):
    for name in "ab":
        claim(client, name, PLAN)
        say(client, name, 1, list(range(1, 101)))
    age(db, OLD)
    whole = thinning._take
    calls: list[int] = []

    def stopped(connection: sa.Connection, curve: Any, before: float) -> int:
        calls.append(whole(connection, curve, before))
        if len(calls) == 5:
            raise RuntimeError("killed")
        return calls[-1]

    monkeypatch.setattr(thinning, "_take", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        thin(db, 90)
    left = 200 - 4 * 3  # the fifth transaction was not committed
    assert len(positions(db)) == left
    with db.reader() as connection:
        assert connection.execute(sa.select(sa.func.sum(RunRow.thinned))).scalar_one() == 12
    monkeypatch.setattr(thinning, "_take", whole)
    thin(db, 90)
    assert {p for _, p in positions(db)} == {15, 31, 47, 63, 79, 95, 100}  # a span of 16 positions begins at 0
    assert client.get("/runs/a")["thinned"] == 93


@pytest.mark.processes
def test_runs_report_meanwhile(client: Client, db: Database, monkeypatch):
    monkeypatch.setattr(thinning, "TOGETHER", 20)
    monkeypatch.setattr(thinning, "SPANS", 10)
    claim(client, "a", PLAN)
    say(client, "a", 1, list(range(1, 801)))
    age(db, OLD)
    stop, sent = threading.Event(), [800]

    def go_on() -> None:
        own = Client(client.url)
        while not stop.is_set():
            report(own, "a", 1, sent[-1] + 1)
            sent.append(sent[-1] + 1)
        own.close()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        until(lambda: len(sent) > 3, "the run reports")
        done = thin(db, 90)
    finally:
        stop.set()
        thread.join()
    assert done.reports > 780
    assert client.get("/runs/a")["position"] == sent[-1]
    assert {p for _, p in positions(db)} >= set(sent[1:])
    with db.reader() as connection:
        assert problems(connection) == []


def test_spans_are_powers_of_two_that_cut_a_lease_into_1000_to_2000():
    assert [span_of(n) for n in (0, 1, 999, 1999, 2000, 3999, 4000)] == [1, 1, 1, 1, 2, 2, 4]
    for furthest in (10**4, 123_456_789, 2**62):
        assert 1000 <= furthest / span_of(furthest) <= 2000


def test_the_command_says_how_many(root: Path, database: str | None, capsys):
    with serving(root, database) as client:
        claim(client, "a", PLAN)
        say(client, "a", 1, [1, 2])
    where = ["--database", database] if database else ["--root", str(root)]
    assert main(["thin", "--older-than", "90d", *where]) == 0
    assert capsys.readouterr().out == "thinned 0 reports of 0 runs; 2 are left\n"
    assert main(["thin", "--older-than", "90d", "--root", str(root / "pools")]) == 2
    assert "there is no database at" in capsys.readouterr().err
