"""Runs: who holds a name, what a restart goes on from, how a run closes."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epochal.service.client.client import Client, RefusedError
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.servers import PATIENCE, until
from epochal.tests.support.service_calls import claim, refused, report


def test_two_live_runs_never_hold_one_name(client: Client, root: Path):
    plan = client.plan("toy", epochs=2)
    answers: list[Any] = []

    def compete(holder: str) -> None:
        own = Client(client.url, timeout=PATIENCE)
        try:
            answers.append(claim(own, "one", plan, holder)["token"])
        except RefusedError as error:
            answers.append(error.status)
        own.close()

    threads = [threading.Thread(target=compete, args=(f"h{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answers) == {1: 1, 409: 7}
    assert "leased to a live run" in str(refused(claim, client, "one", plan, "late"))


@pytest.mark.slow
def test_a_lease_is_taken_over_where_it_was_left(client: Client):
    plan = client.plan("toy", epochs=2)
    first = claim(client, "one", plan, "a", lease_seconds=1)
    assert report(client, "one", 1, 50) == {"new": 1, "position": 50}
    assert report(client, "one", 1, 50, loss=9.0) == {"new": 0, "position": 50}  # a repeated report changes nothing
    assert report(client, "one", 1, 20)["position"] == 50  # and a late one does not lead back
    assert claim(client, "one", plan, "a", lease_seconds=1)["token"] == first["token"]  # the same session
    threading.Event().wait(1.1)
    taken = claim(client, "one", plan, "b")
    assert (taken["token"], taken["position"]) == (2, 50)
    stale = refused(report, client, "one", 1, 60)
    assert (stale.status, stale.details["token"]) == (409, 2)
    assert report(client, "one", 2, 40) == {"new": 1, "position": 40}  # it goes on from an earlier checkpoint
    assert claim(client, "one", plan, "b", session="restarted")["token"] == 3
    assert refused(report, client, "one", 3, plan.positions + 1).status == 422
    assert [r["position"] for r in client.get("/runs/one")["reports"]] == [20, 40, 50]


@pytest.mark.slow
def test_a_closed_run_frees_its_name_and_its_receipt_is_checked(client: Client):
    plan = client.plan("toy", epochs=1)
    receipts = Receipt(plan), Receipt(plan)
    receipts[0].add(np.arange(plan.positions), plan.ids(range(plan.positions)))
    receipts[1].add(np.arange(plan.positions), plan.ids(range(plan.positions))[::-1])
    for name, receipt, state in zip(("good", "bad"), receipts, ("valid", "not valid"), strict=True):
        token = claim(client, name, plan)["token"]
        client.post(f"/runs/{name}/close", token=token, state="finished", receipt=receipt.to_dict())
        until(lambda: client.get(f"/runs/{name}")["receipt"] != "not checked yet", "the receipt was checked")  # noqa: B023
        run = client.get(f"/runs/{name}")
        assert (run["receipt"], run["state"], run["live"]) == (state, "finished", False)
        assert claim(client, name, plan, "another")["token"] == token + 1
    # Nonsense is told as such, and stands in no other's way.
    for name, receipt in (("a", {"plan": plan.to_dict(), "count": -1}), ("b", {}), ("c", receipts[0].to_dict())):
        token = claim(client, name, plan)["token"]
        client.post(f"/runs/{name}/close", token=token, state="finished", receipt=receipt)
    until(lambda: client.get("/runs/c")["receipt"] == "valid", "the last receipt was checked")
    assert [client.get(f"/runs/{name}")["receipt"] for name in "ab"] == ["not valid"] * 2


def test_names_as_long_as_a_request_allows_fit(client: Client):
    plan = client.plan("toy", epochs=2)
    long = "n" * 128
    assert claim(client, long, plan, long)["token"] == 1
    mark = {"token": 1, "position": 8, "name": "\U0001f600" * 400}
    assert client.post(f"/runs/{long}/checkpoints", **mark) == {"new": True}
    assert refused(client.post, f"/runs/{long}/checkpoints", **mark | {"name": "x" * 401}).status == 422
    assert refused(claim, client, "x", plan, "n" * 129).status == 422
