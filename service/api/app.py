"""The HTTP interface: paths, what they take, and how refusals are told. What is behind them is in core.py."""

import asyncio
import contextlib
import importlib.resources
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import epochal

from ...common.errors import EpochalError, RequestError
from ...common.text import content_key, normalise
from ...common.units import parse_count
from ...shards.order.mixture import Mixture, plans_of
from ...shards.order.plan import Plan, tokens_for_epochs
from ...shards.order.stored import order_from_dict
from .. import catalogue, limits, runs
from ..catalogue import FINGERPRINT, ArtifactQuery
from ..database import now
from ..errors import ConflictError, http_status
from ..ledger import plans_at
from ..runs import RunClaim, RunReport
from ..schemas import (
    INT,
    CarveRequest,
    CheckpointRequest,
    CloseRequest,
    KeyPath,
    LeaseRequest,
    LimitRequest,
    PlanPath,
    PlanRequest,
    PointsQuery,
    PositionQuery,
    Problem,
    ReportRequest,
    RunPath,
    RunQuery,
    RunRequest,
    Text,
    TextRequest,
)
from ..security import AccessRules, Guard
from ..service import MOST_COUNTED, Service, bounded, exposure_curve, slots_counted, unique_tokens_seen, windows_at_once
from . import order_stream

T = TypeVar("T")

MOST_JSON = 1_000_000
"""Positions in a JSON answer; an Arrow stream has no such limit."""

MOST_DIGEST = 20_000_000
MOST_IDS = 1000


