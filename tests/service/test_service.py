"""The service over HTTP: catalogue, plans, orders, leases, reports, limits, the ledger; on SQLite and PostgreSQL."""

import itertools
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import epochal
from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.service.client import reporter
from epochal.service.client.client import AwayError, Client, RefusedError
from epochal.service.client.reporter import JOURNAL, Reporter, send_rest
from epochal.service.database import open_database
from epochal.service.document_index import read_spans
from epochal.service.models import Base
from epochal.service.security import Buckets, Policy, read_tokens
from epochal.service.service import Service, exposure_curve
from epochal.shards import carve
from epochal.shards.order.mixture import Mixture, plans_of
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.pools import EOD, random_documents
from epochal.tests.support.servers import DATABASES, PATIENCE, postgresql, serving, until


@pytest.fixture
def root(make_pool, tmp_path: Path) -> Path:
    """Return a root with one pool `toy` of 3000 tokens in 188 samples of 16."""
    make_pool(3000)
    return tmp_path / "artifacts"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "ANSWER_SECONDS", PATIENCE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Return the URL of a database of a PostgreSQL server."""
    with postgresql() as url:
        yield url


@pytest.fixture(params=DATABASES)
def database(request) -> str | None:
    """Return the URL of an empty database; None is the default, SQLite under the root."""
    if request.param == "sqlite":
        return None
    url = request.getfixturevalue("cluster")
    opened = open_database(url)
    Base.metadata.drop_all(opened.engine)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    opened.close()
    return url


@pytest.fixture
def client(root: Path, database: str | None) -> Iterator[Client]:
    """Return a client of a service over `root`."""
    with serving(root, database) as client:
        yield client


def claim(client: Client, name: str, plan: Plan, holder: str = "a", **more: Any) -> Any:
    """Claim a run's name."""
    body = {"plan": plan.to_dict(), "batch_samples": 8, "holder": holder, "session": holder} | more
    return client.post("/runs", name=name, **body)


def report(client: Client, name: str, token: int, position: int, **more: Any) -> Any:
    """Report one position."""
    return client.post(f"/runs/{name}/reports", token=token, reports=[{"position": position, "tokens": 0} | more])


