"""Plans over HTTP: what is wrong with a mixture is said in one sentence."""

import pytest

from epochal.service.client.client import Client
from epochal.tests.support.service_calls import refused


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
