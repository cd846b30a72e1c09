"""Who changed what, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from ...operations import audit
from ...schemas import INT
from ..dependencies import ServiceOfApp, answer

router = APIRouter()


@router.get("/audit")
def entries(
    service: ServiceOfApp,
    before: Annotated[int | None, Query(ge=1, le=INT, description="only entries with a smaller id")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Return who changed what, the newest first; `next` is the `before` of what comes then, or null."""
    rows = service.read(audit.listed, before, limit)
    return answer({"entries": rows, "next": rows[-1]["id"] if len(rows) == limit else None})
