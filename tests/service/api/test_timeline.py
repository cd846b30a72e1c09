"""A document's timeline: every position that fed it, whatever the policy, over a run's ancestry."""

from pathlib import Path
from typing import Any

import pytest

from epochal.service.api import documents
from epochal.service.client import Client
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused, report


def fed(client: Client, plan: str, stop: int, key: str) -> list[tuple[int, int, int]]:
    """Return (position, begin, tokens) of a document by walking every position."""
    walked = client.documents(plan, 0, stop)
    return [(p["position"], d["begin"], d["tokens"]) for p in walked for d in p["documents"] if d["key"] == key]


@pytest.mark.slow
def test_every_position_of_every_policy_is_on_it(root: Path, monkeypatch: pytest.MonkeyPatch):
    with serving(root) as client:
        halves = [client.carve("toy", 1200, replicate)["fingerprint"] for replicate in (0, 1)]
        mixed = {n: {"subset": s, "epochs": 3, "policy": "repack"} for n, s in zip("ab", halves, strict=True)}
        plans: list[Any] = [client.plan("toy", epochs=3, seed=4, policy=p) for p in ("reshuffle", "repack", "global")]
        plans += [client.plan("toy", epochs=3, skip=[[20, 150, "spike"]]), client.mixture(mixed, seed=2)]
        parent = None
        for i, plan in enumerate(plans):
            claim(client, f"r{i}", plan, f"h{i}", **({"parent": {"run": parent, "position": 220}} if parent else {}))
            report(client, f"r{i}", 1, 220)
            parent = f"r{i}"
        read = client.contents(plans[-1].fingerprint, 0, 1)["positions"][0]
        document = client.seen(key=read["documents"][0]["key"], run="r4")["documents"][0]
        found = client.timeline(document["key"], "r4")
        assert [s["run"] for s in found["stretches"]] == ["r4", "r3", "r2", "r1", "r0"]
        assert [s["position"] for s in found["stretches"]] == [220] * 5
        for stretch in found["stretches"]:
            walked = fed(client, stretch["plan"], stretch["position"], document["key"])
            assert [(e["position"], e["begin"], e["tokens"]) for e in stretch["events"]] == walked
            assert (stretch["times"], sum(stretch["spans"])) == (len(walked), len(walked))
            assert walked
        assert sum(s["tokens_fed"] for s in found["stretches"]) == document["runs"][0]["tokens_fed"]
        assert {e["source"] for e in found["stretches"][0]["events"]} == {read["component"]}
        assert {e["source"] for e in found["stretches"][1]["events"]} == {None}
        of_first = found["stretches"][-1]["events"]
        assert [e["pass"] for e in of_first] == [e["position"] // plans[0].samples for e in of_first]
        (first, *_) = client.timeline(document["key"], "r4", position=40)["stretches"]
        assert [e["position"] for e in first["events"]] == [
            e["position"] for e in found["stretches"][0]["events"] if e["position"] < 40
        ]
        monkeypatch.setattr(documents, "MOST_EVENTS", 1)
        cut = client.timeline(document["key"], "r4")["stretches"]
        assert [len(s["events"]) for s in cut] == [1] * 5
        assert [s["times"] for s in cut] == [s["times"] for s in found["stretches"]] == [sum(s["spans"]) for s in cut]
        assert max(s["times"] for s in cut) > 1
        assert refused(client.timeline, "f" * 32, "r0").status == 404
        assert refused(client.timeline, document["key"], "nobody").status == 404
        assert refused(client.timeline, document["key"], "r0", position=10**6).status == 422
        monkeypatch.setattr(documents, "MOST_PLACES", 2)
        assert "too often for a timeline" in str(refused(client.timeline, document["key"], "r0"))
