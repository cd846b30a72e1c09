"""Exposures over HTTP against walking every position; the curve of a plan against counting."""

import errno
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epochal.__main__ import main
from epochal.service import bounds, document_index
from epochal.service.client.client import AwayError, Client
from epochal.service.document_index import read_spans
from epochal.service.exposures import exposure_curve
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.order.base import Order
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.pools import EOD, random_documents, write_pool
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import claim, refused, report


def brute_force(
    root: Path, history: list[tuple[Order, int]], pools: dict[str, str] | None = None
) -> dict[str, list[int]]:
    """Return the exposures of every token of every document that lies in a pool, by walking every position.

    pools: the pool of a subset by fingerprint; of all others it is `toy`.
    """
    streams = {name: np.zeros(3000, int) for name in {"toy", *(pools or {}).values()}}
    for order, stop in history:
        ids = order.ids(range(stop))
        where, inner = order.locate(ids)
        for s, plan in enumerate(order.components().values()):
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
        assert all(s["source_position"] == mixed.counts(200)["ab".index(name)] for name, s in sources.items())
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
        assert [(a["run"], a["position"]) for a in shown["ancestry"]] == [("second", 200), ("first", 150)]
        assert (shown["unique_tokens_seen"], shown["expected"]) == (mixed.unique_tokens_seen(200), False)
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
        client.remove_limit(cap["id"])
        for subset, would_be in ((small, 3), (other, 2)):
            cap = client.post("/limits", kind="subset_exposures", cap=would_be - 1, subset=subset)
            assert refused(claim, client, "fourth", mixed, **again).details["would_be"] == would_be
            assert claim(client, "elsewhere", first, "x")["position"] == 0  # it does not train on that subset
            client.remove_limit(cap["id"])
        cap = client.post("/limits", kind="tokens", cap=10)
        in_all = first.tokens_before(150) + mixed.tokens
        assert refused(claim, client, "fourth", mixed, **again).details["would_be"] == in_all
        client.remove_limit(cap["id"])
        receipt = Receipt(mixed)
        receipt.add(np.arange(mixed.positions), mixed.ids(range(mixed.positions)))
        token = claim(client, "fourth", mixed, **again)["token"]
        client.post("/runs/fourth/close", token=token, state="finished", receipt=receipt.to_dict())
        until(lambda: client.get("/runs/fourth")["receipt"] == "valid", "the receipt was found valid")


def test_a_disk_without_room_for_an_index_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/key.npy")

    with serving(root) as client:
        client.get("/artifacts")  # the pool is known from now on
        with monkeypatch.context() as patch:
            patch.setattr(document_index, "_build", full)
            with pytest.raises(AwayError, match="no space left on the disk of the service: free some"):
                client.seen(id="doc1")
        assert client.seen(id="doc1")["documents"]
    said = capfd.readouterr().err
    assert "epochal: no space left on the disk at /a/key.npy: free some" in said
    assert "Traceback" not in said


def test_texts_are_looked_up_by_the_hash_a_build_gives_them(client: Client, tmp_path: Path):
    assert "no document with key ff734a0b6c5d9e0f3900c2422d8cc5e1" in str(refused(client.seen, text=" Hello world\r\n"))
    (tmp_path / "text").write_text("Hello world")
    words = ["seen", "--service", client.url, "--text", str(tmp_path / "text")]
    assert main(words) == 2


def test_curves_equal_counting(make_pool):
    for policy in ("reshuffle", "global"):
        plan = Plan("0" * 32, 50, 250, 5, 900, 1, policy)
        for point in exposure_curve(plan, 9)["points"]:
            counts = np.bincount(plan.ids(range(point["position"])).astype(int), minlength=50)
            found = point["unseen"], point["least"], point["most"]
            assert found == pytest.approx(((counts == 0).mean(), counts.min(), counts.max()))
    large = exposure_curve(Plan("0" * 32, 50, 250, 5, 10**6, 1, "global"), 3)
    assert (large["kind"], large["points"][1]["least"]) == ("expected", None)


def test_what_is_taken_out_is_fed_no_more_from_where_the_run_goes_on(client: Client, root: Path, tmp_path: Path):
    """A run goes on from position 200 of another on a subset without some documents: parent and child are counted."""
    (tmp_path / "keys.txt").write_text("doc3\ndoc20\n")
    subset, _ = carve(str(root / "pools" / "toy"), 1500, without=[str(tmp_path / "keys.txt")])
    a, b = client.plan("toy", epochs=2, seed=1), client.plan(os.path.basename(subset), epochs=3, seed=2)
    report(client, "a", claim(client, "a", a)["token"], 200)
    claim(client, "b", b, parent={"run": "a", "position": 200})
    report(client, "b", 1, b.positions)
    expected = brute_force(root, [(a, 200)])
    edges = [(e["from"], e["to"]) for e in client.get("/lineage", of=b.subset)["edges"]]
    assert (a.subset, b.subset) in edges
    (gone,) = client.seen(id="doc3", run="b")["documents"]
    counts = expected[gone["key"]]
    found = [i["exposures"] for i in gone["runs"][0]["intervals"] for _ in range(i["start"], i["stop"])]
    assert found == counts  # those of the parent alone: 0 since position 200
    assert max(counts) > 0
    (kept,) = client.seen(id="doc0", run="b")["documents"]
    assert kept["runs"][0]["exposures"]["least"] >= 3 + min(expected[kept["key"]])
    most = max(map(max, brute_force(root, [(a, 200)]).values()))
    client.post("/limits", kind="exposures", cap=most + 3)
    assert claim(client, "again", b, parent={"run": "a", "position": 200})["position"] == 0
    client.post("/limits", kind="exposures", cap=most + 2)
    assert refused(claim, client, "more", b, parent={"run": "a", "position": 200}).details["would_be"] == most + 3


def test_a_look_up_among_too_many_copies_is_refused(client: Client, monkeypatch):
    plan = client.plan("toy", epochs=40, policy="global")
    report(client, "a", claim(client, "a", plan)["token"], 20)
    key = client.seen(id="doc1")["documents"][0]["key"]
    monkeypatch.setattr(bounds, "MOST_COPIES_LOOKED_AT", 40)
    assert "one look-up goes through at most 40: name a run (run=)" in str(refused(client.seen, key=key))
    other = client.plan("toy", epochs=40)
    claim(client, "b", other)
    assert client.seen(key=key, run="b")["documents"]


def test_what_a_run_was_fed_is_known_as_soon_as_its_pool_is(make_pool, tmp_path: Path):
    """What is remembered of a run's stretches is not that they were unknown."""
    make_pool(3000)
    elsewhere = write_pool(tmp_path / "elsewhere", 1200, name="other")
    manifest = read_manifest(str(elsewhere))
    with serving(tmp_path / "artifacts") as client:
        plan = Plan.for_artifact(manifest, 2 * manifest.tokens)
        report(client, "r", claim(client, "r", plan)["token"], plan.positions)
        for _ in range(2):
            (before,) = client.seen(id="doc2")["documents"]
            assert [(run["unknown"], run["tokens_fed"]) for run in before["runs"]] == [(["r"], 0)]
        assert main(["register", str(elsewhere), "--root", str(tmp_path / "artifacts")]) == 0
        for _ in range(2):
            runs = [run for document in client.seen(id="doc2")["documents"] for run in document["runs"]]
            assert [run["unknown"] for run in runs] == [[]]
            assert runs[0]["exposures"] == {"least": 2, "most": 2, "mean": 2.0}
