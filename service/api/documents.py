"""The ledger over HTTP: which runs were fed a document, where, and how many documents a run saw how often."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from ...common.errors import RequestError
from ...common.text import content_key, normalise
from ...shards.order.contents import Place, Table, places_of
from .. import catalogue, exposures, runs
from ..bounds import lookups_at_once
from ..errors import NotFoundError
from ..runs import Ancestor
from ..schemas import KeyPath, PositionQuery, RunNameQuery, RunPath, RunQuery, TextRequest
from ..service import Service
from .dependencies import ServiceOfApp, answer
from .workers import COUNTS, LOOKUPS, Check

MOST_PLACES = 200_000
"""Places of a document that are looked at for a timeline."""

MOST_EVENTS, TIMELINE_SPANS = 1000, 100

router = APIRouter()


@router.get("/documents/{key}/exposures")
async def by_key(
    service: ServiceOfApp, request: Request, key: KeyPath, run: RunQuery = None, position: PositionQuery = None
) -> Response:
    """Return which runs were fed the document with this key, how often, and where first and last."""
    return await _seen(service, request, key=bytes.fromhex(key), run=run, position=position)


@router.get("/documents/{key}/timeline")
async def timeline(
    service: ServiceOfApp, request: Request, key: KeyPath, run: RunNameQuery, position: PositionQuery = None
) -> Response:
    """Return at which positions, in which passes, a run and those it continues were fed the document with this key."""
    return await COUNTS.run(request, lambda check: answer(_timeline(service, key, run, position, check)))


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


def _timeline(service: Service, key: str, run: str, position: int | None, check: Callable[[], None]) -> dict[str, Any]:
    """Return at which positions a run, and the runs its model went through, were fed the document with this key.

    Args:
        key: 32 hexadecimal digits.
        position: as of there, not as of its last report.
        check: called for every run of the ancestry; what it raises ends the search.

    Raises:
        NotFoundError: when nothing of that name is known, or a pool cannot be read.
        RequestError: for a document that comes too often.
    """
    with service.db.reader() as connection:
        fingerprint = catalogue.resolve(connection, "run", run)
        history = exposures.until(service, runs.ancestry(connection, fingerprint), position)
    stretches, known = [], False
    for ancestor in history:
        check()
        places = _places(service, ancestor, key)
        known |= places is not None
        stretches.append(_stretch_shown(service, ancestor, places or []))
    if not known:
        raise NotFoundError(f"no document with key {key} is in the pools of that run")
    return {"key": key, "run": history[0].name, "fingerprint": fingerprint, "stretches": stretches}


def _places(service: Service, a: Ancestor, key: str) -> list[Place] | None:
    """Return where a document comes in a stretch of a history, None where its data has no such one."""
    order = service.plan(a.plan)
    tables, documents, slots = [], [], 0
    for plan in order.components().values():
        pool = service.pool_of(plan.subset)
        index = service.index(pool) if pool is not None else None
        if pool is None or index is None:
            raise NotFoundError(f"the pool of subset {plan.subset} of run '{a.name}' cannot be read here: register it")
        table = Table(service.document_table(pool), plan.start_sample * plan.seq_len)
        found = index.by_key(bytes.fromhex(key))
        tables.append(table)
        documents.append([row for d in found for row in table.documents.rows(d.start, d.start + 1)])
        slots += sum((2 + d.tokens // plan.seq_len) * plan.copies for d in found)
    if slots > min(MOST_PLACES, lookups_at_once(order)):
        raise RequestError(f"the document comes up to {slots:,} times in run '{a.name}': too often for a timeline")
    return places_of(order, tables, documents, range(a.stop))


def _stretch_shown(service: Service, a: Ancestor, places: Sequence[Place]) -> dict[str, Any]:
    """Return a stretch of a history as its timeline.

    events: the first ones. spans: how many there are in each of so many equal spans of the positions before `position`.
    """
    at = np.array([place.position for place in places], np.int64)
    spans, _ = np.histogram(at, bins=TIMELINE_SPANS, range=(0, max(1, a.stop)))
    events = [
        {
            "position": place.position,
            "step": place.position // a.batch_samples,
            "pass": place.pass_,
            "source": place.component or None,
            "begin": place.document.begin,
            "tokens": place.document.tokens,
        }
        for place in places[:MOST_EVENTS]
    ]
    return {
        "run": a.name,
        "fingerprint": a.run,
        "plan": a.plan,
        "position": a.stop,
        "positions": service.plan(a.plan).positions,
        "times": len(places),
        "tokens_fed": sum(place.document.tokens for place in places),
        "events": events,
        "spans": spans.tolist(),
    }
