"""Requests made from the service's own OpenAPI document (`python -m epochal.tests.stress.api_requests`).

Half of them fit the document, half break it somewhere; half of them name things that exist, in the path and in half of
what else names something. With an Idempotency-Key they are sent twice. No answer may be a server error, and every
refusal must be one sentence. On SQLite, or with --postgresql.
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import requests
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from epochal.service.client.client import Client
from epochal.service.database import open_database
from epochal.service.operations.thinning import thin
from epochal.service.security import AccessRules
from epochal.service.service import default_database
from epochal.tests.support.pools import write_pool
from epochal.tests.support.servers import postgresql, serving

KNOWN: dict[str, list[Any]] = {
    "plan": ["a-plan", "a-mixture", "another-plan"],
    "run": ["a-run", "a-mixed-run"],
    "artifact": ["toy", "a-subset"],
    "number": [1],
    "key": [f"{3:032x}"],
    "name": ["a-list", "an-empty-list"],
}
"""Values of what is in a path that name what `populate` makes."""

KNOWN_BESIDES: dict[str, list[Any]] = {
    "plan": KNOWN["plan"],
    "run": KNOWN["run"],
    "subset": ["a-subset", "other", "toy"],
    "pool": ["toy", "other"],
    "of": ["toy", "a-subset", "a-plan", "a-run"],
    "parent": [{"run": "a-run"}, {"run": "a-run", "position": 100}],
    "id": ["doc3", "doc740"],
    "position": [0, 100, 10**6],
    "version": [1, 2],
    "cursor": [f"1.5~{'0' * 32}", f"{2**40}~{'f' * 32}"],
    "token": [1],
    "holder": ["h"],
    "session": ["s"],
    "batch_samples": [8],
    "unique_tokens": [900, "1k"],
    "documents": [["nobody", {"id": "no-one"}]],
    "without_optouts": [["a-list"], ["an-empty-list"]],
    "idempotency-key": ["a-key", "another-key"],
}
"""Values of what is in a query, a header or a body."""


def populate(client: Client) -> None:
    """Make one of everything."""
    subset = client.carve("toy", 1003, name="a-subset")
    plan = client.plan(subset["fingerprint"], epochs=300, name="a-plan")
    client.plan("toy", epochs="2.5", policy="global", name="another-plan")
    sources = {"a": {"subset": "a-subset", "epochs": 2}, "b": {"subset": "other", "epochs": "1.5", "policy": "global"}}
    mixture = client.mixture(sources, window=50, name="a-mixture")
    body = {"plan": plan.to_dict(), "batch_samples": 8, "holder": "h", "session": "s"}
    client.post("/runs", name="a-run", **body)
    report = {"position": 100, "tokens": 1600, "loss": 2.5, "kind": "nll", "digest": plan.digest(0, 100)}
    client.post("/runs/a-run/reports", token=1, reports=[report])
    client.post("/limits", kind="exposures", cap=1000)
    client.post("/runs", name="a-mixed-run", **body | {"plan": mixture.to_dict(), "parent": {"run": "a-run"}})
    client.post("/runs/a-mixed-run/reports", token=1, reports=[report])
    many = [report | {"position": p, "digest": None, "loss": 2.0} for p in range(10_000, 10_100)]
    client.post("/runs/a-run/reports", token=1, reports=many)
    for documents in (["nobody"], ["doc740", "nobody"]):
        client.post("/optouts", name="a-list", documents=documents)
    client.post("/optouts", name="an-empty-list", documents=[])


def thin_reports(url: str | sa.URL) -> None:
    """Thin what `populate` reported, as an old run's reports are."""
    opened = open_database(url)
    try:
        assert thin(opened, 0).reports, "reports lie closer together than the spans that one is left of"
    finally:
        opened.close()


def try_requests(client: Client, total: int) -> Counter:
    """Make about `total` requests or more; return how often each status was answered. Raises AssertionError.

    Each operation has the same share, and those that have few possible requests leave theirs to the others.
    """
    schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: Counter = Counter()
    turn = 0
    with requests.Session() as session:
        while sum(statuses.values()) < total:
            each = max(1, (total - sum(statuses.values())) // (2 * len(operations)))
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    turn += 1
                    _try(operation, mode, each, turn, session, statuses)
    return statuses


def _try(operation, mode: GenerationMode, examples: int, start: int, session, statuses: Counter) -> None:
    strategy = operation.as_strategy(generation_mode=mode)

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy, st.booleans())
    def one(case, known) -> None:
        if known:
            _name_known(case, sum(statuses.values()))
        answer = case.call(session=session)
        statuses[answer.status_code] += 1
        if known and "idempotency-key" in (case.headers or {}):
            again = case.call(session=session)
            statuses[again.status_code] += 1
            assert again.status_code in (answer.status_code, 200), f"{case.as_curl_command()}: {again.text}"
        assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text}"
        if answer.status_code >= 400:
            detail = answer.json()["detail"]
            assert isinstance(detail, str), detail
            assert "\n" not in detail, detail

    with contextlib.suppress(Unsatisfiable):  # a path without parameters cannot be asked wrongly
        one()


def _name_known(case, number: int) -> None:
    """Let request `number` name things that exist."""
    for name in case.path_parameters or {}:
        names = KNOWN.get(name, [case.path_parameters[name]])
        case.path_parameters[name] = names[number % len(names)]
    for place in (case.query, case.headers, case.body):
        for i, name in enumerate(list(place)) if isinstance(place, Mapping) else ():
            values = KNOWN_BESIDES.get(name.lower() if isinstance(name, str) else "", [])
            if values and (number >> i) % 2:
                place[name] = values[number % len(values)]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--postgresql", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, documents in (("toy", 750), ("other", 300)):
            write_pool(folder, np.tile(np.array([1, 2, 3, 256], np.uint16), documents), name=name)
        database = stack.enter_context(postgresql()) if args.postgresql else None
        client = stack.enter_context(serving(folder / "artifacts", database, AccessRules(rate=1e6, burst=10**6)))
        populate(client)
        thin_reports(database or default_database(str(folder / "artifacts")))
        found = try_requests(client, args.requests)
    shown = ", ".join(f"{count:,} x {status}" for status, count in sorted(found.items()))
    print(f"{sum(found.values()):,} requests, no server error: {shown}")


if __name__ == "__main__":
    main()
