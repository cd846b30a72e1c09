"""Both clients: the same calls, the same answers, of the types that `results` says."""

import asyncio
import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from epochal.service.client import AsyncClient, AwayError, Client, RefusedError, Retries, async_client, calls
from epochal.shards.order.base import Order
from epochal.tests.service.client.troubles import troubles
from epochal.tests.support.servers import PATIENCE, serving
from epochal.tests.support.service_calls import claim, report

QUICK = Retries(attempts=5, first=0.001)


def differences(value: Any, kind: Any, where: str = "") -> list[str]:
    """Return how an answer differs from a type: missing and unknown keys, values of other types."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if is_typeddict(kind) and not isinstance(value, dict):
        return [f"{where} is {value!r}, no {kind}"]
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        missing = [f"{where}: no {key}" for key in kind.__required_keys__ - set(value)]
        unknown = [f"{where}.{key} is unknown" for key in set(value) - set(hints)]
        parts = [differences(value[key], hints[key], f"{where}.{key}") for key in set(value) & set(hints)]
        return [*missing, *unknown, *(one for part in parts for one in part)]
    if origin is list:
        return [one for i, v in enumerate(value) for one in differences(v, inner[0], f"{where}[{i}]")]
    if origin is dict:
        return [one for v in value.values() for one in differences(v, inner[1], where)]
    if origin in (Union, UnionType):
        return [] if any(not differences(value, one) for one in inner) else [f"{where} is {value!r}, not {kind}"]
    if origin is Literal:
        return [] if value in inner else [f"{where} is {value!r}, not of {inner}"]
    fits = type(value) in ((int, float) if kind is float else (kind,))
    return [] if fits or (kind is NoneType and value is None) else [f"{where} is {value!r}, no {kind}"]


def test_differences_are_found():
    good = {"id": 1, "kind": "tokens", "cap": 2, "subset": None, "added": 1.5}
    limit = calls.Limit
    assert differences(good, limit) == []
    assert differences(good | {"cap": "2"}, limit) == [".cap is '2', no <class 'int'>"]
    assert differences(good | {"kind": "x", "more": 1}, limit) != []
    assert differences({k: v for k, v in good.items() if k != "cap"}, limit) == [": no cap"]
    assert differences([good | {"subset": 3}], list[limit]) != []
    assert differences(True, int) != []


ASKED: dict[str, tuple[Any, ...]] = {
    "health": (),
    "artifacts": ("subset",),
    "artifact": ("toy",),
    "carve": ("toy", 800),
    "plan": ("toy",),
    "mixture": ({"a": {"subset": "toy", "epochs": 2}},),
    "plans": (),
    "contents": ("mixed", 0, 5),
    "runs": (),
    "run": ("a",),
    "release": ("b",),
    "seen": (),
    "histogram": ("a",),
    "timeline": ("", "b"),
    "lineage": ("a",),
    "limits": (),
    "set_limit": ("tokens", 10**9),
    "remove_limit": (1,),
    "opt_out": ("asked", ["doc1"]),
    "optouts": (),
    "optout": ("asked",),
    "optout_holders": ("asked", "run"),
}
"""By the name of a call: what it is asked with here, in the order in which they are made."""


def arguments(service: Client, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if name == "seen":
        return (), {"id": "doc2", "run": "a"}
    if name == "timeline":
        return (service.seen(id="doc2")["documents"][0]["key"], "b"), {}
    return ASKED[name], {"epochs": 3} if name == "plan" else {}


@pytest.fixture
def service(root: Path):
    """Return a client of a service with a run on a mixture, and one that goes on from it."""
    with serving(root) as client:
        client.carve("toy", 800)
        plan = client.mixture({"a": {"subset": "toy", "epochs": 2}}, name="mixed")
        for name, more in (("a", {}), ("b", {"parent": {"run": "a"}})):
            claim(client, name, plan, name, **more)  # type: ignore[arg-type]
            report(client, name, 1, 40, loss=2, kind="nll", tokens=640)
        yield client


def test_every_call_is_a_method_of_both_and_answers_as_it_says(service: Client):
    functions = {n for n, f in inspect.getmembers(calls, inspect.isfunction) if f.__module__ == calls.__name__}
    makers = {n for n in functions if not n.startswith("_")} - {"as_it_is", "order"}
    assert makers == set(ASKED)
    for name in ASKED:
        args, more = arguments(service, name)
        (kind,) = get_args(get_type_hints(getattr(calls, name))["return"])
        answer = getattr(service, name)(*args, **more)
        if kind is Order:
            assert isinstance(answer, Order)
        else:
            assert differences(answer, kind, name) == []


def public(kind: type) -> set[str]:
    """Return the names of a class that others use."""
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_asynchronous_client_gives_the_same(service: Client, monkeypatch: pytest.MonkeyPatch):
    assert public(AsyncClient) == public(Client)
    monkeypatch.setattr(async_client, "MOST_TOGETHER", 100)
    plan = service.plan("toy", epochs=3)

    async def both() -> None:
        async with AsyncClient(service.url, timeout=PATIENCE) as client:
            for name in set(ASKED) - {"release", "set_limit", "remove_limit", "opt_out", "optout", "optout_holders"}:
                args, more = arguments(service, name)
                assert await getattr(client, name)(*args, **more) == getattr(service, name)(*args, **more), name
            assert (await client.order(plan.fingerprint, 5, 350)).tolist() == plan.ids(range(5, 355)).tolist()
            assert (await client.order(plan.fingerprint, 5, 0)).tolist() == []
            assert [r async for r in client.documents("mixed", 0, 9)] == list(service.documents("mixed", 0, 9))
            found = await asyncio.gather(*(client.get("/runs/a", points=n) for n in range(1, 20)))
            assert {run["position"] for run in found} == {40}
            with pytest.raises(RefusedError, match="nobody"):
                await client.order("nobody", 0, 1)

    asyncio.run(both())


def test_the_asynchronous_client_tries_again_and_acts_once(service: Client):
    async def some() -> None:
        with troubles(service.url) as met:
            async with AsyncClient(met.url, timeout=PATIENCE, retries=QUICK) as client:
                met.met[:] = ["503", "drop", lambda: service.remove_limit(1), "lost", ""]
                assert (await client.set_limit("tokens", 5))["id"] == 1
                assert met.asked == 5
                met.met[:] = ["504", "half", ""]
                assert len(await client.order("mixed", 0, 300)) == 300
                met.met[:], met.asked = ["502"] * 5, 0
                with pytest.raises(AwayError, match="a proxy answers with status 502"):
                    await client.health()
                assert met.asked == 5

    asyncio.run(some())
    assert service.limits()["limits"] == []
