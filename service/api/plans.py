"""Plans over HTTP: making them, their order and its inverse, and what they repeat how often."""

import itertools
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from ...common.errors import RequestError
from ...common.units import parse_count, tokens_for_epochs
from ...shards.order.amendment.amend import amend
from ...shards.order.base import Order
from ...shards.order.plan import Plan
from ..bounds import MOST_COUNTED, MOST_DIGEST, check_budget, lookups_at_once, slots_counted
from ..database import Place
from ..exposures import digest_of, exposure_curve
from ..operations.once import OnceOfRequest
from ..schemas import INT, PlanPath, PlanRequest, Text
from ..service import Service
from . import order_stream
from .dependencies import ServiceOfApp, answer
from .paging import CursorQuery, page, place_of
from .workers import COUNTS, LOOKUPS, Check

MOST_JSON = 1_000_000
"""Positions in a JSON answer; an Arrow stream has no such limit."""

MOST_IDS = 1000

router = APIRouter()


@router.post("/plans", status_code=201, responses={200: {"description": "it was there already"}})
def make(service: ServiceOfApp, body: PlanRequest, once: OnceOfRequest) -> Response:
    """Make a plan for a subset or pool, or for a mixture of several; with `skip`, without some spans of its positions.
    The same request again returns the same."""
    plan = amend(_planned(service, body), body.skip)
    new = service.enter_plan(plan, body.name, once)
    return answer(_plan_shown(plan), 201 if new else 200)