def create_app(service: Service, rules: AccessRules) -> FastAPI:
    """Return the ASGI application over `service`, which is closed with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.receipts = asyncio.create_task(_check_receipts(service, None))
        yield
        await app.state.receipts
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="epochal",
        version=epochal.__version__,
        summary="Which artifacts, plans and runs there are, and what every run has seen.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts of others
        redoc_url=None,
        responses={
            code: {"model": Problem, "description": text}
            for code, text in (
                (400, "not understood"),
                (401, "no token"),
                (403, "not allowed"),
                (404, "not there"),
                (409, "contradicts what is there"),
                (413, "too large"),
                (415, "not JSON"),
                (422, "wrong"),
                (429, "too many requests"),
            )
        },
    )
    app.add_middleware(Guard, rules=rules)
    _refusals(app)
    _show_page(app)
    _artifacts(app, service)
    _plans(app, service)
    _runs(app, service)
    _ledger(app, service)
    return app


def answer(data: Any, status: int = 200) -> Response:
    """Return `data` as JSON."""
    return Response(orjson.dumps(data), status, media_type="application/json")


def _refusals(app: FastAPI) -> None:
    @app.exception_handler(EpochalError)
    async def refused(_: Request, error: EpochalError) -> Response:
        details = error.details if isinstance(error, ConflictError) else {}
        return answer({"detail": str(error)} | details, http_status(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            return answer({"detail": f"the body is not JSON (at character {problem['loc'][-1]})"}, 422)
        key = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
        message = problem["msg"].removeprefix("Value error, ")
        return answer({"detail": f"{_plain(key)}: {_plain(message)}"}, 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return Response(orjson.dumps({"detail": error.detail}), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        traceback.print_exception(error)
        return answer({"detail": "the service failed: its log has the reason"}, 500)


def _plain(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:300]


def _show_page(app: FastAPI) -> None:
    page = (importlib.resources.files("epochal.service") / "page.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    headers = {"content-security-policy": policy + "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"}

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @app.get("/health")
    async def health() -> Response:
        """Answer that the service is there, and its version."""
        return answer({"service": "epochal", "version": epochal.__version__})


def _artifacts(app: FastAPI, service: Service) -> None:
    @app.get("/artifacts")
    def search(
        kind: Literal["pool", "subset"] | None = None,
        name: Text | None = None,
        fingerprint: Annotated[str | None, Query(pattern=r"^[0-9a-f]{1,32}$")] = None,
        tokenizer: Text | None = None,
        least_tokens: Annotated[int | None, Query(ge=0, le=INT)] = None,
        most_tokens: Annotated[int | None, Query(ge=0, le=INT)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=INT)] = 0,
    ) -> Response:
        """Search pools and subsets by kind, part of a name, beginning of a fingerprint, tokenizer, unique tokens."""
        service.refresh()
        wanted = ArtifactQuery(kind, name, fingerprint, tokenizer, least_tokens, most_tokens, limit, offset)
        return answer({"artifacts": service.read(catalogue.search, wanted), "problems": service.problems})

    @app.get("/artifacts/{artifact}")
    def describe(artifact: Annotated[str, Path(max_length=200)]) -> Response:
        """Return one pool or subset (name or fingerprint): its manifest, places, and what its names have meant."""
        service.refresh()
        fingerprint = service.read(catalogue.resolve, "artifact", _text(artifact))
        return answer(service.read(catalogue.describe, fingerprint))

    @app.post("/subsets", status_code=201, responses={200: {"description": "it was there already"}})
    def carve(body: CarveRequest) -> Response:
        """Carve a subset of exactly so many unique tokens. The same request again returns the same subset."""
        tokens = parse_count(body.unique_tokens, "unique_tokens")
        if tokens > INT:
            raise RequestError("unique_tokens: too many")
        fingerprint, new = service.carve(body.pool, tokens, body.replicate, body.name)
        return answer(service.read(catalogue.describe, fingerprint), 201 if new else 200)

    @app.get("/lineage")
    def lineage(
        of: Annotated[Text | None, Query(description="only what this came from and led to")] = None,
    ) -> Response:
        """Return nodes and edges: pool -> subset -> plan -> run -> checkpoint -> continued run.

        of: only what this (name or fingerprint) came from and led to.
        """
        service.refresh()
        return answer(service.read(_lineage, of))


def _lineage(connection: Connection, of: str | None) -> dict[str, Any]:
    if of is None:
        return catalogue.lineage(connection, None)
    for kind in ("run", "plan", "artifact"):
        try:
            return catalogue.lineage(connection, catalogue.resolve(connection, kind, of))
        except RequestError:
            continue
    raise catalogue.NotFoundError(f"there is no run, plan, subset or pool '{of}'")


def _text(text: str) -> str:
    """Return `text` if it can be a name. Raises NotFoundError."""
    if not text.isprintable():
        raise catalogue.NotFoundError("nothing has that name")
    return text


def _plans(app: FastAPI, service: Service) -> None:
    @app.post("/plans", status_code=201, responses={200: {"description": "it was there already"}})
    def make(body: PlanRequest) -> Response:
        """Make a plan for a subset or pool, or for a mixture of several. The same request again returns the same."""
        plan = _planned(service, body)
        new = service.enter_plan(plan, body.name)
        return answer(_plan_shown(plan), 201 if new else 200)

    @app.get("/plans")
    def listed(subset: Text | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        """Return plans, newest first."""
        return answer({"plans": service.plans(subset, limit)})

    @app.get("/plans/{plan}")
    def show(plan: PlanPath) -> Response:
        """Return a plan and what follows from its numbers."""
        return answer(_plan_shown(service.plan(plan)))

    @app.get(
        "/plans/{plan}/order",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/json": {}, order_stream.ARROW: {}}, "description": "the samples, in order"}
        },
    )
    def ids(
        plan: PlanPath,
        start: Annotated[int, Query(ge=0, le=INT)] = 0,
        count: Annotated[int, Query(ge=0, le=INT)] = 100,
        format: Literal["json", "arrow"] | None = None,
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """Return the samples at positions [start, start + count): JSON for up to a million, Arrow for any number."""
        the_plan = service.plan(plan)
        if start + count > the_plan.positions:
            raise RequestError(f"the plan ends at position {the_plan.positions:,}: ask for less")
        if (format or ("arrow" if order_stream.ARROW in accept else "json")) == "arrow":
            return StreamingResponse(order_stream.arrow_chunks(the_plan, start, count), media_type=order_stream.ARROW)
        if count > MOST_JSON:
            raise RequestError(f"count is at most {MOST_JSON:,} as JSON: ask for Arrow (format=arrow)")
        return StreamingResponse(order_stream.json_chunks(the_plan, start, count), media_type="application/json")

    @app.get("/plans/{plan}/positions")
    def positions(
        plan: PlanPath,
        ids: Annotated[list[Annotated[int, Field(ge=0, le=INT)]], Query(min_length=1, max_length=MOST_IDS)],
        number: Annotated[int, Query(alias="pass", ge=0, le=INT, description="which pass, from 0")] = 0,
    ) -> Response:
        """Return where samples come in a pass; null where the run ends before."""
        the_plan = service.plan(plan)
        if number >= the_plan.copies:
            raise RequestError(f"there is no pass {number}: the plan begins {the_plan.copies:,}")
        if len(ids) > windows_at_once(the_plan):
            raise RequestError(f"ids: at most {windows_at_once(the_plan)} at once in a mixture with such long windows")
        found = the_plan.position_of(ids, number).tolist()
        return answer({"pass": number, "ids": ids, "positions": [p if p < the_plan.positions else None for p in found]})

    @app.get("/plans/{plan}/exposures")
    def exposures(
        plan: PlanPath,
        position: Annotated[int | None, Query(ge=0, le=INT, description="positions before it; default: all")] = None,
        ids: Annotated[list[Annotated[int, Field(ge=0, le=INT)]] | None, Query(max_length=MOST_IDS)] = None,
    ) -> Response:
        """Return how often samples `ids` come before a position, or how many samples come how often."""
        the_plan = service.plan(plan)
        at = the_plan.positions if position is None else position
        if at > the_plan.positions:
            raise RequestError(f"the plan ends at position {the_plan.positions:,}")
        slots = slots_counted(the_plan)
        if (slots and len(ids) * the_plan.copies if ids else slots) > MOST_COUNTED:
            raise RequestError("too many slots are shuffled together to count them here")
        if ids:
            return answer({"position": at, "ids": ids, "exposures": the_plan.exposures(at, ids).tolist()})
        return answer({"position": at, "samples": {str(k): n for k, n in the_plan.histogram(at).items()}})

    @app.get("/plans/{plan}/curve")
    def curve(plan: PlanPath) -> Response:
        """Return the share of samples not seen yet, and the least and most exposures, along the run."""
        return answer(exposure_curve(service.plan(plan)))

    @app.get("/plans/{plan}/digest")
    def digest(
        plan: PlanPath,
        start: Annotated[int, Query(ge=0, le=INT)] = 0,
        stop: Annotated[int | None, Query(ge=0, le=INT)] = None,
    ) -> Response:
        """Return the digest of positions [start, stop), at most 20 million."""
        the_plan = service.plan(plan)
        end = the_plan.positions if stop is None else stop
        if end - start > MOST_DIGEST:
            raise RequestError(f"a digest is of at most {MOST_DIGEST:,} positions: digests of parts add up")
        return answer({"start": start, "stop": end, "digest": the_plan.digest(start, end)})


def _planned(service: Service, body: PlanRequest) -> Plan | Mixture:
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
    bounded(policy, total, manifest.tokens)
    return Plan.for_artifact(manifest, total, body.seed, policy)


def _plan_shown(order: Plan | Mixture) -> dict[str, Any]:
    """Return a plan as `Client.plan` takes it, with what follows from its numbers."""
    if isinstance(order, Plan):
        passes, place = divmod(order.positions, order.samples)
        return order.to_dict() | {"tokens": order.tokens, "passes": passes, "partial_samples": place}
    keys = ("tokens", "total_tokens", "unique_tokens", "samples", "seq_len")
    # The ids of the order count through the sources: those of source s begin at offsets[s].
    return order.to_dict() | {key: getattr(order, key) for key in keys} | {"offsets": order.offsets}


def _runs(app: FastAPI, service: Service) -> None:
    async def write(job: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(service.db.write(lambda connection: job(connection, *args)))

    @app.get("/runs")
    def listed(
        name: Text | None = None,
        live: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response:
        """Return runs, the last heard of first."""

        def question(connection: Connection) -> list[dict[str, Any]]:
            at = now(connection)
            return [runs.shown(row, at) for row in runs.listed(connection, name, live, limit)]

        rows = service.read(question)
        plans = {row["plan"]: service.plan(row["plan"]) for row in rows}
        return answer({"runs": [row | _progress(row, plans[row["plan"]]) for row in rows]})

    @app.post("/runs")
    def start(body: RunRequest) -> Response:
        """Register a run, or go on with it, and take the lease on its name. Refused with 409: a live run, a limit."""
        return answer(service.claim(_claim(service, body)))

    @app.get("/runs/{run}")
    def show(run: RunPath, split: Literal["train", "validation"] = "train", points: PointsQuery = 500) -> Response:
        """Return a run and at most about `points` of its reports."""

        fingerprint = service.read(catalogue.resolve, "run", run)
        the_plan = service.plan(service.read(runs.get, fingerprint).plan)
        most = min(points, windows_at_once(the_plan))

        def question(connection: Connection) -> dict[str, Any]:
            (row,) = runs.listed(connection, fingerprint=fingerprint)
            shown = runs.shown(row, now(connection))
            history = runs.ancestries(connection)[fingerprint]
            ancestry = [{"run": a.name, "fingerprint": a.run, "plan": a.plan, "stop": a.stop} for a in history]
            return shown | {"ancestry": ancestry, "reports": runs.curve(connection, fingerprint, split, most)}

        found = service.read(question)
        for row in found["reports"]:
            row["unique_tokens_seen"] = unique_tokens_seen(the_plan, row["position"])
        return answer(found | _progress(found, the_plan))

    @app.post("/runs/{run}/reports")
    async def report(run: RunPath, body: ReportRequest) -> Response:
        """Enter reports; the answer comes when they are on the disk. The same report again changes nothing."""
        said = [RunReport(**dict(item)) for item in body.reports]
        return answer(await write(runs.report, run, body.token, said))

    @app.post("/runs/{run}/lease")
    async def renew(run: RunPath, body: LeaseRequest) -> Response:
        """Say that a run is alive."""
        return answer(await write(runs.renew, run, body.token))

    @app.post("/runs/{run}/checkpoints")
    async def checkpoint(run: RunPath, body: CheckpointRequest) -> Response:
        """Enter a checkpoint."""
        new = await write(runs.checkpoint, run, body.token, body.position, body.name, body.digest)
        return answer({"new": new})

    @app.post("/runs/{run}/close")
    async def close(run: RunPath, body: CloseRequest, request: Request) -> Response:
        """Close a run: its name is free again. Its receipt is checked after the answer."""
        done = await write(runs.close, run, body.token, body.state, body.receipt)
        state = request.app.state
        state.receipts = asyncio.create_task(_check_receipts(service, state.receipts))
        return answer(done)

    @app.get("/runs/{run}/receipt")
    def receipt(run: RunPath) -> Response:
        """Hold the digest that a run last reported against its plan's, for runs of up to 20 million positions."""

        def question(connection: Connection) -> Any:
            return runs.get(connection, catalogue.resolve(connection, "run", run))

        row = service.read(question)
        if row.digest is None:
            raise ConflictError(f"run '{row.name}' has reported no digest yet")
        if row.position > MOST_DIGEST:
            raise RequestError(f"a digest is of at most {MOST_DIGEST:,} positions: epochal audit checks the receipt")
        expected = service.plan(row.plan).digest(0, row.position)
        return answer(
            {"position": row.position, "digest": row.digest, "expected": expected, "valid": row.digest == expected}
        )

    @app.get("/limits")
    def limits_listed() -> Response:
        """Return all limits."""
        return answer({"limits": service.read(limits.listed)})

    @app.post("/limits")
    def limit(body: LimitRequest) -> Response:
        """Set a limit; runs that start from now on are held against it. The same one again is the one that is there."""
        subset = service.read(catalogue.resolve, "artifact", body.subset) if body.subset is not None else None
        return answer(service.write(limits.add, body.kind, body.cap, subset))

    @app.delete("/limits/{number}")
    def unlimited(number: Annotated[int, Path(ge=0, le=INT)]) -> Response:
        """Remove a limit."""
        service.write(limits.remove, number)
        return answer({"removed": number})


