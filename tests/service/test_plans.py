"""Plans over HTTP: what is wrong with a mixture is said in one sentence."""

import pytest

from epochal.service.client.client import Client
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.amendment.skips import read_skips
from epochal.tests.support.service_calls import claim, refused, report


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


@pytest.mark.slow
def test_skips_of_plans_and_of_runs(client: Client):
    skip = [[40, 60, "spike at step 5"], [300, 310, "spike at step 30"]]
    plan = client.plan("toy", epochs=2, seed=1, skip=skip, name="amended")
    whole = client.plan("toy", epochs=2, seed=1)
    assert plan == amend(whole, skip)
    shown = client.get("/plans/amended")
    assert (shown["skip"], shown["positions"]) == (skip, whole.positions - 30)
    assert shown["fingerprint"] != whole.fingerprint
    ids = plan.ids(range(plan.positions)).tolist()
    assert client.order("amended", 0, plan.positions).tolist() == ids
    seen = [ids.count(i) for i in range(plan.samples)]
    assert client.get("/plans/amended/exposures")["samples"] == {str(k): seen.count(k) for k in sorted(set(seen))}
    assert client.get("/plans/amended/digest")["digest"] == plan.digest(0, plan.positions)
    points = client.get("/plans/amended/curve")["points"]
    assert points[-1] == {"position": len(ids), "unseen": seen.count(0) / 188, "least": min(seen), "most": max(seen)}
    missed = whole.ids([40]).tolist()
    assert client.get("/plans/amended/positions", ids=missed, **{"pass": 0})["positions"] == [None]
    run = claim(client, "mine", plan)
    report(client, "mine", run["token"], 200)
    (document,) = client.seen(id="doc3", run="mine")["documents"]
    (segment,) = document["runs"][0]["segments"]
    for part in segment["parts"]:
        at = [p for p in range(200) if ids[p] == part["sample"]]
        assert (part["exposures"], part["first"], part["last"]) == (len(at), *([at[0], at[-1]] if at else [None] * 2))
    for wrong, text in (
        ([[5, 3, "x"]], "which is larger"),
        ([[5, 30]], "skip"),
        ([[5, 3000, "x"]], "the plan ends at position 376"),
        ([[5, 9, "x"], [7, 10, "y"]], "without any overlap"),
    ):
        assert text in str(refused(client.plan, "toy", epochs=2, skip=wrong))
    sources = {"a": {"subset": client.carve("toy", 700)["fingerprint"], "epochs": 3}}
    mixed = client.mixture(sources, skip=[[4, 9, "spike"]])
    assert mixed.skips == read_skips([[4, 9]])
