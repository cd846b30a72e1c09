"""Ids and lines of requests, and whether a server lives and is ready."""

import io
import json
import re
import threading
from pathlib import Path

import httpx
import pytest

from epochal.service.api.app import create_app
from epochal.service.observe.background import Background
from epochal.service.observe.log import RequestLog
from epochal.service.security import AccessRules
from epochal.service.service import Service
from epochal.tests.support.servers import serving, serving_app, until

TOKEN = "w" * 16


def logged(root: Path, style: str, *asked: tuple[str, dict[str, str]]) -> tuple[list[str], list[httpx.Response]]:
    """Return the lines that requests (path, headers) are written as, and their answers."""
    stream = io.StringIO()
    rules = AccessRules({TOKEN: "write"}, names={TOKEN: "ann"})
    service = Service(str(root))
    with serving_app(create_app(service, rules, RequestLog(style, stream))) as url:
        answers = [httpx.get(url + path, headers=headers) for path, headers in asked]
    return stream.getvalue().splitlines(), answers


def test_a_line_of_json_for_each_request(root: Path):
    own = {"authorization": f"Bearer {TOKEN}", "x-request-id": "job-17/3"}
    lines, answers = logged(root, "json", ("/runs/nobody?points=7", own), ("/artifacts", {}), ("/healthz", {}))
    first, second, third = map(json.loads, lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert 0 < first.pop("seconds") < 300
    assert first == {
        "level": "info",
        "request_id": "job-17/3",
        "method": "GET",
        "route": "/runs/{run}",
        "path": "/runs/nobody",
        "status": 404,
        "bytes": len(answers[0].content),
        "client": "127.0.0.1",
        "token": "ann",
    }
    assert (second["status"], second["route"], second["token"]) == (401, "", "")
    assert (third["status"], third["route"]) == (200, "/healthz")
    assert [a.headers["x-request-id"] for a in answers] == ["job-17/3", second["request_id"], third["request_id"]]
    assert TOKEN not in "".join(lines)


@pytest.mark.parametrize("given", ["", "a" * 129, "two words", 'quo"te', "ü"])
def test_ids_that_could_break_a_line_are_replaced(root: Path, given: str):
    lines, answers = logged(root, "json", ("/healthz", {"x-request-id": given.encode()}))
    assert re.fullmatch("[0-9a-f]{32}", json.loads(lines[0])["request_id"])
    assert answers[0].headers["x-request-id"] == json.loads(lines[0])["request_id"]


def test_a_line_of_text_shows_no_control_characters(root: Path):
    (line,), _ = logged(root, "text", ("/artifacts/%1b[2J%0aforged", {"authorization": f"Bearer {TOKEN}"}))
    assert " 404 GET /artifacts/\\x1b[2J\\nforged " in line
    assert " 127.0.0.1 ann " in line


def test_a_defect_is_a_line_with_the_requests_id(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("epochal.service.limits.listed", lambda connection: 1 // 0)
    lines, (answer,) = logged(root, "json", ("/limits", {"authorization": f"Bearer {TOKEN}", "x-request-id": "me"}))
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "me")
    found = {json.loads(line)["level"]: json.loads(line) for line in lines}
    assert (found["error"]["request_id"], found["error"]["error"]) == ("me", "ZeroDivisionError")
    assert "1 // 0" in found["error"]["traceback"]
    assert (found["info"]["status"], found["info"]["request_id"]) == (500, "me")


def test_what_a_slow_reader_does_not_take_is_dropped_and_counted():
    gate, done = threading.Event(), []
    slow: Background[int] = Background("slow", lambda item: (gate.wait(), done.append(item)), most=2)
    slow.put(0)
    until(lambda: slow.waiting == 0, "the first is worked at")
    for item in range(1, 6):
        slow.put(item)
    assert (slow.waiting, slow.dropped) == (2, 3)
    gate.set()
    slow.close(60)
    assert done == [0, 1, 2]
    slow.put(9)
    assert slow.dropped == 4


def test_ready_says_what_fails(root: Path):
    with serving(root) as client:
        assert client.get("/healthz") == {"status": "alive"}
        assert client.get("/readyz")["checks"] == {"database": "ok", "writer": "ok", "root": "ok"}
        root.rename(root.with_name("away"))
        answer = httpx.get(f"{client.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["root"] == "the folder with pools/ and subsets/ is not there"
        assert httpx.get(f"{client.url}/healthz").status_code == 200
        root.with_name("away").rename(root)
        assert client.get("/readyz")["status"] == "ready"
