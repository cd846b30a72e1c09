"""`epochal serve`: its check, how it stops, and the files that it is deployed with."""

import configparser
import gc
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
import yaml

from epochal.__main__ import main
from epochal.common.cli import command_parsers
from epochal.service.client.client import Client
from epochal.service.operations import check as checks
from epochal.shards.order.plan import Plan
from epochal.tests.support.servers import free_port, serving, start_server, wait_for
from epochal.tests.support.service_calls import claim, refused, report

DEPLOY = Path(__file__).parents[3] / "docs" / "deploy"


def checked(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, dict[str, str]]:
    """Return the status of `epochal serve --check` and what it says of each part, `ok` or `FAILED` first."""
    status = main(["serve", "--check", *words])
    lines = [line.split(":", 1) for line in capsys.readouterr().out.splitlines()]
    return status, {head.split()[1]: f"{head.split()[0]} {said.strip()}" for head, said in lines}


def test_the_check_says_what_there_is_and_makes_nothing(root: Path, capsys):
    status, said = checked(capsys, "--root", str(root))
    assert status == 0
    assert said["configuration"] == "ok address 127.0.0.1, port 8642; no tokens"
    assert said["root"] == "ok 1 pool, 0 subsets"
    assert said["database"].endswith("is made at the first start")
    assert said["migrations"] == "ok the tables of revision 0007 are made at the first start"
    assert " GB free at " in said["disk"]
    assert not (root / ".service").exists()
    with serving(root) as client:
        claim(client, "a", client.plan("toy", epochs=2))
        report(client, "a", 1, 8)
        status, said = checked(capsys, "--root", str(root))  # while it runs
    assert status == 0
    assert said["migrations"] == "ok revision 0007"
    assert said["ledger"] == "ok 1 run, 1 report, nothing contradicts anything"


def test_the_check_names_each_thing_that_fails(root: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "LEAST_FREE", 1 << 60)
    words = ["--host", "0.0.0.0", "--database", "postgresql://me:secret@127.0.0.1:1/x", "--root", str(tmp_path / "no")]
    status, said = checked(capsys, *words)
    assert status == 1
    assert {name: text.split()[0] for name, text in said.items()} == dict.fromkeys(
        ("configuration", "root", "database", "migrations", "ledger", "disk"), "FAILED"
    )
    assert "name tokens with --tokens FILE" in said["configuration"]
    assert said["root"].endswith("is no folder: make it, or name another with --root")
    assert "cannot be opened" in said["database"]
    assert "secret" not in str(said)
    with serving(root) as client:
        claim(client, "a", client.plan("toy", epochs=2))
        report(client, "a", 1, 8)
    connection = sqlite3.connect(root / ".service" / "epochal.db")
    connection.execute("UPDATE runs SET position = 9")
    connection.commit()
    connection.close()
    assert "no report says position 9" in checked(capsys, "--root", str(root))[1]["ledger"]


@pytest.mark.processes
def test_a_stop_ends_streams_and_keeps_leases(root: Path):
    port = free_port()
    server = start_server(root, port)
    try:
        client = Client(f"http://127.0.0.1:{port}", timeout=300)
        wait_for(client)
        plan = Plan("f" * 32, 100_000, 1_600_000, 16, 10**15)
        token = claim(client, "one", plan, lease_seconds=3600)["token"]
        report(client, "one", token, 64)
        url = f"{client.url}/plans/{plan.fingerprint}/order?start=0&count=1000000000&format=arrow"
        with httpx.stream("GET", url, timeout=300) as stream:
            parts = stream.iter_raw()
            next(parts)
            server.send_signal(signal.SIGTERM)
            started = time.monotonic()
            with pytest.raises(httpx.HTTPError):  # it is noticed that the end is missing
                for _ in parts:
                    pass
        assert server.wait(timeout=120) == 0
        assert time.monotonic() - started < 60
        server = start_server(root, port)
        wait_for(client)
        assert client.get("/runs/one")["live"]
        assert refused(claim, client, "one", plan, "another").status == 409
        assert report(client, "one", token, 72)["position"] == 72
    finally:
        server.kill()
        server.wait()


def test_what_was_imported_is_left_out_of_garbage_collection(root: Path, monkeypatch: pytest.MonkeyPatch):
    imported: list[int] = []

    def serve(server: uvicorn.Server, sockets: object) -> None:
        server.started = True
        imported.append(gc.get_freeze_count())

    monkeypatch.setattr(uvicorn.Server, "run", serve)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    try:
        assert main(["serve", "--root", str(root), "--port", str(free_port())]) == 0
    finally:
        gc.unfreeze()
    assert imported[0] > 100_000


def options(*words: str) -> None:
    """Assert that the command line takes these words."""
    parser = command_parsers({"serve": ("service.operations.serve", "")}, "epochal")["serve"]
    parser.parse_args(list(words))


def test_the_unit_starts_what_the_command_takes():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "epochal.service")
    for key in ("ExecStartPre", "ExecStart"):
        program, command, *words = unit["Service"][key].split()
        assert (Path(program).name, command) == ("epochal", "serve")
        options(*words)
    assert unit["Service"]["KillSignal"] == "SIGTERM"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path):
    text = (DEPLOY / "epochal.service").read_text().replace("/opt/epochal/bin/epochal", sys.executable)
    unit = tmp_path / "epochal.service"
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "epochal.service" not in done.stderr, done.stderr


def test_compose_starts_what_the_command_takes():
    """No Docker runs where the tests do: this holds the file against the command, the Dockerfile and itself."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = compose["services"]["service"]
    command, *words = service["command"]
    assert command == "serve"
    options(*words)
    asked = {secret for s in compose["services"].values() for secret in s["secrets"]}
    assert asked == set(compose["secrets"])
    assert set(service["depends_on"]) <= set(compose["services"])
    assert (DEPLOY / service["build"]["context"] / "Dockerfile").exists()
    assert 'ENTRYPOINT ["epochal"]' in (DEPLOY.parents[1] / "Dockerfile").read_text()
