"""Limits: a run that would break one is refused before it starts."""

import pytest

from epochal.service.client.client import Client
from epochal.tests.support.service_calls import claim, refused, report


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
    client.remove_limit(exposures["id"])
    own = client.post("/limits", kind="subset_exposures", cap=2, subset=small)
    assert refused(claim, client, "child", half, **child).details["would_be"] == 3
    assert claim(client, "other", whole)["token"] == 1  # the limit is of another subset
    client.remove_limit(own["id"])
    client.post("/limits", kind="tokens", cap=8399)
    assert refused(claim, client, "child", half, **child).details["excess"] == 1  # 2 x 3000 + 3 x 800
    assert claim(client, "child", half, parent={"run": "parent", "position": 2 * whole.samples - 1})["token"] == 1
