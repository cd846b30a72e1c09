"""The calls that there are, apart from how they are made: both clients have a method for each function here."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import orjson

from ...shards.order.base import Order
from ...shards.order.stored import order_from_dict
from .answers import RefusedError
from .optout_results import HolderPage, OptedOut, OptOutListInFull, OptOutPage
from .results import (
    ArtifactInFull,
    ArtifactPage,
    ContentPage,
    Health,
    Histogram,
    Limit,
    Limits,
    Lineage,
    PlanPage,
    Released,
    Removed,
    RunInFull,
    RunPage,
    Seen,
    Timeline,
)

T = TypeVar("T")


def as_it_is(data: Any) -> Any:
    """Return `data`: JSON needs nothing to become one of `results`."""
    return data


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what its answer becomes.

    Attributes:
        query: parameters that are None are left out.
        body: JSON; so are they here.
        read: from the answer's data.
    """

    method: str
    path: str
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    read: Callable[[Any], T] = as_it_is

    def request(self) -> dict[str, Any]:
        """Return what httpx makes a request of. One that writes has a key of its own, which all its attempts share.

        Raises:
            RefusedError: for a body that is no JSON.
        """
        made: dict[str, Any] = {"method": self.method, "url": self.path, "params": _given(self.query), "headers": {}}
        if self.method != "GET":
            made["headers"]["idempotency-key"] = uuid.uuid4().hex
        if self.body is not None:
            made["headers"]["content-type"] = "application/json"
            try:
                made["content"] = orjson.dumps(_given(self.body))
            except TypeError as error:  # a mixture's shares may have any length
                raise RefusedError(f"{self.path} takes JSON with integers of 64 bits: {error}", 422, {}) from None
        return made


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _part(name: str) -> str:
    return quote(name, safe="")


def health() -> Call[Health]:
    """Ask whether the service is there, and of which version it is."""
    return Call("GET", "/health")


# -- catalogue and plans ---------------------------------------------------------------------------------------------


