"""Lists a page at a time, curves of long runs, and lineage among more than one answer holds."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from epochal.service import catalogue
from epochal.service.api.lineage import lineage
from epochal.service.catalogue import ArtifactQuery
from epochal.service.client.client import Client
from epochal.service.service import Service
from epochal.shards.order.plan import Plan
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused


def walk(client: Client, path: str, key: str, **query: Any) -> list[str]:
    """Return the fingerprints of a list, page by page."""
    found, cursor = [], None
    while True:
        body = client.get(path, limit=3, cursor=cursor, **query)
        assert len(body[key]) <= 3
        found += [row["fingerprint"] for row in body[key]]
        cursor = body["next"]
        if cursor is None:
            return found


def test_every_list_comes_a_page_at_a_time_each_row_once(client: Client):
    plans = [client.plan("toy", epochs=n) for n in range(1, 8)]
    for i, plan in enumerate(plans):
        claim(client, f"run-{i}", plan, f"h{i}")
    for n in (100, 200, 300, 400):
        client.post("/subsets", pool="toy", unique_tokens=n, replicate=0)
    for path, key, most in (("/plans", "plans", 1000), ("/runs", "runs", 1000), ("/artifacts", "artifacts", 1000)):
        whole = [row["fingerprint"] for row in client.get(path, limit=most)[key]]
        assert walk(client, path, key) == whole
        assert len(set(whole)) == len(whole) == {"plans": 7, "runs": 7, "artifacts": 5}[key]
        assert refused(client.get, path, cursor="1~x").status == 422
    some = client.get("/runs", name="run-", limit=2)
    assert (len(some["runs"]), some["total"], some["live"]) == (2, 7, 7)
    assert walk(client, "/runs", "runs", name="run-1") == [client.get("/runs/run-1")["fingerprint"]]


def test_a_long_runs_curve_has_its_first_and_last_report_and_the_newest_leases(client: Client):
    plan = client.plan("toy", epochs=40)
    token = claim(client, "long", plan, "a")["token"]
    said = [{"position": p, "tokens": 16 * p, "loss": float(p), "kind": "nll"} for p in range(1, 2001)]
    for i in range(0, len(said), 500):
        client.post("/runs/long/reports", token=token, reports=said[i : i + 500])
    token = claim(client, "long", plan, "a", session="again")["token"]
    client.post("/runs/long/reports", token=token, reports=[said[999] | {"loss": 0.5}])
    reports = client.get("/runs/long", points=10)["reports"]
    at = [r["position"] for r in reports]
    assert at[0] == 1
    assert at[-1] == 2000
    assert len(at) <= 11
    assert at == sorted(set(at))
    assert max(b - a for a, b in pairwise(at)) <= 2 * 2000 / 10
    whole = {r["position"]: r["loss"] for r in client.get("/runs/long", points=5000)["reports"]}
    assert len(whole) == 2000
    assert whole[1000] == 0.5  # said anew under the later lease
    assert all(whole[r["position"]] == r["loss"] for r in reports)


def test_the_lineage_of_what_is_old_is_whole_however_much_came_later(client: Client):
    made = client.post("/subsets", pool="toy", unique_tokens=500, replicate=0)
    old = client.plan(made["fingerprint"], epochs=2)
    token = claim(client, "old", old, "h")["token"]
    client.post("/runs/old/reports", token=token, reports=[{"position": 9, "tokens": 9}])
    client.post("/runs/old/checkpoints", token=token, position=9, name="ba1")
    claim(client, "child", old, "h2", parent={"run": "old", "position": 9})
    for n in range(3, 9):
        claim(client, f"later-{n}", client.plan("toy", epochs=n), f"l{n}")
    whole = client.get("/lineage", of="old")
    kinds = sorted(node["kind"] for node in whole["nodes"])
    assert kinds == ["checkpoint", "plan", "pool", "run", "run", "subset"]
    assert whole["cut"] is False
    newest = client.get("/lineage", limit=3)
    assert newest["cut"] is True
    assert sum(node["kind"] == "run" for node in newest["nodes"]) == 3
    # With the same few nodes an answer about an old one still has all of it.
    assert {n["id"] for n in client.get("/lineage", of="old", limit=3)["nodes"]} == {n["id"] for n in whole["nodes"]}


def test_a_page_is_asked_for_as_often_as_a_row(make_pool, tmp_path: Path):
    make_pool(3000)
    service = Service(str(tmp_path / "artifacts"))
    service.refresh(at_once=True)
    manifest = service.manifest("pool", "toy")
    for i in range(10):
        service.enter_plan(Plan.for_artifact(manifest, 9000, seed=i), f"plan-{i}")
        service.carve("toy", 100 + i, 0, None)
    asked = []
    event.listen(service.db.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))

    def questions(of: Callable[[Connection, int], Any], rows: int) -> int:
        del asked[:]
        service.read(of, rows)
        return len(asked)

    lists: dict[str, Callable[[Connection, int], Any]] = {
        "plans": lambda connection, n: service.plans(None, None, n),
        "artifacts": lambda connection, n: catalogue.search(connection, ArtifactQuery(limit=n)),
        "lineage": lambda connection, n: lineage(connection, None, n),
    }
    try:
        for name, of in lists.items():
            assert questions(of, 10) == questions(of, 1) > 0, name
    finally:
        service.close()


def test_a_thinned_curve_has_the_last_report_of_each_span_whichever_lease_it_is_of(make_pool, tmp_path: Path):
    make_pool(3000)
    chance = random.Random(3)
    with serving(tmp_path / "artifacts") as client:
        plan = client.plan("toy", epochs=20)
        said: dict[str, dict[int, int]] = {"train": {}, "validation": {}}  # by position the newest lease
        for lease in (1, 2, 3):
            claim(client, "r", plan, "h", session=f"s{lease}")
            first = 700 * (lease - 1)  # each goes on from before where the last one ended
            for split, n in (("train", 400), ("validation", 30)):
                positions = sorted(chance.sample(range(first, first + 1500), n))
                common = {"loss": float(lease), "kind": "nll", "split": split}
                rows = [common | {"position": p, "tokens": p} for p in positions]
                client.post("/runs/r/reports", token=lease, reports=rows)
                said[split] |= dict.fromkeys(positions, lease)
        for split, most in (("train", 50), ("validation", 7), ("validation", 500)):
            newest = dict(sorted(said[split].items()))
            first, width = min(newest), (max(newest) - min(newest)) // most + 1
            last = {(p - first) // width: p for p in newest}
            kept = sorted({first, *last.values()}) if len(newest) > most else list(newest)
            found = client.get("/runs/r", split=split, points=most)["reports"]
            assert [(r["position"], r["token"]) for r in found] == [(p, newest[p]) for p in kept]
