"""The ledger over HTTP: which runs were fed a document, and how many documents a run saw how often."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ...common.errors import RequestError
from ...common.text import content_key, normalise
from .. import exposures
from ..schemas import KeyPath, PositionQuery, RunPath, RunQuery, TextRequest
from ..service import Service
from .dependencies import ServiceOfApp, answer
from .workers import COUNTS, LOOKUPS, Check

router = APIRouter()


@router.get("/documents/{key}/exposures")
async def by_key(
    service: ServiceOfApp, request: Request, key: KeyPath, run: RunQuery = None, position: PositionQuery = None
) -> Response:
    """Return which runs were fed the document with this key, how often, and where first and last."""
    return await _seen(service, request, key=bytes.fromhex(key), run=run, position=position)


@router.get("/documents/exposures")
async def by_id(
    service: ServiceOfApp,
    request: Request,
    id: Annotated[str, Query(min_length=1, max_length=10_000)],
    run: RunQuery = None,
    position: PositionQuery = None,
) -> Response:
    """Return the same for documents with this id: several when sources share ids."""
    return await _seen(service, request, id_=_encodable(id), run=run, position=position)


@router.post("/documents/exposures")
async def by_text(service: ServiceOfApp, request: Request, body: TextRequest) -> Response:
    """Return the same for the document with this text, which is hashed as a build does and not kept."""
    text = _encodable(body.text)

    def question(_: Check) -> Response:
        key = content_key(normalise(text))
        return answer(exposures.seen(service, key=key, run=body.run, position=body.position))

    return await LOOKUPS.run(request, question)


@router.get("/runs/{run}/histogram")
async def histogram(service: ServiceOfApp, request: Request, run: RunPath, position: PositionQuery = None) -> Response:
    """Return how many documents, and tokens, were seen how often by a run over its ancestry."""
    return await COUNTS.run(request, lambda check: answer(exposures.histogram(service, run, position, check)))


async def _seen(service: Service, request: Request, **question: Any) -> Response:
    return await LOOKUPS.run(request, lambda _: answer(exposures.seen(service, **question)))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("the text is not Unicode: it has half a surrogate pair") from None
    return text