async def _check_receipts(service: Service, previous: "asyncio.Task[None] | None") -> None:
    """Check the receipts that were handed in, after `previous` has; one check at a time."""
    if previous is not None:
        await previous
    with contextlib.suppress(EpochalError):  # the database is away: the next run that closes has them checked
        await run_in_threadpool(service.check_receipts)


def _claim(service: Service, body: RunRequest) -> RunClaim:
    plan = service.plan(body.plan) if isinstance(body.plan, str) else _from_outside(body.plan)
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


def _from_outside(data: dict[str, Any]) -> Plan | Mixture:
    """Return the plan or mixture that a request holds whole. Raises RequestError, WorkError.

    Its bounds are looked at before it is made, because that may already count along its length.
    """
    sources = data.get("sources")
    parts = [s.get("plan") for s in sources if isinstance(s, dict)] if isinstance(sources, list) else [data]
    for part in (part for part in parts if isinstance(part, dict)):
        total, unique = part.get("total_tokens"), part.get("unique_tokens")
        if isinstance(total, int) and isinstance(unique, int):
            bounded(str(part.get("policy")), total, max(1, unique))
    order = order_from_dict(data)
    for plan in plans_of(order).values():
        if not isinstance(plan.subset, str) or not FINGERPRINT.fullmatch(plan.subset):
            raise RequestError("plan: subset must be a fingerprint, 32 hexadecimal digits")
        if plan.start_sample * plan.seq_len > INT or plan.unique_tokens > INT:
            raise RequestError("plan: its numbers are too large")
    return order


