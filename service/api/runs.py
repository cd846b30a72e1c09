"""Runs over HTTP: their leases, reports, checkpoints, ends and receipts; and the limits that they are held against."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from ...common.errors import EpochalError, RequestError
from ...shards.order.base import Order, Repetition
from .. import catalogue, leases, limits, runs
from ..bounds import MOST_DIGEST, lookups_at_once, order_from_request
from ..database import Place, now
from ..errors import ConflictError
from ..exposures import digest_of
from ..leases import Held
from ..ledger import plans_at
from ..operations.audit import audited
from ..operations.once import Once, OnceOfRequest, acting_once
from ..runs import RunClaim, RunReport
from ..schemas import (
    INT,
    CheckpointRequest,
    CloseRequest,
    LeaseRequest,
    LimitRequest,
    PointsQuery,
    ReportRequest,
    RunPath,
    RunRequest,
    Text,
)
from ..service import Service
from . import run_lists
from .dependencies import ServiceOfApp, answer
from .paging import CursorQuery, page, place_of
from .run_lists import RunQuery
from .workers import CLAIMS, COUNTS, LOOKUPS, Check

T = TypeVar("T")

router = APIRouter()


async def _write(service: Service, job: Callable[..., T], name: str, *args: Any, once: Once | None = None) -> T:
    """Return what `job` does under the lease of the run called `name`."""
    done = acting_once(audited(job), once)
    return await asyncio.wrap_future(service.db.write(lambda connection: done(connection, name, *args), name))


@router.get("/runs")
def listed(
    service: ServiceOfApp,
    name: Text | None = None,
    live: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    cursor: CursorQuery = None,
) -> Response:
    """Return a page of runs, the last heard of first; `total` and `live` count all that match."""
    wanted = RunQuery(name, live, after=place_of(cursor), limit=limit + 1)

    def question(connection: Connection) -> tuple[list[Any], tuple[int, int], float]:
        at = now(connection)
        return run_lists.listed(connection, wanted, at), run_lists.counted(connection, wanted, at), at

    rows, (total, alive), at = service.read(question)
    kept, rest = page(rows, limit, lambda row: Place(row.heard, row.fingerprint))
    shown = [run_lists.shown(row, at) for row in kept]
    plans = {row["plan"]: service.plan(row["plan"]) for row in shown}
    found = [row | _progress(row, plans[row["plan"]]) for row in shown]
    return answer({"runs": found, "next": rest, "total": total, "live": alive})


@router.post("/runs")
async def start(service: ServiceOfApp, request: Request, body: RunRequest) -> Response:
    """Register a run, or go on with it, and take the lease on its name. Refused with 409: a live run, a limit."""

    def claimed(_: Check) -> Response:
        done = service.claim(_claim(service, body))
        lineage = request.app.state.lineage
        if lineage and done["token"] != done["previous"]["token"]:  # else the same session has asked again
            lineage.claimed(done["run"], done["token"], done["position"])
        return answer(done)

    return await CLAIMS.run(request, claimed)


@router.get("/runs/{run}")
async def show(
    service: ServiceOfApp,
    request: Request,
    run: RunPath,
    split: Literal["train", "validation"] = "train",
    points: PointsQuery = 500,
) -> Response:
    """Return a run and at most about `points` of its reports."""

    return await LOOKUPS.run(request, lambda _: answer(_shown(service, run, split, points)))


def _shown(service: Service, run: str, split: str, points: int) -> dict[str, Any]:
    fingerprint = service.read(catalogue.resolve, "run", run)
    order = service.plan(service.read(runs.get, fingerprint).plan)
    most = min(points, lookups_at_once(order))

    def question(connection: Connection) -> dict[str, Any]:
        at = now(connection)
        (row,) = run_lists.listed(connection, RunQuery(fingerprint=fingerprint), at)
        shown = run_lists.shown(row, at)
        history = runs.ancestry(connection, fingerprint)
        ancestry = [{"run": a.name, "fingerprint": a.run, "plan": a.plan, "position": a.stop} for a in history]
        return shown | {"ancestry": ancestry, "reports": run_lists.curve(connection, fingerprint, split, most)}

    shown = service.read(question)
    for row in shown["reports"]:
        row["unique_tokens_seen"] = _unique_tokens_seen(plans_at(order, row["position"]))
    return shown | _progress(shown, order)


@router.post("/runs/{run}/reports")
async def report(service: ServiceOfApp, request: Request, run: RunPath, body: ReportRequest) -> Response:
    """Enter reports; the answer comes when they are on the disk. The same report again changes nothing."""
    reports = [RunReport(**dict(item)) for item in body.reports]
    done = await _write(service, runs.report, run, _said(body), reports)
    request.app.state.metrics.reported(*done.pop("gained"))
    trained = max((r for r in reports if r.split == "train"), key=lambda r: r.position, default=None)
    fingerprint, lineage = done.pop("run"), request.app.state.lineage
    if lineage and trained is not None:
        lineage.reported(fingerprint, body.token, trained.position, trained.tokens)
    return answer(done)


@router.post("/runs/{run}/lease")
async def renew(service: ServiceOfApp, run: RunPath, body: LeaseRequest) -> Response:
    """Say that a run is alive."""
    return answer(await _write(service, leases.renew, run, _said(body)))


@router.post("/runs/{run}/release")
async def release(service: ServiceOfApp, run: RunPath, once: OnceOfRequest) -> Response:
    """End the lease on a run's name, whoever holds it: for a holder that is dead while its lease lasts."""
    return answer(await _write(service, runs.release, run, once=once))


