"""Whether this server lives, whether it can answer, and what Prometheus reads."""

import asyncio
import os
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool

from ....common.errors import EpochalError
from ...service import Service
from ..dependencies import ServiceOfApp, answer

READY_SECONDS = 5.0
"""How long the database may take before this server counts as not ready."""

router = APIRouter()


@router.get("/healthz")
async def alive() -> Response:
    """Answer as long as the process does: where this fails, restart it."""
    return answer({"status": "alive"})


@router.get("/readyz")
async def ready(service: ServiceOfApp) -> Response:
    """Answer 200 when requests can be served, else 503; `checks` says what fails. It changes nothing."""
    try:
        checks = await asyncio.wait_for(run_in_threadpool(_checks, service), READY_SECONDS)
    except TimeoutError:
        checks = {"database": f"did not answer within {READY_SECONDS:g} s"}
    fine = all(said == "ok" for said in checks.values())
    return answer({"status": "ready" if fine else "not ready", "checks": checks}, 200 if fine else 503)


def _checks(service: Service) -> dict[str, str]:
    """Return what is wrong, or `ok`, by what was looked at."""
    try:
        service.read(lambda connection: connection.execute(text("SELECT 1")).scalar())
        database = "ok"
    except EpochalError as error:
        database = str(error)
    return {
        "database": database,
        "writer": "ok" if service.db.writer.alive else "nothing is written any more: restart this server",
        "root": "ok" if os.path.isdir(service.root) else "the folder with pools/ and subsets/ is not there",
    }


@router.get("/metrics", response_class=Response)
def metrics(request: Request, accept: Annotated[str, Header(max_length=2000)] = "") -> Response:
    """Return the metrics of this server as Prometheus reads them (text, or OpenMetrics where it asks for that)."""
    registry: Any = request.app.state.metrics
    body, content_type = registry.text(accept)
    return Response(body, media_type=content_type)
