"""Opt-out lists: who holds their documents and is fed them, what is refused, and that it is kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from epochal.__main__ import main
from epochal.service.client.client import Client
from epochal.service.database import open_database
from epochal.service.document_index import read_spans
from epochal.service.models import OptOut
from epochal.service.operations.backup import back_up, restore
from epochal.service.operations.consistency import problems
from epochal.service.security import AccessRules
from epochal.service.service import default_database
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.order.base import Order
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused, report

LISTED = [0, 3, 4, 20, 30, 41]
"""Documents of the pool that the list names, by number."""


def key_of(number: int) -> str:
    return number.to_bytes(16, "big").hex()


def documents() -> list[Any]:
    """Return a list that names them by key, by id, and as what a line may be, and one that is nowhere."""
    first, second, *rest = LISTED
    return [key_of(first), {"id": f"doc{second}"}, *(f"doc{n}" for n in rest), {"text": "a text of nobody"}]


def walked(root: Path, order: Order, stop: int) -> list[np.ndarray]:
    """Return the exposures of each token of the listed documents over positions of a plan on a window of the pool."""
    stream = np.zeros(3000, int)
    (plan,) = order.components().values()
    for id_ in order.ids(range(stop)).tolist():
        begin = (plan.start_sample + id_) * plan.seq_len
        stream[begin : min(begin + plan.seq_len, plan.start_sample * plan.seq_len + plan.unique_tokens)] += 1
    chunks = list(read_spans(str(root / "pools/toy")))
    spans = [span for chunk in chunks for span in zip(chunk["start"], chunk["tokens"], strict=True)]
    return [stream[spans[n][0] : sum(spans[n])] for n in LISTED]


def counted(tokens: list[np.ndarray]) -> dict[str, Any]:
    return {
        "documents": sum(bool(seen.any()) for seen in tokens),
        "tokens_fed": sum(int(seen.sum()) for seen in tokens),
        "most": max(int(seen.max()) for seen in tokens),
        "unknown": [],
    }


def holders(client: Client, kind: str, **more: Any) -> list[dict[str, Any]]:
    """Return all holders of a kind, asked for one at a time."""
    found, cursor = [], None
    while True:
        page = client.get("/optouts/asked/holders", kind=kind, limit=1, cursor=cursor, **more)
        found += page["holders"]
        cursor = page["next"]
        if cursor is None:
            return found
        assert len(page["holders"]) == 1


@pytest.mark.slow
def test_who_holds_them_and_what_is_refused_from_then_on(root: Path, client: Client):
    small = client.carve("toy", 800, name="small")["fingerprint"]
    tail = client.carve("toy", 500, replicate=1, name="tail")["fingerprint"]
    plans = {
        "whole": client.plan("toy", epochs=2, seed=1),
        "small": client.plan(small, epochs=1.5, seed=2, policy="fixed"),
        "repacked": client.plan("toy", epochs=1, policy="repack"),
        "tail": client.plan(tail, epochs=3),
    }
    token = claim(client, "live", plans["whole"], holder="a")["token"]
    report(client, "live", token, 100)
    claim(client, "over", plans["small"])
    report(client, "over", 1, 30)
    client.post("/runs/over/close", token=1, state="finished")
    claim(client, "else", plans["tail"])

    done = client.post("/optouts", name="asked", documents=documents())
    assert (done["name"], done["version"], done["lines"], done["new"]) == ("asked", 1, 7, True)
    assert (done["documents"], done["unmatched"], done["pools"], done["unread"]) == (6, 1, 1, [])
    assert (done["live_runs"], [run["run"] for run in done["live"]]) == (1, ["live"])
    again = client.post("/optouts", name="asked", documents=documents()[::-1])
    assert (again["new"], again["fingerprint"]) == (False, done["fingerprint"])

    assert [(h["name"], h["documents"]) for h in holders(client, "pool")] == [("toy", 6)]
    in_small = sum(a < 800 for a in starts(root))
    assert [(h["name"], h["documents"]) for h in holders(client, "subset")] == [("small", in_small)]
    shown = {h["fingerprint"]: h for h in holders(client, "plan")}
    assert set(shown) == {p.fingerprint for name, p in plans.items() if name != "tail"}
    for name in ("whole", "small"):
        plan = plans[name]
        assert shown[plan.fingerprint]["to_the_end"] == counted(walked(root, plan, plan.positions))
    assert shown[plans["repacked"].fingerprint]["to_the_end"]["documents"] == 6
    assert shown[plans["repacked"].fingerprint]["to_the_end"]["most"] == 1
    runs = {h["run"]: h for h in holders(client, "run")}
    assert set(runs) == {"live", "over"}
    assert runs["live"]["so_far"] == counted(walked(root, plans["whole"], 100))
    assert runs["live"]["to_the_end"] == counted(walked(root, plans["whole"], plans["whole"].positions))
    assert (runs["live"]["live"], runs["live"]["since"], runs["over"]["live"]) == (True, None, False)
    assert runs["over"]["so_far"] == counted(walked(root, plans["small"], 30))
    assert [h["run"] for h in holders(client, "run", live=True)] == ["live"]

    problem = refused(client.plan, "toy", epochs=3)
    assert (problem.status, problem.details["optouts"], problem.details["documents"]) == (409, "asked", 6)
    assert "opt-out list 'asked' (version 1) allows no exposures from now on, and this plan would feed 6" in str(
        problem
    )
    assert client.plan("toy", epochs=2, seed=1) == plans["whole"]  # it was there
    assert refused(claim, client, "new", plans["whole"]).status == 409
    assert refused(client.get, "/runs/new").status == 404
    report(client, "live", token, 120)  # nobody is stopped
    assert claim(client, "live", plans["whole"], holder="a", session="b")["token"] == 2  # its process began again
    client.post("/runs/live/close", token=2, state="stopped")
    assert refused(claim, client, "live", plans["whole"], holder="a").status == 409

    without = client.post("/subsets", pool="toy", unique_tokens=900, without_optouts=["asked"])
    clean = client.plan(without["fingerprint"], epochs=2)
    follows = {"parent": {"run": "live", "position": 100}}
    assert claim(client, "on", clean, **follows)["token"] == 1
    report(client, "on", 1, 50)
    row = client.get("/optouts/asked/runs/on")["held"]
    assert (row["documents"], row["since"]) == (0, {"run": "live", "position": 100})
    assert row["so_far"] == row["to_the_end"] == counted(walked(root, plans["whole"], 100))
    assert row["ancestry"][0]["documents"] == 0
    assert client.get("/optouts/asked/runs/else")["held"] is None

    client.post("/optouts", name="asked", documents=[])  # taken back
    assert client.plan("toy", epochs=3).positions
    assert [v["version"] for v in client.get("/optouts/asked")["versions"]] == [2, 1]
    assert client.get("/optouts/asked/documents", version=1, limit=2) == {
        "documents": [key_of(0), {"id": "doc3"}],
        "next": 2,
    }


def starts(root: Path) -> list[int]:
    found = [a for chunk in read_spans(str(root / "pools/toy")) for a in chunk["start"].tolist()]
    return [found[n] for n in LISTED]


@pytest.mark.slow
def test_a_subset_without_documents_is_the_one_that_the_command_carves(root: Path, client: Client, tmp_path: Path):
    made = client.post("/subsets", pool="toy", unique_tokens=700, without=documents())
    (tmp_path / "list.txt").write_text("\n".join([key_of(0), *(f"doc{n}" for n in LISTED[1:])]))
    subset, _ = carve(str(root / "pools/toy"), 700, out=str(tmp_path / "s"), without=[str(tmp_path / "list.txt")])
    manifest = read_manifest(subset)
    assert manifest.without is not None
    assert made["fingerprint"] == manifest.fingerprint
    assert made["name"] == f"toy-700-without-{manifest.without.digest[:8]}"
    assert made["manifest"]["without"]["by"][0]["name"] == "request"
    again = client.post("/subsets", pool="toy", unique_tokens=700, without=documents())
    assert again["fingerprint"] == made["fingerprint"]
    none = client.post("/subsets", pool="toy", unique_tokens=700, without=["nobody"], name="same")
    assert none["fingerprint"] == client.carve("toy", 700, name="all")["fingerprint"]
    for entry, status in (([{}], 422), ([{"key": "1"}], 422), (["\ud800"], 422), ([""], 422)):
        assert refused(client.post, "/optouts", name="bad", documents=entry).status == status
    assert refused(client.post, "/subsets", pool="toy", unique_tokens=9, without_optouts=["no"]).status == 404
    # A document that stays is seen in the subset, whose stream is its own, also when no run is named.
    plan = client.plan(made["fingerprint"], epochs=1)
    claim(client, "run", plan)
    report(client, "run", 1, plan.positions)
    (found,) = client.seen(key=key_of(1))["documents"]
    assert [run["exposures"]["most"] for run in found["runs"]] == [1]


def test_plans_of_which_it_is_not_known_are_refused(root: Path, client: Client):
    from epochal.shards.order.plan import Plan

    strange = Plan("f" * 32, 100, 1600, 16, 16_000, 1)
    client.post("/optouts", name="asked", documents=["doc1"])
    problem = refused(claim, client, "run", strange)
    assert (problem.status, problem.details["unknown"]) == (409, ["f" * 32])
    assert "is not known here: register it and its pool" in str(problem)


@pytest.mark.slow
def test_lists_are_backed_up_held_against_themselves_and_told_of(root: Path, database: str | None, tmp_path: Path):
    url, file = database or default_database(str(root)), str(tmp_path / "backup.db")
    with serving(root, database, AccessRules({"a" * 16: "write", "b" * 16: "read"})) as anybody:
        client, reader = (Client(anybody.url, token * 16, timeout=300) for token in "ab")
        for n in (1, 2):
            client.post("/optouts", name="asked", documents=[f"doc{i}" for i in range(n)])
        client.post("/optouts", name="asked", documents=["doc1", "doc0"])
        assert refused(reader.post, "/optouts", name="asked", documents=[]).status == 403
        told = [e["what"] for e in client.get("/audit")["entries"] if e["action"] == "opt-out list entered"]
        assert told == ["asked: version 2, 2 lines", "asked: version 1, 1 lines"]
        assert back_up(url, file)["optouts"] == 2
    restore(file, url, replace=True)
    with serving(root, database) as client:
        assert client.get("/optouts/asked")["version"] == 2
        assert refused(client.plan, "toy", epochs=1).details["documents"] == 2
    opened = open_database(url)
    with opened.engine.begin() as connection:
        assert problems(connection) == []
        connection.execute(sa.update(OptOut).where(OptOut.version == 2).values(documents=[[None, "doc7"]]))
        assert problems(connection) == [
            "opt-out list 'asked', version 2: its documents are not those that it was entered with"
        ]
        connection.execute(sa.delete(OptOut).where(OptOut.version == 1))
        assert "the version before it is not there" in problems(connection)[0]
    opened.close()


@pytest.mark.slow
def test_the_command_enters_lists_and_says_who_holds_them(root: Path, tmp_path: Path, capsys):
    entries = [{"id": "doc3"}, {"text": "of nobody"}, {"key": key_of(4)}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with serving(root) as client:
        where = ["--service", client.url]
        assert main(["optouts", *where]) == 0
        assert "no opt-out list was entered" in capsys.readouterr().out
        plan = client.plan("toy", epochs=2, name="two")
        claim(client, "live", plan)
        report(client, "live", 1, 10)
        assert main(["optouts", "asked", str(tmp_path / "list.jsonl"), *where]) == 0
        said = capsys.readouterr().out
        assert "list asked, version 1, is in force: 3 lines, 2 documents in 1 pool, 1 line matched nothing" in said
        assert "1 live run may feed them and go on:\n  live: " in said
        assert "of nobody" not in str(client.get("/optouts/asked/documents"))
        clean = client.post("/subsets", pool="toy", unique_tokens=900, without_optouts=["asked"])["fingerprint"]
        claim(client, "on", client.plan(clean, epochs=1), parent={"run": "live", "position": 188})
        assert main(["optouts", "asked", *where]) == 0
        said = capsys.readouterr().out
        assert "  two on toy: 2 documents, each at most 2 times to the end" in said
        assert "  live (live): " in said
        fed = "2 documents, each at most 1 time"
        assert f"  on (live): {fed} so far, {fed} to the end; 0 since position 188 of live" in said
        assert main(["optouts", *where]) == 0
        assert "asked" in capsys.readouterr().out
        assert main(["optouts", "none", *where]) == 2
        assert "there is no opt-out list 'none'" in capsys.readouterr().err
