"""What was in step N, over HTTP: the documents in the samples at some positions of a plan."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ...common.errors import RequestError
from ...shards.order.base import Order
from ...shards.order.contents import Table, contents
from ..bounds import lookups_at_once
from ..errors import NotFoundError
from ..schemas import INT, PlanPath
from ..service import Service
from .dependencies import ServiceOfApp, answer
from .workers import COUNTS, Check

MOST_POSITIONS = 1000
MOST_DOCUMENTS = 20_000
"""Of an answer, but that the documents of one part of it are never cut."""

PART = 50
"""Positions that are looked up at once."""

router = APIRouter()

Number = Annotated[int | None, Query(ge=0, le=INT)]


@router.get("/plans/{plan}/documents")
async def documents(
    service: ServiceOfApp,
    request: Request,
    plan: PlanPath,
    step: Number = None,
    batch_samples: Annotated[int | None, Query(ge=1, le=INT, description="samples of a step")] = None,
    start: Number = None,
    count: Annotated[int | None, Query(ge=1, le=MOST_POSITIONS)] = None,
) -> Response:
    """Return the documents in the samples of a step, or at positions [start, start + count), and how much of each.

    Where that is more than fits into an answer, `next` is the position at which to go on (with `start`), else null.
    """

    def question(check: Check) -> Response:
        order = service.plan(plan)
        positions = _positions(order, step, batch_samples, start, count)
        plans = order.components().values()
        tables = [Table(service.document_table(_pool(service, p.subset)), p.start_sample * p.seq_len) for p in plans]
        at_once = max(1, min(PART, lookups_at_once(order)))
        rows: list[dict[str, Any]] = []
        listed, at = 0, positions.start
        most = min(positions.stop, at + MOST_POSITIONS)
        while at < most and listed < MOST_DOCUMENTS:
            check()
            found = contents(order, tables, range(at, min(at + at_once, most)))
            rows += [content.to_dict() for content in found]
            listed += sum(len(content.documents) for content in found)
            at += len(found)
        body = {"start": positions.start, "stop": positions.stop, "positions": rows}
        return answer(body | {"next": at if at < positions.stop else None})

    return await COUNTS.run(request, question)


def _positions(
    order: Order, step: int | None, batch_samples: int | None, start: int | None, count: int | None
) -> range:
    """Return the positions that are asked for, those of a short last step cut. Raises RequestError."""
    if step is not None:
        if batch_samples is None or start is not None or count is not None:
            raise RequestError("step goes with batch_samples, how many samples a step has, and with no start and count")
        positions = range(step * batch_samples, min((step + 1) * batch_samples, order.positions))
        if not len(positions):
            raise RequestError(f"the plan ends at step {order.steps(batch_samples) - 1:,}; the first is 0")
        return positions
    if batch_samples is not None:
        raise RequestError("batch_samples goes with step: say which")
    begin = start or 0
    if begin >= order.positions:
        raise RequestError(f"the plan ends at position {order.positions:,}: ask for less")
    return range(begin, min(begin + (count or 100), order.positions))


def _pool(service: Service, subset: str) -> str:
    pool = service.pool_of(subset)
    if pool is None:
        raise NotFoundError(f"subset {subset} is not in the catalogue: register it")
    return pool
