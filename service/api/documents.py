"""The ledger over HTTP: which runs were fed a document, and how many documents a run saw how often."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from ...common.errors import RequestError
from ...common.text import content_key, normalise
from .. import exposures
from ..schemas import KeyPath, PositionQuery, RunPath, RunQuery, TextRequest
from .dependencies import ServiceOfApp, answer

router = APIRouter()


@router.get("/documents/{key}/exposures")
def by_key(service: ServiceOfApp, key: KeyPath, run: RunQuery = None, position: PositionQuery = None) -> Response:
    """Return which runs were fed the document with this key, how often, and where first and last."""
    return answer(exposures.seen(service, key=bytes.fromhex(key), run=run, position=position))


@router.get("/documents/exposures")
def by_id(
    service: ServiceOfApp,
    id: Annotated[str, Query(min_length=1, max_length=10_000)],
    run: RunQuery = None,
    position: PositionQuery = None,
) -> Response:
    """Return the same for documents with this id: several when sources share ids."""
    return answer(exposures.seen(service, id_=_encodable(id), run=run, position=position))


@router.post("/documents/exposures")
def by_text(service: ServiceOfApp, body: TextRequest) -> Response:
    """Return the same for the document with this text, which is hashed as a build does and not kept."""
    key = content_key(normalise(_encodable(body.text)))
    return answer(exposures.seen(service, key=key, run=body.run, position=body.position))


@router.get("/runs/{run}/histogram")
def histogram(service: ServiceOfApp, run: RunPath, position: PositionQuery = None) -> Response:
    """Return how many documents, and tokens, were seen how often by a run over its ancestry."""
    return answer(exposures.histogram(service, run, position))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError("the text is not Unicode: it has half a surrogate pair") from None
    return text
