"""The audit log: who changed what, by the names of tokens, together with the change, and bounded."""

import json
from pathlib import Path

import httpx
import pytest

from epochal.__main__ import main
from epochal.service.client.client import Client
from epochal.service.operations import audit
from epochal.service.security import AccessRules
from epochal.service.service import Service
from epochal.shards import carve
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused, report

ANN, BOB = "a" * 16, "b" * 16
RULES = AccessRules({ANN: "write", BOB: "read"}, names={ANN: "ann", BOB: "bob"})


def told(client: Client) -> list[tuple[str, str, str]]:
    """Return who did what, the oldest first."""
    return [(e["who"], e["action"], e["what"]) for e in reversed(client.get("/audit")["entries"])]


def test_each_change_is_entered_once_with_who_made_it(root: Path, database: str | None):
    with serving(root, database, RULES) as anybody:
        client = Client(anybody.url, ANN, timeout=300)
        plan = client.plan("toy", epochs=2, name="two")
        client.plan("toy", epochs=2)  # nothing new
        run = claim(client, "one", plan)["run"]
        claim(client, "one", plan)  # the same session again
        report(client, "one", 1, 10)
        client.post("/runs/one/close", token=1, state="finished")
        client.post("/runs/one/release")
        limit = client.post("/limits", kind="tokens", cap=10**9)["id"]
        httpx.delete(f"{client.url}/limits/{limit}", headers={"authorization": f"Bearer {ANN}", "x-request-id": "r7"})
        refused(client.post, "/limits", kind="nonsense", cap=1)
        subset = client.carve("toy", 500, name="small")["fingerprint"]
        assert told(client) == [
            ("ann", "plan entered", f"two {plan.fingerprint}"),
            ("ann", "name leased", f"one: lease 1, run {run}"),
            ("ann", "run closed", "one: finished, lease 1"),
            ("ann", "name released", f"one: run {run}"),
            ("ann", "limit set", f"{limit}: tokens 1,000,000,000"),
            ("ann", "limit removed", str(limit)),
            ("ann", "artifact registered", f"subset small {subset}"),
        ]
        newest = client.get("/audit", limit=2)
        assert [e["action"] for e in newest["entries"]] == ["artifact registered", "limit removed"]
        assert newest["entries"][1]["request"] == "r7"
        assert client.get("/audit", before=newest["next"], limit=1)["entries"][0]["action"] == "limit set"
        assert ANN not in json.dumps(client.get("/audit"))
        assert refused(Client(client.url, BOB).get, "/audit").status == 403


def test_what_fails_is_not_entered(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "enter", lambda *_: 1 // 0)
    answer = httpx.post(f"{client.url}/limits", json={"kind": "tokens", "cap": 5})
    assert answer.status_code == 500
    assert client.get("/limits")["limits"] == []  # the change and its entry are one
    assert client.get("/audit")["entries"] == []


def test_a_command_is_entered_with_its_user(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("LOGNAME", "carla")
    elsewhere, _ = carve.carve(str(root / "pools" / "toy"), 500, out=str(tmp_path / "elsewhere"), materialize=True)
    assert main(["register", elsewhere, "--root", str(root)]) == 0
    with serving(root) as client:
        ((who, action, what),) = told(client)
    assert (who, action) == ("carla (epochal register)", "artifact registered")
    assert what.startswith("subset elsewhere ")


def test_the_oldest_entries_go(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "MOST_ENTRIES", 150)
    service = Service(str(root))
    asker = audit.Asker("w", "", "")

    def many(connection) -> None:
        for i in range(400):
            audit.enter(connection, asker, "test", str(i))

    service.write(many)
    kept = [int(e["what"]) for e in service.read(audit.listed, None, 1000)]
    service.close()
    assert kept == list(range(399, 249, -1))