def artifacts(
    kind: Literal["pool", "subset"] | None = None,
    name: str | None = None,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    least_tokens: int | None = None,
    most_tokens: int | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[ArtifactPage]:
    """Search pools and subsets: a page of them, the newest first; `cursor` is the `next` of the page before."""
    query: dict[str, Any] = {"kind": kind, "name": name, "fingerprint": fingerprint, "tokenizer": tokenizer}
    query |= {"least_tokens": least_tokens, "most_tokens": most_tokens, "limit": limit, "cursor": cursor}
    return Call("GET", "/artifacts", query)


def artifact(artifact: str) -> Call[ArtifactInFull]:
    """Return one pool or subset, by name or fingerprint."""
    return Call("GET", f"/artifacts/{_part(artifact)}")


def carve(
    pool: str,
    unique_tokens: int | str,
    replicate: int = 0,
    name: str | None = None,
    without: Sequence[Any] | None = None,
    without_optouts: Sequence[str] | None = None,
) -> Call[ArtifactInFull]:
    """Carve a subset on the service's machine; the same again returns the same.

    Args:
        pool: name or fingerprint.
        unique_tokens: how many.
        replicate: which draw.
        name: of the subset.
        without: documents that it holds no token of, as `opt_out` takes them.
        without_optouts: names of opt-out lists that it holds no token of.
    """
    body: dict[str, Any] = {"pool": pool, "unique_tokens": unique_tokens, "replicate": replicate, "name": name}
    lists = {"without": without, "without_optouts": without_optouts}
    return Call("POST", "/subsets", body=body | {k: list(v) for k, v in lists.items() if v is not None})


def plan(subset: str, **numbers: Any) -> Call[Order]:
    """Make a plan (total_tokens or epochs, seed, policy, skip, name) for a subset that the service knows."""

    def read(shown: dict[str, Any]) -> Order:
        return order_from_dict({k: v for k, v in shown.items() if k not in ("tokens", "passes", "partial_samples")})

    return Call("POST", "/plans", body={"subset": subset, **numbers}, read=read)


def mixture(sources: dict[str, Any], **numbers: Any) -> Call[Order]:
    """Make a mixture of subsets that the service knows.

    Args:
        sources: by name, {subset, policy, seed} each with epochs, tokens or weight.
        numbers: stages, window of the mixture, and total_tokens or epochs, seed, skip, name of the plan.
    """
    mixed = {key: numbers.pop(key) for key in ("stages", "window") if key in numbers}
    return Call("POST", "/plans", body={"mixture": {"sources": sources, **mixed}, **numbers}, read=order_from_dict)


def plans(subset: str | None = None, limit: int | None = None, cursor: str | None = None) -> Call[PlanPage]:
    """Return a page of plans, the newest first."""
    return Call("GET", "/plans", {"subset": subset, "limit": limit, "cursor": cursor})


def order(plan: str, start: int, count: int) -> Call[Any]:
    """Ask for the samples at positions [start, start + count) of a plan, as an Arrow stream."""
    return Call("GET", f"/plans/{_part(plan)}/order", {"start": start, "count": count, "format": "arrow"})


def contents(plan: str, start: int, count: int) -> Call[ContentPage]:
    """Return what positions [start, start + count) of a plan read, at most 1,000; `next` is where the rest begins."""
    return Call("GET", f"/plans/{_part(plan)}/documents", {"start": start, "count": count})


# -- runs ------------------------------------------------------------------------------------------------------------


def runs(
    name: str | None = None, live: bool | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[RunPage]:
    """Return a page of runs, the last heard of first; `name` is a part of theirs."""
    return Call("GET", "/runs", {"name": name, "live": live, "limit": limit, "cursor": cursor})


def run(run: str, split: Literal["train", "validation"] | None = None, points: int | None = None) -> Call[RunInFull]:
    """Return a run, and at most about `points` of its reports."""
    return Call("GET", f"/runs/{_part(run)}", {"split": split, "points": points})


def release(run: str) -> Call[Released]:
    """End the lease on a run's name, whoever holds it: for a holder that is dead while its lease lasts."""
    return Call("POST", f"/runs/{_part(run)}/release")


# -- ledger and limits -----------------------------------------------------------------------------------------------


def seen(
    key: str | None = None,
    id: str | None = None,
    text: str | None = None,
    run: str | None = None,
    position: int | None = None,
) -> Call[Seen]:
    """Return which runs were fed a document, by its key (hexadecimal), id or text; see docs/service.md."""
    if key is not None:
        return Call("GET", f"/documents/{_part(key)}/exposures", {"run": run, "position": position})
    if id is not None:
        return Call("GET", "/documents/exposures", {"id": id, "run": run, "position": position})
    return Call("POST", "/documents/exposures", body={"text": text, "run": run, "position": position})


def timeline(key: str, run: str, position: int | None = None) -> Call[Timeline]:
    """Return at which positions, in which passes, a run and those it continues were fed a document, by its key."""
    return Call("GET", f"/documents/{_part(key)}/timeline", {"run": run, "position": position})


def histogram(run: str, position: int | None = None) -> Call[Histogram]:
    """Return how many documents and tokens a run saw how often."""
    return Call("GET", f"/runs/{_part(run)}/histogram", {"position": position})


def lineage(of: str | None = None, limit: int | None = None) -> Call[Lineage]:
    """Return what came from what: everything, or what `of` (name or fingerprint) came from and led to."""
    return Call("GET", "/lineage", {"of": of, "limit": limit})


def limits() -> Call[Limits]:
    """Return all limits."""
    return Call("GET", "/limits")


def set_limit(
    kind: Literal["exposures", "subset_exposures", "tokens"], cap: int, subset: str | None = None
) -> Call[Limit]:
    """Set a limit, for all runs or for those on `subset`; the same one again is the one that is there."""
    return Call("POST", "/limits", body={"kind": kind, "cap": cap, "subset": subset})


def remove_limit(number: int) -> Call[Removed]:
    """Remove a limit."""
    return Call("DELETE", f"/limits/{number}")


# -- opt-outs --------------------------------------------------------------------------------------------------------


def opt_out(name: str, documents: Sequence[Any]) -> Call[OptedOut]:
    """Enter a list of documents that are to be fed no more, or a newer version of it.

    Args:
        name: of the list.
        documents: each a key or an id, or an object with `key`, `id` or `text`.
    """
    return Call("POST", "/optouts", body={"name": name, "documents": list(documents)})


def optouts(limit: int | None = None, cursor: str | None = None) -> Call[OptOutPage]:
    """Return a page of opt-out lists, the newest first."""
    return Call("GET", "/optouts", {"limit": limit, "cursor": cursor})


def optout(name: str, version: int | None = None) -> Call[OptOutListInFull]:
    """Return an opt-out list, by default its last version."""
    return Call("GET", f"/optouts/{_part(name)}", {"version": version})


def optout_holders(
    name: str,
    kind: Literal["pool", "subset", "plan", "run"],
    live: bool | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[HolderPage]:
    """Return a page of the pools, subsets, plans or runs that hold documents of a list."""
    return Call(
        "GET", f"/optouts/{_part(name)}/holders", {"kind": kind, "live": live, "limit": limit, "cursor": cursor}
    )
