"""The journal of a run: what a service has lost is sent again, and nothing counts as sent that it does not have."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from epochal.__main__ import main
from epochal.common.errors import WorkError
from epochal.service.client.client import AwayError, Client
from epochal.service.client.journal import JOURNAL, SENT, Journal
from epochal.service.client.reporter import Reporter, send_rest
from epochal.shards.order.plan import Plan
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import claim, refused

PLAN = Plan("a" * 32, 188, 3000, 16, 6000)


class Run:
    """A live run whose journal a test sends by hand, as the reporter's thread does."""

    def __init__(self, folder: Path, name: str = "live", **more: Any) -> None:
        self.warned: list[str] = []
        self.journal = Journal(str(folder), self.warned.append)
        body = {"name": name, "plan": PLAN.to_dict(), "batch_samples": 8, "holder": self.journal.holder()}
        sessions = sum(call["call"] == "claim" for call, _ in self.journal._calls(0))
        call = {
            "call": "claim",
            "url": "http://h",
            "body": body | {"session": f"s{sessions}", "lease_seconds": 60} | more,
        }
        self.journal.append([call])

    def report(self, *positions: int) -> "Run":
        self.journal.append([{"call": "reports", "body": {"position": p, "tokens": p}} for p in positions])
        return self

    def checkpoint(self, position: int) -> "Run":
        body = {"position": position, "name": f"ba{position}", "digest": None}
        self.journal.append([{"call": "checkpoints", "body": body}])
        return self


@contextmanager
def service(folder: Path) -> Iterator[tuple[Client, Path]]:
    """Serve an empty root with its database in `folder`."""
    with serving(folder) as client:
        yield client, folder / ".service"


def positions(client: Client, name: str = "live") -> list[int]:
    """Return the positions that the service has reports of."""
    return [report["position"] for report in client.get(f"/runs/{name}")["reports"]]


def test_a_live_run_registers_again_with_an_empty_database(tmp_path: Path):
    run = Run(tmp_path / "run").report(8, 16)
    with service(tmp_path / "one") as (client, _):
        run.journal.send(client)
    with service(tmp_path / "two") as (client, _):
        run.report(24).journal.send(client)
        assert positions(client) == [8, 16, 24]
        assert not run.journal.left
    assert run.warned == ["the service has lost this run: it is registered again, and its reports are sent again"]


def test_what_a_backup_lacks_is_sent_again(tmp_path: Path):
    run = Run(tmp_path / "run").report(8, 16).checkpoint(16)
    with service(tmp_path / "root") as (client, state):
        run.journal.send(client)
    shutil.copytree(state, tmp_path / "backup")
    with service(tmp_path / "root") as (client, state):
        run.report(24, 32).checkpoint(32).report(40).journal.send(client)
        assert positions(client) == [8, 16, 24, 32, 40]
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    with service(tmp_path / "root") as (client, _):
        assert positions(client) == [8, 16]
        run.journal.renew(client)  # a sign of life is enough to find out
        assert run.journal.left
        run.journal.send(client)
        assert positions(client) == [8, 16, 24, 32, 40]
        marks = [node["name"] for node in client.get("/lineage")["nodes"] if node["kind"] == "checkpoint"]
        assert sorted(marks) == ["ba16", "ba32"]
        assert client.get("/runs/live")["lease"] == 1
    assert run.warned == ["the service has lost 4 of this run's reports: they are sent again"]


@pytest.mark.parametrize("kept", ["nothing", "half", "all"])
def test_a_run_that_starts_again_sends_what_its_earlier_session_said(kept: str, tmp_path: Path):
    run = Run(tmp_path / "run").report(8)
    backups = {"nothing": tmp_path / "nothing", "half": tmp_path / "half", "all": tmp_path / "all"}
    backups["nothing"].mkdir()
    with service(tmp_path / "root") as (client, state):
        run.journal.send(client)
    shutil.copytree(state, backups["half"])
    with service(tmp_path / "root") as (client, _):
        run.report(16, 24).journal.send(client)
    run.journal.close()
    shutil.move(state, backups["all"])
    shutil.copytree(backups[kept], state)
    again = Run(tmp_path / "run").report(32)
    with service(tmp_path / "root") as (client, _):
        again.journal.send(client)
        assert positions(client) == [8, 16, 24, 32]
        assert client.get("/runs/live")["position"] == 32
    assert bool(again.warned) == (kept != "all")