@router.post("/runs/{run}/checkpoints")
async def checkpoint(service: ServiceOfApp, run: RunPath, body: CheckpointRequest) -> Response:
    """Enter a checkpoint."""
    new = await _write(service, runs.checkpoint, run, _said(body), body.position, body.name, body.digest)
    return answer({"new": new})


@router.post("/runs/{run}/close")
async def close(service: ServiceOfApp, run: RunPath, body: CloseRequest, request: Request) -> Response:
    """Close a run: its name is free again. Its receipt is checked after the answer. The same again changes nothing."""
    done = await _write(service, runs.close, run, _said(body), body.state, body.receipt)
    state = request.app.state
    if done.pop("new") and state.lineage:
        state.lineage.closed(done["run"], body.token, body.state, done["position"], done["tokens"])
    state.receipts = asyncio.create_task(check_receipts(service, state.receipts))
    return answer(done)


async def check_receipts(service: Service, previous: "asyncio.Task[None] | None") -> None:
    """Check the receipts that were handed in, after `previous` has; one check at a time."""
    if previous is not None:
        await previous
    with contextlib.suppress(EpochalError):  # the database is away: the next run that closes has them checked
        await run_in_threadpool(service.check_receipts)


@router.get("/runs/{run}/receipt")
async def receipt(service: ServiceOfApp, request: Request, run: RunPath) -> Response:
    """Hold the digest that a run last reported against its plan's, for runs of up to 20 million positions."""
    return await COUNTS.run(request, lambda check: answer(_receipt(service, run, check)))


def _receipt(service: Service, run: str, check: Check) -> dict[str, Any]:
    def question(connection: Connection) -> Any:
        return runs.get(connection, catalogue.resolve(connection, "run", run))

    row = service.read(question)
    if row.digest is None:
        raise ConflictError(f"run '{row.name}' has reported no digest yet")
    if row.position > MOST_DIGEST:
        raise RequestError(f"a digest is of at most {MOST_DIGEST:,} positions: epochal audit checks the receipt")
    expected = digest_of(service.plan(row.plan), 0, row.position, check)
    return {"position": row.position, "digest": row.digest, "expected": expected, "valid": row.digest == expected}


@router.get("/limits")
def limits_listed(service: ServiceOfApp) -> Response:
    """Return all limits."""
    return answer({"limits": service.read(limits.listed)})


@router.post("/limits")
def limit(service: ServiceOfApp, body: LimitRequest, once: OnceOfRequest) -> Response:
    """Set a limit; runs that start from now on are held against it. The same one again is the one that is there."""
    subset = service.read(catalogue.resolve, "artifact", body.subset) if body.subset is not None else None
    return answer(service.write(limits.add, body.kind, body.cap, subset, once=once))


@router.delete("/limits/{number}")
def unlimited(service: ServiceOfApp, number: Annotated[int, Path(ge=0, le=INT)], once: OnceOfRequest) -> Response:
    """Remove a limit."""
    service.write(limits.remove, number, once=once)
    return answer({"removed": number})


def _said(body: LeaseRequest) -> Held:
    return Held(body.token, body.session, body.after)


def _claim(service: Service, body: RunRequest) -> RunClaim:
    plan = service.plan(body.plan) if isinstance(body.plan, str) else order_from_request(body.plan)
    return RunClaim(
        name=body.name,
        plan=plan,
        batch_samples=body.batch_samples,
        holder=body.holder,
        session=body.session,
        seconds=body.lease_seconds,
        parent=body.parent.run if body.parent else None,
        parent_position=body.parent.position if body.parent else None,
        details=body.details,
    )


def _progress(row: dict[str, Any], order: Order) -> dict[str, Any]:
    """Return what a run's position means for its plan; sources: of a mixture, how far each is."""
    plans = plans_at(order, row["position"])
    mixed = order.kind == "mixture"
    return {
        "positions": order.positions,
        "passes": sum(plan.tokens_before(n) for plan, n in plans) / order.unique_tokens,
        "subset": None if mixed else plans[0][0].subset,
        "policy": "mixture" if mixed else plans[0][0].policy,
        "unique_tokens": order.unique_tokens,
        "unique_tokens_seen": _unique_tokens_seen(plans),
        "expected": not order.counts_unique_tokens,
        "steps": order.steps(row["batch_samples"]),
        "sources": [
            {
                "name": name,
                "subset": plan.subset,
                "policy": plan.policy,
                "position": n,
                "positions": plan.positions,
                "passes": plan.tokens_before(n) / plan.unique_tokens,
            }
            for name, (plan, n) in zip(order.components(), plans, strict=True)
        ]
        if mixed
        else [],
    }


def _unique_tokens_seen(plans: list[tuple[Repetition, int]]) -> int:
    """Return what `Order.unique_tokens_seen` says of the order whose `plans_at` a position these are."""
    return sum(plan.unique_tokens_seen(n) for plan, n in plans)