@router.get("/plans")
def listed(
    service: ServiceOfApp,
    subset: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Return a page of plans, newest first."""
    found = service.plans(subset, place_of(cursor), limit + 1)
    kept, rest = page(found, limit, lambda plan: Place(plan["added"], plan["fingerprint"]))
    return answer({"plans": kept, "next": rest})


@router.get("/plans/{plan}")
def show(service: ServiceOfApp, plan: PlanPath) -> Response:
    """Return a plan and what follows from its numbers."""
    return answer(_plan_shown(service.plan(plan)))


@router.get(
    "/plans/{plan}/order",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/json": {}, order_stream.ARROW: {}}, "description": "the samples, in order"}
    },
)
def ids(
    service: ServiceOfApp,
    plan: PlanPath,
    start: Annotated[int, Query(ge=0, le=INT)] = 0,
    count: Annotated[int, Query(ge=0, le=INT)] = 100,
    format: Literal["json", "arrow"] | None = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Return the samples at positions [start, start + count): JSON for up to a million, Arrow for any number."""
    order = service.plan(plan)
    if start + count > order.positions:
        raise RequestError(f"the plan ends at position {order.positions:,}: ask for less")
    order_stream.check_room(count)
    if (format or ("arrow" if order_stream.ARROW in accept else "json")) == "arrow":
        return StreamingResponse(order_stream.arrow_chunks(order, start, count), media_type=order_stream.ARROW)
    if count > MOST_JSON:
        raise RequestError(f"count is at most {MOST_JSON:,} as JSON: ask for Arrow (format=arrow)")
    return StreamingResponse(order_stream.json_chunks(order, start, count), media_type="application/json")


@router.get("/plans/{plan}/positions")
async def positions(
    service: ServiceOfApp,
    request: Request,
    plan: PlanPath,
    ids: Annotated[list[Annotated[int, Field(ge=0, le=INT)]], Query(min_length=1, max_length=MOST_IDS)],
    number: Annotated[int, Query(alias="pass", ge=0, le=INT, description="which pass, from 0")] = 0,
) -> Response:
    """Return where samples come in a pass; null where the run ends before, or passes over it."""

    def question(_: Check) -> Response:
        order = service.plan(plan)
        if number >= order.copies:
            raise RequestError(f"there is no pass {number}: the plan begins {order.copies:,}")
        if len(ids) > lookups_at_once(order):
            raise RequestError(f"ids: at most {lookups_at_once(order)} at once in a mixture with such long windows")
        at = order.position_of(ids, number).tolist()
        return answer({"pass": number, "ids": ids, "positions": [p if p < order.positions else None for p in at]})

    return await LOOKUPS.run(request, question)


@router.get("/plans/{plan}/exposures")
async def exposures(
    service: ServiceOfApp,
    request: Request,
    plan: PlanPath,
    position: Annotated[int | None, Query(ge=0, le=INT, description="positions before it; default: all")] = None,
    ids: Annotated[list[Annotated[int, Field(ge=0, le=INT)]] | None, Query(max_length=MOST_IDS)] = None,
) -> Response:
    """Return how often samples `ids` come before a position, or how many samples come how often."""

    def question(_: Check) -> Response:
        order = service.plan(plan)
        at = order.positions if position is None else position
        if at > order.positions:
            raise RequestError(f"the plan ends at position {order.positions:,}")
        slots = slots_counted(order)
        if (slots and len(ids) * order.copies if ids else slots) > MOST_COUNTED:
            raise RequestError("too many slots are shuffled together to count them here")
        if ids:
            return answer({"position": at, "ids": ids, "exposures": order.exposures(at, ids).tolist()})
        return answer({"position": at, "samples": {str(k): n for k, n in order.histogram(at).items()}})

    return await COUNTS.run(request, question)


@router.get("/plans/{plan}/curve")
async def curve(service: ServiceOfApp, request: Request, plan: PlanPath) -> Response:
    """Return the share of samples not seen yet, and the least and most exposures, along the run."""
    return await COUNTS.run(request, lambda _: answer(exposure_curve(service.plan(plan))))


@router.get("/plans/{plan}/digest")
async def digest(
    service: ServiceOfApp,
    request: Request,
    plan: PlanPath,
    start: Annotated[int, Query(ge=0, le=INT)] = 0,
    stop: Annotated[int | None, Query(ge=0, le=INT)] = None,
) -> Response:
    """Return the digest of positions [start, stop), at most 20 million."""

    def question(check: Check) -> Response:
        order = service.plan(plan)
        end = order.positions if stop is None else stop
        if end - start > MOST_DIGEST:
            raise RequestError(f"a digest is of at most {MOST_DIGEST:,} positions: digests of parts add up")
        return answer({"start": start, "stop": end, "digest": digest_of(order, start, end, check)})

    return await COUNTS.run(request, question)


def _planned(service: Service, body: PlanRequest) -> Order:
    """Return the plan that a request is for. Raises RequestError."""
    if (body.subset is None) == (body.mixture is None):
        raise RequestError("give either subset or mixture")
    if body.total_tokens is not None and body.epochs is not None:
        raise RequestError("give either total_tokens or epochs")

    def budget(unique: int) -> int:
        if body.total_tokens is not None:
            return parse_count(body.total_tokens, "total_tokens")
        return tokens_for_epochs(str(body.epochs), unique)

    given = body.total_tokens is not None or body.epochs is not None
    if body.mixture is not None:
        if body.policy is not None:
            raise RequestError("policy: each source of a mixture has its own")
        return service.mixture(body.mixture.settings(), body.seed, budget if given else None)
    assert body.subset is not None, "one of the two is given"
    manifest = service.manifest("artifact", body.subset)
    if not given:
        raise RequestError("give either total_tokens or epochs")
    total, policy = budget(manifest.tokens), body.policy or "reshuffle"
    check_budget(policy, total, manifest.tokens)
    return Plan.for_artifact(manifest, total, body.seed, policy)


def _plan_shown(order: Order) -> dict[str, Any]:
    """Return a plan as `Client.plan` takes it, with what follows from its numbers."""
    if order.kind == "plan":
        passes, place = divmod(order.positions, order.samples)
        return order.to_dict() | {"tokens": order.tokens, "passes": passes, "partial_samples": place}
    keys = ("tokens", "total_tokens", "unique_tokens", "samples", "seq_len")
    # The ids of the order count through the sources: those of source s begin at offsets[s].
    offsets = itertools.accumulate((plan.samples for plan in order.components().values()), initial=0)
    return order.to_dict() | {key: getattr(order, key) for key in keys} | {"offsets": list(offsets)}
