"""The whole way over HTTP: from a pool to the look-up of a document; and requests that are wrong."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from epochal.service.client.client import Client
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, report


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
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/nothing", None, 404, "Not Found"),
        ("GET", "/artifacts/..%2f..%2fetc", None, 404, "Not Found"),
        ("GET", "/artifacts/nobody", None, 404, "there is no artifact 'nobody'"),
        ("GET", "/plans/nobody/order", None, 404, "there is no plan 'nobody'"),
        ("GET", "/documents/xyz/exposures", None, 422, "key: must match ^[0-9a-f]"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": 100, "name": "../x"}, 422, "name: must match"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": 4000}, 422, "asked for 4,000 unique tokens, but pool"),
        ("POST", "/subsets", {"pool": "toy", "unique_tokens": "1.5"}, 422, "unique_tokens '1.5' is not a whole number"),
        ("POST", "/subsets", {"pool": "toy"}, 422, "unique_tokens: must be given"),
        ("POST", "/plans", {"subset": "toy"}, 422, "give either total_tokens or epochs"),
        ("POST", "/plans", {"subset": "toy", "epochs": 1, "color": 1}, 422, "color: is not a known key"),
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


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/subsets", {"pool": "toy", "unique_tokens": True}, "unique_tokens"),
        ("/subsets", {"pool": "toy", "unique_tokens": 1, "replicate": True}, "replicate"),
        ("/plans", {"subset": "toy", "epochs": True}, "epochs"),
        ("/plans", {"subset": "toy", "epochs": 1, "seed": False}, "seed"),
        ("/plans", {"mixture": {"sources": {"a": {"subset": "toy", "weight": True}}}, "epochs": 1}, "weight"),
        ("/limits", {"kind": "tokens", "cap": True}, "cap"),
        ("/runs/r/reports", {"token": 1, "reports": [{"position": True, "tokens": 1}]}, "position"),
        ("/runs/r/reports", {"token": 1, "reports": [{"position": 1, "tokens": 1, "loss": True}]}, "loss"),
        ("/runs/r/lease", {"token": True}, "token"),
    ],
)
def test_true_and_false_are_no_numbers(root: Path, path: str, body: dict, key: str):
    with serving(root) as client:
        answer = httpx.post(client.url + path, json=body)
    assert answer.status_code == 422
    assert key in answer.json()["detail"]
    assert answer.json()["detail"].endswith(": must be a number")
