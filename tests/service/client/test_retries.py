"""Requests that are made again: the pauses, and what is done once however often it is sent."""

import random
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from epochal.service.client import AwayError, Client, RefusedError, Retries
from epochal.service.client.retries import Attempts
from epochal.shards.order.plan import Plan
from epochal.tests.service.client.troubles import Troubles, troubles
from epochal.tests.support.servers import PATIENCE, serving
from epochal.tests.support.service_calls import claim, refused, report

QUICK = Retries(attempts=5, first=0.001)


def test_pauses_double_by_chance_and_end():
    def pauses(seed: int) -> list[float | None]:
        retries = Retries(attempts=6, first=1, longest=4, patience=100, chance=random.Random(seed).random)
        return [retries.pause(n, 0.0) for n in range(1, 7)]

    assert pauses(1) == pauses(1) != pauses(2)
    *found, end = pauses(1)
    assert end is None
    for pause, most in zip(found, (1, 2, 4, 4, 4), strict=True):
        assert most / 2 < (pause or 0) <= most
    assert len(set(found)) == 5


def test_what_the_answer_asks_for_comes_on_top_up_to_the_patience():
    retries = Retries(first=1, patience=30, chance=lambda: 0.0)
    assert retries.pause(1, 0.0, "7") == 8.0
    assert retries.pause(1, 22.0, "7") == 8.0
    assert retries.pause(1, 22.1, "7") is None
    assert retries.pause(1, 0.0, "3600") is None
    in_ten = retries.pause(1, 0.0, formatdate(time.time() + 10, usegmt=True))
    assert in_ten is not None
    assert 9.9 < in_ten <= 11.0
    for nonsense in ("soon", "", "-5", "²", "Mon, 99 Nov 2026 99:99:99 GMT"):
        assert retries.pause(1, 0.0, nonsense) == 1.0
    attempts, error = Attempts(Retries(attempts=2, first=0.5)), AwayError("x", again=True)
    assert attempts.pause(error) <= 0.5
    with pytest.raises(AwayError):
        attempts.pause(error)
    with pytest.raises(AwayError):
        Attempts(retries).pause(AwayError("an answer that cannot change"))


@pytest.fixture
def service(root: Path) -> Iterator[Client]:
    """Return a client without retries of a service over `root`."""
    with serving(root) as client:
        yield client


@pytest.fixture
def met(service: Client) -> Iterator[Troubles]:
    """Return the troubles before it."""
    with troubles(service.url) as found:
        yield found


@pytest.fixture
def client(met: Troubles) -> Client:
    """Return a client with retries that meets the troubles."""
    return Client(met.url, timeout=PATIENCE, retries=QUICK)


def test_each_failure_that_may_pass_is_tried_again_and_no_other(service: Client, met: Troubles, client: Client):
    for trouble in ("429", "502", "503", "504", "drop", "lost"):
        met.met[:], met.asked = [trouble, ""], 0
        assert client.health() == service.health()
        assert met.asked == 2, trouble
    met.met[:], met.asked = ["503"] * 5, 0
    with pytest.raises(AwayError, match="not now"):
        client.health()
    assert met.asked == 5
    met.met[:] = ["502"] * 5
    with pytest.raises(AwayError, match="is away: a proxy answers with status 502"):
        client.health()
    for trouble, error in (("500", AwayError), ("404", RefusedError), ("409", RefusedError)):
        met.met[:], met.asked = [trouble, ""], 0
        with pytest.raises(error):
            client.health()
        assert met.asked == 1, trouble
        met.met.clear()
    with pytest.raises(AwayError, match="no service answers"):
        Client("http://127.0.0.1:1", retries=QUICK).health()


def test_an_answer_that_does_not_come_in_time_is_not_asked_for_again(met: Troubles):
    met.met[:] = [lambda: time.sleep(0.6)]
    with pytest.raises(AwayError, match="no service answers"):
        Client(met.url, timeout=0.2, retries=QUICK).health()
    assert met.asked == 1


def test_the_rest_of_an_order_is_asked_for_where_the_connection_breaks(
    service: Client, met: Troubles, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("epochal.service.api.order_stream.CHUNK", 100)
    plan = service.plan("toy", epochs=5)
    met.met[:], met.asked = ["half", "503", "half", ""], 0
    parts = list(client.order_chunks(plan.fingerprint, 3, 900))
    assert met.asked == 4
    assert len(parts) > 5
    assert [i for part in parts for i in part] == plan.ids(range(3, 903)).tolist()
    met.met[:] = ["drop"] * 5
    with pytest.raises(AwayError):
        client.order(plan.fingerprint, 0, 10)


# -- writes -----------------------------------------------------------------------------------------------------------

KEYED = {"POST /plans", "POST /runs/{run}/release", "POST /limits", "DELETE /limits/{number}", "POST /optouts"}
"""What another request may undo between two attempts: done once by its key."""

BY_NATURE = {
    "POST /subsets",  # content and folder decide
    "POST /runs",  # the session
    *(f"POST /runs/{{run}}/{call}" for call in ("reports", "checkpoints", "close", "lease")),  # the lease's number
    "POST /documents/exposures",  # reads
}


def test_every_write_is_one_or_the_other(service: Client):
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    writes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods if method != "get"}
    assert writes == KEYED | BY_NATURE
    keyed = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method, said in methods.items()
        if any(p["name"] == "idempotency-key" for p in said.get("parameters", []))
    }
    assert keyed == KEYED