def test_a_run_that_is_over_is_sent_again_by_register(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    with service(tmp_path / "one") as (client, _):
        reporter = Reporter(
            client.url, str(folder), {"name": "over", "plan": PLAN.to_dict(), "batch_samples": 8}, print
        )
        reporter.start()
        for position in range(0, 80, 8):
            reporter.report(position=position, tokens=position)
        reporter.close("finished", None, wait=100)
    with service(tmp_path / "two") as (client, _):
        for _ in range(2):
            assert main(["register", str(folder), "--service", client.url]) == 0
            assert positions(client, "over") == list(range(0, 80, 8))
            assert client.get("/runs/over")["state"] == "finished"
        assert client.get("/runs/over")["lease"] == 1
    captured = capsys.readouterr()
    assert captured.err.count("has lost this run") == 1
    assert captured.out.count("has all reports") == 2


def test_the_right_service_gets_what_a_wrong_one_was_told(tmp_path: Path):
    run = Run(tmp_path / "run").report(8)
    with service(tmp_path / "right") as (client, _):
        run.journal.send(client)
    with service(tmp_path / "wrong") as (client, _):
        claim(client, "live", PLAN, "another")  # a live run of that name: ours waits
        with pytest.raises(AwayError, match="leased to a live run"):
            run.report(16).journal.send(client)
        assert run.journal.left
        client.post("/runs/live/release")
        run.journal.send(client)
    with service(tmp_path / "right") as (client, _):
        run.report(24).journal.send(client)
        assert positions(client) == [8, 16, 24]


def test_what_comes_after_another_run_took_the_name_is_counted(tmp_path: Path, capsys):
    run = Run(tmp_path / "run", lease_seconds=1).report(8)
    with service(tmp_path / "root") as (client, _):
        run.journal.send(client)
        client.post("/runs/live/release")
        claim(client, "live", PLAN, "another")
        run.report(16, 24).journal.send(client)
        run.report(32).journal.send(client)
        assert len([text for text in run.warned if "taken over with number 2" in text]) == 1
        run.journal.close()
        assert main(["register", str(tmp_path / "run"), "--service", client.url]) == 0
    assert "all reports" in (said := capsys.readouterr().out)
    assert "but 3, made after another run had its name" in said


def test_a_parent_is_taken_over_where_it_was(tmp_path: Path):
    parent = Run(tmp_path / "parent", "parent").report(8)
    child = Run(tmp_path / "child", "child", parent={"run": "parent"}).report(16)
    with service(tmp_path / "one") as (client, _):
        parent.journal.send(client)
        child.journal.send(client)
        before = client.get("/runs/child")["fingerprint"]
        parent.report(80).journal.send(client)
    with service(tmp_path / "two") as (client, _):
        with pytest.raises(AwayError, match="there is no run 'parent'"):
            child.report(24).journal.send(client)
        parent.report(88).journal.send(client)
        child.journal.send(client)
        assert client.get("/runs/child")["fingerprint"] == before
        assert positions(client, "child") == [16, 24]


def test_a_refused_start_leaves_nothing_to_send(tmp_path: Path):
    with service(tmp_path / "root") as (client, _):
        claim(client, "taken", PLAN)
        reporter = Reporter(
            client.url, str(tmp_path / "run"), {"name": "taken", "plan": PLAN.to_dict(), "batch_samples": 8}, print
        )
        assert "leased to a live run" in str(refused(reporter.start))
    assert (tmp_path / "run" / JOURNAL).read_bytes() == b""


def test_claims_that_nothing_ran_under_are_not_made_again(tmp_path: Path):
    Run(tmp_path / "run", "other").journal.close()
    run = Run(tmp_path / "run").report(8)
    with service(tmp_path / "root") as (client, _):
        run.journal.send(client)
        assert [row["name"] for row in client.get("/runs")["runs"]] == ["live"]


@pytest.mark.parametrize("text", ["{", "[]", '{"offset": 10000}', '{"offset": "x"}', "[" * 100_000])
def test_damaged_progress_means_that_nothing_is_sent(text: str, tmp_path: Path):
    run = Run(tmp_path / "run").report(8)
    with service(tmp_path / "root") as (client, _):
        run.journal.send(client)
        run.journal.close()
        (tmp_path / "run" / SENT).write_text(text)
        warned: list[str] = []
        assert send_rest(str(tmp_path / "run"), warned.append, url=client.url)
        assert positions(client) == [8]
        assert "does not fit" in warned[0]


def test_progress_of_the_first_version_is_read(tmp_path: Path):
    run = Run(tmp_path / "run").report(8)
    with service(tmp_path / "root") as (client, _):
        run.journal.send(client)
        run.journal.close()
        old = {"offset": run.journal.progress.offset, "name": "live", "token": 1, "refused": False}
        (tmp_path / "run" / SENT).write_text(json.dumps(old))
        journal = Journal(str(tmp_path / "run"), print)
        journal.append([{"call": "reports", "body": {"position": 16, "tokens": 16}}])
        journal.send(client)
        assert positions(client) == [8, 16]


@pytest.mark.parametrize(
    "line", ['{"call": "../../limits", "body": {}}', "{", '{"call": "claim", "body": {"name": 1}}']
)
def test_a_line_that_is_no_call_is_named_and_not_sent(line: str, tmp_path: Path):
    run = Run(tmp_path / "run").report(8)
    with (tmp_path / "run" / JOURNAL).open("a") as f:
        f.write(line + "\n")
    with service(tmp_path / "root") as (client, _), pytest.raises(WorkError, match="is damaged before byte"):
        run.journal.send(client)


@pytest.mark.slow
def test_a_live_reporter_notices_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    warned: list[str] = []
    with service(tmp_path / "one") as (client, _):
        body = {"name": "live", "plan": PLAN.to_dict(), "batch_samples": 8}
        reporter = Reporter(client.url, str(tmp_path / "run"), body, warned.append, lease_seconds=1.0)
        reporter.start()
        reporter.report(position=8, tokens=8)
        until(lambda: not reporter._journal.left, "the report was sent")
    with service(tmp_path / "two") as (client, _):
        reporter._client = client
        until(lambda: client.get("/runs")["runs"] and positions(client) == [8], "it was sent again")
        reporter.close("stopped", None, wait=100)