def _progress(row: dict[str, Any], order: Plan | Mixture) -> dict[str, Any]:
    """Return what a run's position means for its plan; sources: of a mixture, how far each is."""
    position, plans = row["position"], plans_at(order, row["position"])
    mixed = isinstance(order, Mixture)
    return {
        "positions": order.positions,
        "passes": sum(plan.tokens_before(n) for plan, n in plans) / order.unique_tokens,
        "subset": None if mixed else plans[0][0].subset,
        "policy": "mixture" if mixed else plans[0][0].policy,
        "unique_tokens": order.unique_tokens,
        "unique_tokens_seen": unique_tokens_seen(order, position),
        "expected": any(plan.policy == "global" for plan, _ in plans),
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
            for name, (plan, n) in zip(plans_of(order), plans, strict=True)
        ]
        if mixed
        else [],
    }


def _ledger(app: FastAPI, service: Service) -> None:
    @app.get("/documents/{key}/exposures")
    def by_key(key: KeyPath, run: RunQuery = None, position: PositionQuery = None) -> Response:
        """Return which runs were fed the document with this key, how often, and where first and last."""
        return answer(service.seen(key=bytes.fromhex(key), run=run, position=position))

    @app.get("/documents/exposures")
    def by_id(
        id: Annotated[str, Query(min_length=1, max_length=10_000)],
        run: RunQuery = None,
        position: PositionQuery = None,
    ) -> Response:
        """Return the same for documents with this id: several when sources share ids."""
        return answer(service.seen(id_=_encodable(id), run=run, position=position))

    @app.post("/documents/exposures")
    def by_text(body: TextRequest) -> Response:
        """Return the same for the document with this text, which is hashed as a build does and not kept."""
        key = content_key(normalise(_encodable(body.text)))
        return answer(service.seen(key=key, run=body.run, position=body.position))

    @app.get("/runs/{run}/histogram")
    def histogram(run: RunPath, position: PositionQuery = None) -> Response:
        """Return how many documents, and tokens, were seen how often by a run over its ancestry."""
        return answer(service.histogram(run, position))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("the text is not Unicode: it has half a surrogate pair") from None
    return text