def refused(call, *args, **kwargs) -> RefusedError:
    """Return what a call is refused with; it is one sentence."""
    with pytest.raises(RefusedError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.slow
def test_from_pool_to_look_up(client: Client, root: Path):
    (pool,) = client.get("/artifacts")["artifacts"]
    assert (pool["kind"], pool["name"], pool["tokens"]) == ("pool", "toy", 3000)
    subset = client.carve("toy", "1.003k")
    assert (subset["tokens"], subset["manifest"]["parent"]["name"]) == (1003, "toy")
    assert client.carve("toy", 1003) == subset
    assert (root / "subsets" / subset["name"] / "manifest.json").exists()
    plan = client.plan(subset["name"], epochs=3, seed=5, name="three")
    assert plan == client.plan(subset["fingerprint"], total_tokens=3009, seed=5)
    assert plan.fingerprint == client.get("/plans/three")["fingerprint"]
    assert np.array_equal(client.order("three", 10, 150), plan.ids(range(10, 160)))
    assert client.get("/plans/three/order", start=10, count=5)["ids"] == plan.ids(range(10, 15)).tolist()
    assert client.get("/plans/three/positions", ids=[7, 8], **{"pass": 2}) == {
        "pass": 2,
        "ids": [7, 8],
        "positions": plan.position_of([7, 8], 2).tolist(),
    }
    assert client.get("/plans/three/exposures", position=70)["samples"] == {"1": 56, "2": 7}
    assert client.get("/plans/three/exposures", position=70, ids=[1, 2])["exposures"] == (
        plan.exposures(70, [1, 2]).tolist()
    )
    assert client.get("/plans/three/digest", start=3, stop=90)["digest"] == plan.digest(3, 90)
    lease = claim(client, "first", plan)
    report(client, "first", lease["token"], 100, loss=2.5, kind="nll", digest=plan.digest(0, 100))
    assert client.get("/runs/first/receipt")["valid"]
    (run,) = client.get("/runs", live=True)["runs"]
    assert (run["position"], run["loss"], run["kind"], run["step"], run["steps"]) == (100, 2.5, "nll", 13, 24)
    (found,) = client.seen(id="doc3", run="first")["documents"]
    seen = plan.exposures(100, [part["sample"] for part in found["runs"][0]["segments"][0]["parts"]])
    assert [p["exposures"] for p in found["runs"][0]["segments"][0]["parts"]] == seen.tolist()
    nodes = {node["kind"] for node in client.get("/lineage", of="first")["nodes"]}
    assert nodes == {"pool", "subset", "plan", "run"}


@pytest.mark.slow
def test_a_name_moves_and_a_fingerprint_does_not(client: Client, root: Path, make_pool):
    before = client.get("/artifacts/toy")
    (root / "pools" / "toy").rename(root / "pools" / "older")
    make_pool(4000)
    service_sees_it(client, 4000)
    now = client.get("/artifacts/toy")
    assert [h["fingerprint"] for h in now["history"]] == [before["fingerprint"], now["fingerprint"]]
    assert client.get(f"/artifacts/{before['fingerprint']}")["manifest"] == before["manifest"]
    tokens = [a["tokens"] for a in client.get("/artifacts", name="to", least_tokens=3500)["artifacts"]]
    assert tokens == [4000]
    assert len(client.get("/artifacts", fingerprint=before["fingerprint"][:5], tokenizer="byt")["artifacts"]) == 1
    assert client.get("/artifacts", name="o%")["artifacts"] == []


def service_sees_it(client: Client, tokens: int) -> None:
    """Return when the service has looked at its folder again."""
    until(lambda: client.get("/artifacts", least_tokens=tokens)["artifacts"], "the new pool was found")


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


@pytest.mark.slow
def test_limits_refuse_a_run_before_it_starts(client: Client):
    small = client.carve("toy", 800)["fingerprint"]
    whole, half = client.plan("toy", epochs=4), client.plan(small, epochs=3, policy="fixed", seed=2)
    token = claim(client, "parent", whole)["token"]
    report(client, "parent", token, 2 * whole.samples)
    child = {"parent": {"run": "parent", "position": 2 * whole.samples}}
    exposures = client.post("/limits", kind="exposures", cap=4)
    assert client.post("/limits", kind="exposures", cap=4)["id"] == exposures["id"]
    problem = refused(claim, client, "child", half, **child)
    assert (problem.status, problem.details["would_be"], problem.details["excess"]) == (409, 5, 1)
    assert "allows 4 exposures of a document, this run would come to 5: 1 too many" in str(problem)
    assert refused(client.get, "/runs/child").status == 404
    client._call("DELETE", f"/limits/{exposures['id']}")
    own = client.post("/limits", kind="subset_exposures", cap=2, subset=small)
    assert refused(claim, client, "child", half, **child).details["would_be"] == 3
    assert claim(client, "other", whole)["token"] == 1  # the limit is of another subset
    client._call("DELETE", f"/limits/{own['id']}")
    client.post("/limits", kind="tokens", cap=8399)
    assert refused(claim, client, "child", half, **child).details["excess"] == 1  # 2 x 3000 + 3 x 800
    assert claim(client, "child", half, parent={"run": "parent", "position": 2 * whole.samples - 1})["token"] == 1


def brute_force(
    root: Path, history: list[tuple[Plan | Mixture, int]], pools: dict[str, str] | None = None
) -> dict[str, list[int]]:
    """Return the exposures of every token of every document that lies in a pool, by walking every position.

    pools: the pool of a subset by fingerprint; of all others it is `toy`.
    """
    streams = {name: np.zeros(3000, int) for name in {"toy", *(pools or {}).values()}}
    for order, stop in history:
        ids = order.ids(range(stop))
        where, inner = order.locate(ids) if isinstance(order, Mixture) else (np.zeros(stop, int), ids)
        for s, plan in enumerate(plans_of(order).values()):
            stream, low = streams[(pools or {}).get(plan.subset, "toy")], plan.start_sample * plan.seq_len
            for id_ in inner[where == s].tolist():
                begin = low + id_ * plan.seq_len
                stream[begin : min(begin + plan.seq_len, low + plan.unique_tokens)] += 1
    seen: dict[str, Any] = {}
    for name, stream in streams.items():
        for chunk in read_spans(str(root / "pools" / name)):
            for key, start, n in zip(*chunk.values(), strict=True):
                seen[key.as_py().hex()] = seen.get(key.as_py().hex(), 0) + stream[start : start + n]
    return {key: counts.tolist() for key, counts in seen.items()}


@pytest.mark.slow
def test_the_ledger_follows_a_run_through_subsets_and_policies(client: Client, root: Path, capsys):
    """A run continued twice, on other subsets with other policies, against walking every position."""
    a = client.plan(client.carve("toy", 1003)["name"], epochs=4, seed=1)
    b = client.plan(client.carve("toy", 700, replicate=1)["name"], epochs=5, seed=2, policy="global")
    c = client.plan("toy", total_tokens=4000, seed=3, policy="fixed")
    report(client, "a", claim(client, "a", a)["token"], 200)
    claim(client, "b", b, parent={"run": "a", "position": 111})
    report(client, "b", 1, 100)
    claim(client, "c", c, parent={"run": "b"})
    report(client, "c", 1, 230)
    expected = brute_force(root, [(a, 111), (b, 100), (c, 230)])
    for key, counts in list(expected.items())[::4]:
        (document,) = client.seen(key=key, run="c")["documents"]
        found = [i["exposures"] for i in document["runs"][0]["intervals"] for _ in range(i["start"], i["stop"])]
        assert found == counts
        assert document["runs"][0]["exposures"] == pytest.approx(
            {"least": min(counts), "most": max(counts), "mean": sum(counts) / len(counts)}
        )
    histogram = client.histogram("c")
    assert histogram["whole"] == {str(k): n for k, n in sorted(Counter(map(min, expected.values())).items())}
    assert histogram["any"] == {str(k): n for k, n in sorted(Counter(map(max, expected.values())).items())}
    assert histogram["tokens"] == {str(k): n for k, n in sorted(Counter(itertools.chain(*expected.values())).items())}
    assert main(["seen", "--service", client.url, "--run", "c", "--histogram", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == histogram
    as_of = client.seen(key=key, run="a", position=0)["documents"][0]["runs"][0]
    assert (as_of["exposures"]["most"], as_of["first"]) == (0, None)
    assert main(["seen", "--service", client.url, "--document", "doc1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("document  doc1  (toy, ")
    assert re.search(r"^c +\d.*position [\d,]+, step \d+ of a", out, re.M)


def the_same_documents(n_tokens: int) -> np.ndarray:
    """Return the first documents of the pool `toy`, `n_tokens` tokens at most."""
    tokens = random_documents(3000)
    return tokens[: np.flatnonzero(tokens[:n_tokens] == EOD)[-1] + 1]


@pytest.mark.slow
def test_the_ledger_follows_runs_on_mixtures(root: Path, database: str | None, make_pool):
    """A plan, continued on a mixture of two pools that share documents, continued on one in stages; all walked."""
    make_pool(the_same_documents(2000), name="other")
    with serving(root, database) as client:
        small, other = client.carve("toy", 700)["fingerprint"], client.get("/artifacts/other")["fingerprint"]
        rest = client.carve("toy", 700, replicate=1)["fingerprint"]
        first = client.plan("toy", epochs=2, seed=1)
        amounts = {
            "a": {"subset": small, "epochs": 3, "policy": "fixed", "seed": 4},
            "b": {"subset": "other", "epochs": "1.5", "policy": "global"},
        }
        mixed = client.mixture(amounts, window=20, seed=7, name="mix")
        assert client.mixture(amounts, window=20, seed=7).fingerprint == client.get("/plans/mix")["fingerprint"]
        stages = [{"tokens": "1k", "weights": {"a": 1}}, {"weights": {"a": 1, "c": 2}}]
        parts = {"a": {"subset": small}, "c": {"subset": rest, "policy": "sequential"}}
        staged = client.mixture(parts, stages=stages, window=30, total_tokens=5000)
        # The order, its inverse, counts and digests are the mixture's own.
        assert np.array_equal(client.order("mix", 10, 150), mixed.ids(range(10, 160)))
        assert client.get("/plans/mix")["offsets"] == list(mixed.offsets)
        places = client.get("/plans/mix/positions", ids=[1, 60], **{"pass": 1})["positions"]
        assert places == [p if p < mixed.positions else None for p in mixed.position_of([1, 60], 1).tolist()]
        assert client.get("/plans/mix/positions", ids=[60], **{"pass": 2})["positions"] == [None]
        assert refused(client.get, "/plans/mix/positions", ids=[0], **{"pass": 3}).status == 422
        counted = client.get("/plans/mix/exposures", position=99)["samples"]
        assert {int(k): n for k, n in counted.items()} == mixed.histogram(99)
        found = client.get("/plans/mix/exposures", position=99, ids=[1, 60])["exposures"]
        assert found == mixed.exposures(99, [1, 60]).tolist()
        assert client.get("/plans/mix/digest", start=3, stop=90)["digest"] == mixed.digest(3, 90)
        for point in client.get("/plans/mix/curve")["points"]:
            counts = np.bincount(mixed.ids(range(point["position"])).astype(int), minlength=mixed.samples)
            found = point["unseen"], point["least"], point["most"]
            assert found == pytest.approx(((counts == 0).mean(), counts.min(), counts.max()))
        # A model that went through all three.
        report(client, "first", claim(client, "first", first)["token"], 200)
        claim(client, "second", mixed, parent={"run": "first", "position": 150})
        report(client, "second", 1, 200)
        claim(client, "third", staged, parent={"run": "second"})
        report(client, "third", 1, 240)
        history = [(first, 150), (mixed, 200), (staged, 240)]
        expected = brute_force(root, history, {other: "other"})
        for key, counts in list(expected.items())[::3]:
            (run,) = client.seen(key=key, run="third")["documents"][0]["runs"]
            assert [i["exposures"] for i in run["intervals"] for _ in range(i["start"], i["stop"])] == counts
        (run,) = client.seen(id="doc1", run="second")["documents"][0]["runs"]
        ids = mixed.ids(range(200)).tolist()
        sources = {s["source"]: s for s in run["segments"] if s["run"] == "second"}
        assert sources
        for number, name in enumerate("ab"):
            for part in sources[name]["parts"] if name in sources else ():
                at = [p for p, id_ in enumerate(ids) if id_ == part["sample"] + mixed.offsets[number]]
                assert (part["exposures"], part["first"]) == (len(at), at[0] if at else None)
        assert client.histogram("third") == {
            "run": "third",
            "fingerprint": client.get("/runs/third")["fingerprint"],
            "position": 240,
            "ancestry": [
                {"run": name, "plan": order.fingerprint, "position": stop}
                for name, (order, stop) in zip(("third", "second", "first"), history[::-1], strict=True)
            ],
        } | {
            name: {str(k): n for k, n in sorted(Counter(values).items())}
            for name, values in (
                ("whole", map(min, expected.values())),
                ("any", map(max, expected.values())),
                ("tokens", itertools.chain(*expected.values())),
            )
        }
        shown = client.get("/runs/second")
        assert [s["position"] for s in shown["sources"]] == mixed.counts(200)
        assert shown["passes"] == mixed.tokens_before(200) / mixed.unique_tokens
        assert client.get("/plans", subset="other")["plans"][0]["subset_names"] == ["toy-700", "other"]
        edges = {(e["from"], e["to"]) for e in client.get("/lineage", of="second")["edges"]}
        assert {(small, mixed.fingerprint), (other, mixed.fingerprint)} <= edges
        # Limits count what the whole history and every source come to.
        whole = brute_force(root, [(first, 150), (mixed, mixed.positions)], {other: "other"})
        most = max(map(max, whole.values()))
        cap = client.post("/limits", kind="exposures", cap=most - 1)
        again = {"parent": {"run": "first", "position": 150}}
        assert refused(claim, client, "fourth", mixed, **again).details["would_be"] == most
        client._call("DELETE", f"/limits/{cap['id']}")
        for subset, would_be in ((small, 3), (other, 2)):
            cap = client.post("/limits", kind="subset_exposures", cap=would_be - 1, subset=subset)
            assert refused(claim, client, "fourth", mixed, **again).details["would_be"] == would_be
            assert claim(client, "elsewhere", first, "x")["position"] == 0  # it does not train on that subset
            client._call("DELETE", f"/limits/{cap['id']}")
        cap = client.post("/limits", kind="tokens", cap=10)
        in_all = first.tokens_before(150) + mixed.tokens
        assert refused(claim, client, "fourth", mixed, **again).details["would_be"] == in_all
        client._call("DELETE", f"/limits/{cap['id']}")
        receipt = Receipt(mixed)
        receipt.add(np.arange(mixed.positions), mixed.ids(range(mixed.positions)))
        token = claim(client, "fourth", mixed, **again)["token"]
        client.post("/runs/fourth/close", token=token, state="finished", receipt=receipt.to_dict())
        until(lambda: client.get("/runs/fourth")["receipt"] == "valid", "the receipt was found valid")


@pytest.mark.slow
def test_wrong_mixtures_are_told_in_one_sentence(client: Client):
    small = client.carve("toy", 700)["fingerprint"]
    both = {"a": {"subset": small, "epochs": 1}, "b": {"subset": "toy", "epochs": 1}}
    assert "hold the same samples of one pool" in str(refused(client.mixture, both))
    assert "needs one of epochs, tokens, weight" in str(refused(client.mixture, {"a": {"subset": small}}))
    weights = {"a": {"subset": small, "weight": 1}}
    assert "give total_tokens" in str(refused(client.mixture, weights))
    assert "leave total_tokens and epochs out" in str(refused(client.mixture, {"a": both["a"]}, epochs=1))
    assert "there is no artifact 'nobody'" in str(refused(client.mixture, {"a": {"subset": "nobody", "epochs": 1}}))
    assert "give either subset or mixture" in str(refused(client.post, "/plans", epochs=1))
    mixed = client.mixture(weights, total_tokens=1400)
    data = mixed.to_dict()
    for change in (
        {"sources": [{"name": 1, "plan": data["sources"][0]["plan"]}]},
        {"sources": "x"},
        {"sources": [None]},
        {"stages": [{"positions": 2**63, "shares": [1]}]},
        {"stages": [{"positions": "1", "shares": [[1]]}]},
        {"stages": []},
        {"window": 0},
        {"seed": "x"},
        {"mixture_version": 2},
        {"fingerprint": "0" * 32},
    ):
        body = {"plan": data | change, "batch_samples": 8, "holder": "h", "session": "s"}
        assert refused(client.post, "/runs", name="r", **body).status in (409, 422)
    body["plan"] = data | {"stages": [{"positions": mixed.positions, "shares": [2**70]}]}
    assert "integers of 64 bits" in str(refused(client.post, "/runs", name="r", **body))


def test_plans_of_the_first_version_keep_their_subset(tmp_path: Path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
    config = Config()
    config.set_main_option("script_location", "epochal.service:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        plan = Plan("a" * 32, 10, 100, 10, 200)
        values = {"f": plan.fingerprint, "s": plan.subset, "p": json.dumps(plan.to_dict())}
        connection.execute(
            sa.text("INSERT INTO plans (fingerprint, subset, plan, added) VALUES (:f, :s, :p, 0)"), values
        )
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT plan, subset FROM plan_subsets").all() == [(values["f"], "a" * 32)]
    opened.close()


def test_texts_are_looked_up_by_the_hash_a_build_gives_them(client: Client, tmp_path: Path):
    assert "no document with key ff734a0b6c5d9e0f3900c2422d8cc5e1" in str(refused(client.seen, text=" Hello world\r\n"))
    (tmp_path / "text").write_text("Hello world")
    words = ["seen", "--service", client.url, "--text", str(tmp_path / "text")]
    assert main(words) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/nothing", None, 404, "Not Found"),
        ("GET", "/artifacts/..%2f..%2fetc", None, 404, "Not Found"),
        ("GET", "/artifacts/nobody", None, 404, "there is no artifact 'nobody'"),
        ("GET", "/plans/nobody/order", None, 404, "there is no plan 'nobody'"),
        ("GET", "/documents/xyz/exposures", None, 422, "key: String should match pattern"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": 100, "name": "../x"}, 422, "name: String should match"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": 4000}, 422, "asked for 4,000 unique tokens, but pool"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": "1.5"}, 422, "unique_tokens '1.5' is not a whole number"),
        ("POST", "/subsets", {"pool": "toy"}, 422, "unique_tokens: Field required"),
        ("POST", "/plans", {"subset": "toy"}, 422, "give either total_tokens or epochs"),
        ("POST", "/plans", {"subset": "toy", "epochs": 1, "color": 1}, 422, "color: Extra inputs are not permitted"),
        (
            "POST",
            "/plans",
            {"subset": "toy", "total_tokens": 10**13, "policy": "global"},
            422,
            "at most 1,000,000 passes",
        ),
        (
            "POST",
            "/runs",
            {"name": "r", "plan": {}, "batch_samples": 1, "holder": "h", "session": "s"},
            422,
            "no plan of",
        ),
        (
            "POST",
            "/runs/r/reports",
            {"token": 1, "reports": [{"position": 1, "tokens": 1}]},
            404,
            "there is no run 'r'",
        ),
    ],
)
def test_bad_requests_are_told_in_one_sentence(root: Path, method, path, body, status, sentence):
    with serving(root) as client:
        answer = httpx.request(method, client.url + path, json=body)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_an_unchecked_name_never_reaches_the_file_system(root: Path, tmp_path: Path):
    (root / "subsets").symlink_to(tmp_path)
    with serving(root) as client:
        assert "leads out of" in str(refused(client.carve, "toy", 100, name="x"))
    assert not (tmp_path / "x").exists()
    (root / "pools" / "linked").symlink_to(tmp_path)
    assert Service(str(root))._scanner.scan()[0].manifest.name == "toy"


@pytest.mark.slow
def test_tokens_sizes_rates_and_origins(root: Path):
    tokens = {"r" * 16: "read", "w" * 16: "write"}
    policy = Policy(tokens, frozenset({"127.0.0.1"}), body_bytes=1000, rate=1000, burst=30)
    with serving(root, policy=policy) as client:

        def ask(method: str, path: str, token: str = "", **how: Any) -> tuple[int, str]:
            headers = {"authorization": f"Bearer {token or '-'}"} | how.pop("headers", {})
            answer = httpx.request(method, client.url + path, headers=headers, **how)
            return answer.status_code, answer.json()["detail"] if answer.status_code >= 400 else ""

        assert ask("GET", "/artifacts")[0] == 401
        assert ask("GET", "/artifacts", "r" * 15)[0] == 401
        assert ask("GET", "/artifacts", "r" * 16)[0] == 200
        assert ask("POST", "/documents/exposures", "r" * 16, json={"text": "x"})[0] == 404
        assert ask("POST", "/limits", "r" * 16, json={"kind": "tokens", "cap": 1}) == (403, "this token may only read")
        assert ask("POST", "/limits", "w" * 16, json={"kind": "tokens", "cap": 1})[0] == 200
        assert ask("POST", "/limits", "w" * 16, content=b" " * 1001)[0] == 413
        assert ask("POST", "/limits", "w" * 16, content=(b" " * 600 for _ in range(2)))[0] == 413
        assert ask("GET", "/", headers={"host": "evil.example"}, follow_redirects=False)[0] == 403
        assert ask("GET", "/artifacts", "r" * 16, headers={"origin": "http://evil.example"})[0] == 403
        assert Client(client.url, "w" * 16).get("/artifacts")["artifacts"]
    buckets = Buckets(10, 2)
    assert [buckets.take("a") > 0 for _ in range(3)] == [False, False, True]
    assert buckets.take("b") == 0
    assert read_tokens(None, {"EPOCHAL_TOKENS": f"read:{'r' * 16}, write:{'w' * 16}"}) == tokens
    with pytest.raises(RequestError, match="entry 1 must be a role"):
        read_tokens(None, {"EPOCHAL_TOKENS": "read:short"})


def test_other_addresses_demand_tokens_and_ports_are_checked(root: Path, capsys):
    assert main(["serve", "--root", str(root), "--host", "0.0.0.0"]) == 2
    assert "can be reached from other machines: name tokens" in capsys.readouterr().err
    with serving(root) as client:
        assert main(["serve", "--root", str(root), "--port", client.url.rpartition(":")[2]]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert main(["serve", "--root", str(root), "--database", "mysql://x/y"]) == 2
    assert main(["seen", "--service", client.url, "--document", "x"]) == 1
    assert "start it with epochal serve" in capsys.readouterr().err


def test_registering_what_lies_elsewhere(root: Path, make_pool, tmp_path: Path, capsys):
    elsewhere, _ = carve.carve(str(root / "pools" / "toy"), 500, out=str(tmp_path / "elsewhere"), materialize=True)
    assert main(["register", elsewhere, "--root", str(root)]) == 0
    assert "registered subset elsewhere" in capsys.readouterr().out
    assert main(["register", str(tmp_path / "nothing"), "--root", str(root)]) == 2
    with serving(root) as client:
        assert client.get("/artifacts/elsewhere")["locations"][0]["path"] == elsewhere


def test_migrations_make_the_tables_of_the_models(database: str | None, tmp_path: Path):
    opened = open_database(database or f"sqlite:///{tmp_path}/x.db")
    with opened.engine.connect() as connection:
        newest = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    with opened.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RequestError, match="made by a newer epochal"):
        open_database(database or f"sqlite:///{tmp_path}/x.db")
    with opened.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{newest}'")
    opened.close()


def test_a_database_that_cannot_be_opened_is_one_line():
    with pytest.raises(WorkError, match="cannot be opened") as caught:
        open_database("postgresql://nobody:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_a_write_that_fails_takes_no_other_with_it(tmp_path: Path):
    opened = open_database(f"sqlite:///{tmp_path}/x.db")
    insert = "INSERT INTO limits (kind, cap, added) VALUES ('tokens', {}, 0)"
    statements = [insert.format(i if i % 3 else "NULL") for i in range(9)]
    futures = [opened.write(lambda c, s=s: c.exec_driver_sql(s) and None) for s in statements]
    assert [f.exception() is None for f in futures] == [bool(i % 3) for i in range(9)]
    with opened.reader() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM limits").scalar() == 6
    opened.close()


def test_curves_equal_counting(make_pool):
    for policy in ("reshuffle", "global"):
        plan = Plan("0" * 32, 50, 250, 5, 900, 1, policy)
        for point in exposure_curve(plan, 9)["points"]:
            counts = np.bincount(plan.ids(range(point["position"])).astype(int), minlength=50)
            found = point["unseen"], point["least"], point["most"]
            assert found == pytest.approx(((counts == 0).mean(), counts.min(), counts.max()))
    large = exposure_curve(Plan("0" * 32, 50, 250, 5, 10**6, 1, "global"), 3)
    assert (large["kind"], large["points"][1]["least"]) == ("expected", None)


@pytest.mark.slow
def test_reports_wait_on_the_disk_while_the_service_is_away(root: Path, tmp_path: Path, capsys):
    warned: list[str] = []
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
    body = {"name": "away", "plan": plan.to_dict(), "batch_samples": 8}
    reporter = Reporter(client.url, str(tmp_path / "run"), body, warned.append)
    reporter.start()
    for position in range(0, 80, 8):
        reporter.report(position=position, tokens=16 * position, digest=plan.digest(0, position))
    reporter.close("finished", None, wait=0.1)
    assert "the run goes on" in warned[0]
    assert "epochal register" in warned[1]
    lines = (tmp_path / "run" / JOURNAL).read_text().splitlines()
    assert [json.loads(line)["call"] for line in lines] == ["claim"] + ["reports"] * 10 + ["close"]
    with pytest.raises(AwayError):
        send_rest(str(tmp_path / "run"), warned.append)
    with serving(root) as client:  # at another port: the address in the journal is corrected
        text = (tmp_path / "run" / JOURNAL).read_text()
        (tmp_path / "run" / JOURNAL).write_text(re.sub(r"http://127.0.0.1:\d+", client.url, text))
        assert main(["register", str(tmp_path / "run"), "--root", str(root)]) == 0
        assert main(["register", str(tmp_path / "run"), "--root", str(root)]) == 0  # nothing is left to send
        run = client.get("/runs/away")
        assert (run["state"], run["position"], len(run["reports"])) == ("finished", 72, 10)


def test_a_refusal_at_the_start_is_told_and_another_process_cannot_share_the_folder(root: Path, tmp_path: Path):
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
        claim(client, "taken", plan)
        body = {"name": "taken", "plan": plan.to_dict(), "batch_samples": 8}
        assert "leased to a live run" in str(refused(Reporter(client.url, str(tmp_path / "r"), body, print).start))
        reporter = Reporter(client.url, str(tmp_path / "r"), body | {"name": "mine"}, print)
        reporter.start()
        with pytest.raises(RequestError, match="in use by another process"):
            Reporter(client.url, str(tmp_path / "r"), body, print)
        reporter.report(position=16, tokens=256)
        reporter.checkpoint(16, "ba2", None)
        reporter.close("stopped", None)
        again = Reporter(client.url, str(tmp_path / "r"), body | {"name": "mine"}, print)
        again.start()  # the same folder: no waiting for the lease to end
        again.close("stopped", None)
        run = client.get("/runs/mine")
        assert (run["position"], run["lease"]) == (16, 2)
        assert [n["name"] for n in client.get("/lineage", of="mine")["nodes"] if n["kind"] == "checkpoint"] == ["ba2"]


@pytest.mark.slow
def test_the_command_line_needs_none_of_the_services_packages():
    code = "import sys; sys.modules.update(fastapi=None, httpx=None); from epochal.__main__ import main; "
    code += "sys.exit(main(['serve']) + main(['seen', '--document', 'x']))"
    path = str(Path(epochal.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 4
    assert done.stderr.count("the service's packages are not installed: pip install") == 2
