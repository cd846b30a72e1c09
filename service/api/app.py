"""The HTTP application: its routers, the page, and how it answers what goes wrong."""

import asyncio
import importlib.resources
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import epochal

from ...common.cli import say
from ...common.errors import FULL, EpochalError, system_line
from ...common.problems import problem_text
from ..errors import ConflictError, http_status
from ..observe.lineage import Lineage
from ..observe.log import RequestLog, id_of
from ..observe.metrics import Metrics
from ..observe.requests import HEADER, Observed
from ..observe.state import Queues
from ..schemas import Problem
from ..security import AccessRules, Guard
from ..service import Service
from . import artifacts, contents, documents, optouts, plans, runs
from .dependencies import answer
from .operations import audit, health
from .workers import GoneError

REFUSALS = {
    400: "not understood",
    401: "no token",
    403: "not allowed",
    404: "not there",
    408: "too slow",
    409: "contradicts what is there",
    413: "too large",
    415: "not JSON",
    422: "wrong",
    429: "too many requests",
    503: "too busy, or the database is away",
}

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def create_app(
    service: Service, rules: AccessRules, log: RequestLog | None = None, lineage: Lineage | None = None
) -> FastAPI:
    """Return the ASGI application over `service`, which is closed with it, as are log and lineage."""
    app = FastAPI(
        title="epochal",
        version=epochal.__version__,
        summary="Which artifacts, plans and runs there are, and what every run has seen.",
        lifespan=_lifespan,
        docs_url=None,  # they load scripts from other sites
        redoc_url=None,
        responses={code: {"model": Problem, "description": text} for code, text in REFUSALS.items()},
    )
    app.state.service, app.state.log, app.state.lineage = service, log, lineage
    queues = Queues(
        waiting={"openlineage": lambda: lineage.waiting} if lineage else {},
        dropped={"log": lambda: log.dropped} if log else {},
        lineage=lineage.outcomes if lineage else None,
    )
    app.state.metrics = metrics = Metrics(service, queues)
    app.add_middleware(Guard, rules=rules)
    app.add_middleware(Observed, metrics=metrics, log=log)  # the last one is the outermost
    _refusals(app)
    _show_page(app)
    for part in (artifacts, plans, contents, runs, documents, optouts, health, audit):
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    app.state.receipts = asyncio.create_task(runs.check_receipts(service, None))
    yield
    await app.state.receipts
    if app.state.lineage is not None:  # it still asks the database
        await run_in_threadpool(app.state.lineage.close)
    await run_in_threadpool(service.close)
    if app.state.log is not None:
        await run_in_threadpool(app.state.log.close)


def _refusals(app: FastAPI) -> None:
    @app.exception_handler(EpochalError)
    async def refused(_: Request, error: EpochalError) -> Response:
        details = error.details if isinstance(error, ConflictError) else {}
        refusal = answer({"detail": str(error)} | details, http_status(error))
        if refusal.status_code == 503:
            refusal.headers["retry-after"] = "5"
        return refusal

    @app.exception_handler(OSError)
    async def no_room(request: Request, error: OSError) -> Response:
        if error.errno not in FULL:
            return await defect(request, error)
        say(system_line(error))
        return answer({"detail": "no space left on the disk of the service: free some"}, 503)

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: GoneError) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            return answer({"detail": f"the body is not JSON (at character {problem['loc'][-1]})"}, 422)
        key = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
        return answer({"detail": f"{_plain(key)}: {_plain(problem_text(problem))}"}, 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return Response(orjson.dumps({"detail": error.detail}), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        id_, log = id_of(request.scope), request.app.state.log
        if log is None:
            traceback.print_exception(error)
        else:
            log.defect(id_, error)
        failed = answer({"detail": "the service failed: its log has the reason"}, 500)
        failed.headers[HEADER] = id_  # it is sent outside of all middleware
        return failed


def _plain(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:300]


def page() -> str:
    """Return the page as it is served: its style and script are part of it, so that nothing else is loaded."""
    folder = importlib.resources.files("epochal.service") / "page"
    html = (folder / "page.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js", "documents.js", "optouts.js", "start.js"):
        html = html.replace(f"/* {name} */\n", (folder / name).read_text(encoding="utf-8"))
    return html


def _show_page(app: FastAPI) -> None:
    text = page()

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(text, headers={"content-security-policy": PAGE_POLICY})

    @app.get("/health")
    async def health() -> Response:
        """Answer that the service is there, and its version."""
        return answer({"service": "epochal", "version": epochal.__version__})