def audited(client: Client) -> list[tuple[str, str]]:
    """Return the changes that were made, in order."""
    return [(e["action"], e["what"]) for e in reversed(client.get("/audit")["entries"])]


def test_a_limit_that_another_removes_meanwhile_is_not_set_again(service: Client, met: Troubles, client: Client):
    met.met[:] = ["503", "drop", lambda: service.remove_limit(1), "lost", ""]
    assert client.set_limit("tokens", 5)["id"] == 1
    assert met.asked == 5
    assert len(set(met.keys)) == 1
    assert service.limits()["limits"] == []
    assert [action for action, _ in audited(service)] == ["limit set", "limit removed"]


def test_a_limit_that_gets_the_number_of_the_one_that_was_removed_stays(service: Client, met: Troubles, client: Client):
    service.set_limit("tokens", 5)
    met.met[:] = [lambda: service.set_limit("tokens", 6), "lost", ""]
    assert client.remove_limit(1) == {"removed": 1}
    assert [limit["cap"] for limit in service.limits()["limits"]] == [6]


def test_an_optout_list_that_another_takes_back_meanwhile_stays_so(service: Client, met: Troubles, client: Client):
    met.met[:] = ["lost", lambda: service.opt_out("asked", []), ""]
    assert client.opt_out("asked", ["doc1"])["version"] == 1
    assert service.optout("asked")["version"] == 2


def test_a_run_name_that_another_claims_meanwhile_stays_its(service: Client, met: Troubles, client: Client):
    plan = service.plan("toy", epochs=2)
    claim(service, "a", plan, "dead")
    met.met[:] = [lambda: claim(service, "a", plan, "alive"), "lost", ""]
    assert client.release("a")["seconds"] > 0
    assert service.run("a")["live"]
    assert refused(claim, service, "a", plan, "third").status == 409


def test_a_name_that_another_plan_gets_meanwhile_stays_its(service: Client, met: Troubles, client: Client):
    others: list[Plan] = []

    def rename() -> None:
        others.append(service.plan("toy", epochs=3, name="best"))  # type: ignore[arg-type]

    met.met[:] = [rename, ""]
    client.plan("toy", epochs=2, name="best")
    assert service.get("/plans/best")["total_tokens"] == others[0].total_tokens


def test_keys_are_of_one_request_and_one_sender_and_nothing_is_kept_of_a_refusal(service: Client):
    def send(cap: int, key: str, **headers: str) -> httpx.Response:
        body = {"kind": "tokens", "cap": cap}
        return httpx.post(f"{service.url}/limits", json=body, headers={"idempotency-key": key, **headers})

    assert (send(5, "k").json(), send(5, "k").status_code) == (send(5, "k").json(), 200)
    other = send(6, "k")
    assert other.status_code == 422
    assert "that of another request" in other.json()["detail"]
    assert send(6, "k", authorization="Bearer other").status_code == 200
    assert [limit["cap"] for limit in service.limits()["limits"]] == [5, 6]
    gone = {"idempotency-key": "d"}
    assert httpx.delete(f"{service.url}/limits/3", headers=gone).status_code == 404
    service.set_limit("tokens", 7)
    assert httpx.delete(f"{service.url}/limits/3", headers=gone).status_code == 200


def test_an_answer_is_kept_for_a_day(service: Client, monkeypatch: pytest.MonkeyPatch):
    key = {"idempotency-key": "k"}

    def send() -> int:
        return httpx.post(f"{service.url}/limits", json={"kind": "tokens", "cap": 5}, headers=key).json()["id"]

    number = send()
    service.remove_limit(number)
    send()
    assert service.limits()["limits"] == []
    monkeypatch.setattr("epochal.service.operations.once.KEPT_SECONDS", 0.0)
    send()
    assert len(service.limits()["limits"]) == 1


@pytest.mark.slow
def test_what_needs_no_key_changes_nothing_when_its_answer_is_lost(service: Client, met: Troubles, client: Client):
    plan = service.plan("toy", epochs=2)

    def told() -> list[Any]:
        runs = [{k: v for k, v in run.items() if not k.startswith("receipt")} for run in service.runs()["runs"]]
        nodes = service.lineage()["nodes"]
        reports = [r for run in runs for r in service.run(run["name"])["reports"]]
        return [audited(service), runs, reports, nodes, service.artifacts()["artifacts"]]

    receipt = {"no": "receipt"}
    calls: list[Callable[[Client], Any]] = [
        lambda c: c.carve("toy", 800, name="small"),
        lambda c: claim(c, "a", plan, session="s"),
        lambda c: report(c, "a", 1, 40, loss=2.0, kind="nll"),
        lambda c: c.post("/runs/a/checkpoints", token=1, position=40, name="ba5"),
        lambda c: c.post("/runs/a/lease", token=1),
        lambda c: c.post("/runs/a/close", token=1, state="finished", receipt=receipt),
    ]
    seen: list[Any] = []
    for call in calls:
        met.met[:], met.asked = ["503", "drop", lambda: seen.append(told()), "lost", ""], 0
        call(client)
        assert met.asked == 5
        assert told() == seen[-1], "a repeated request changed something"
    assert [action for action, _ in audited(service)] == [
        "plan entered",
        "artifact registered",
        "name leased",
        "run closed",
    ]
