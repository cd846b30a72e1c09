"""Calls of the service that its tests make again and again."""

from typing import Any

import pytest

from epochal.service.client.client import Client, RefusedError
from epochal.shards.order.plan import Plan


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
