"""Pools and subsets over HTTP: search, one of them, carving, and the lineage of everything."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import Connection

from ...common.errors import RequestError
from ...common.units import parse_count
from ...shards.without.lists import list_of
from .. import catalogue
from ..catalogue import ArtifactQuery
from ..database import Place
from ..errors import NotFoundError
from ..optouts import lists
from ..schemas import INT, CarveRequest, Text
from .dependencies import ServiceOfApp, answer
from .lineage import MOST_NODES
from .lineage import lineage as lineage_of
from .paging import CursorQuery, page, place_of
from .workers import CARVES, Check

router = APIRouter()


@router.get("/artifacts")
def search(
    service: ServiceOfApp,
    kind: Literal["pool", "subset"] | None = None,
    name: Text | None = None,
    fingerprint: Annotated[str | None, Query(pattern=r"^[0-9a-f]{1,32}$")] = None,
    tokenizer: Text | None = None,
    least_tokens: Annotated[int | None, Query(ge=0, le=INT)] = None,
    most_tokens: Annotated[int | None, Query(ge=0, le=INT)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=INT)] = 0,
    cursor: CursorQuery = None,
) -> Response:
    """Search pools and subsets by kind, part of a name, beginning of a fingerprint, tokenizer, unique tokens; a page of
    them, the newest first."""
    service.refresh()
    place = place_of(cursor)
    query = ArtifactQuery(kind, name, fingerprint, tokenizer, least_tokens, most_tokens, limit + 1, offset, place)
    found = service.read(catalogue.search, query)
    kept, rest = page(found, limit, lambda artifact: Place(artifact["added"], artifact["fingerprint"]))
    return answer({"artifacts": kept, "next": rest, "problems": service.problems})


@router.get("/artifacts/{artifact}")
def describe(service: ServiceOfApp, artifact: Annotated[str, Path(max_length=200)]) -> Response:
    """Return one pool or subset (name or fingerprint): its manifest, places, and what its names have meant."""
    service.refresh()
    if not artifact.isprintable():
        raise NotFoundError("nothing has that name")
    fingerprint = service.read(catalogue.resolve, "artifact", artifact)
    return answer(service.read(catalogue.describe, fingerprint))


@router.post("/subsets", status_code=201, responses={200: {"description": "it was there already"}})
async def carve(service: ServiceOfApp, request: Request, body: CarveRequest) -> Response:
    """Carve a subset of exactly so many unique tokens, without some documents where such are named. The same request
    again returns the same subset."""
    tokens = parse_count(body.unique_tokens, "unique_tokens")
    if tokens > INT:
        raise RequestError("unique_tokens: too many")

    def carved(_: Check) -> Response:
        listed = [service.optouts.names(service.read(lists.find, name)) for name in body.without_optouts]
        listed += [list_of("request", body.entries())] if body.without else []
        fingerprint, new = service.carve(body.pool, tokens, body.replicate, body.name, listed)
        return answer(service.read(catalogue.describe, fingerprint), 201 if new else 200)

    return await CARVES.run(request, carved)


@router.get("/lineage")
def lineage(
    service: ServiceOfApp,
    of: Annotated[Text | None, Query(description="only what this came from and led to")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_NODES, description="of each kind, the newest")] = MOST_NODES,
) -> Response:
    """Return nodes and edges: pool -> subset -> plan -> run -> checkpoint -> continued run; `cut` if there are more.

    of: only what this (name or fingerprint) came from and led to.
    """
    service.refresh()
    return answer(service.read(_lineage, of, limit))


def _lineage(connection: Connection, of: str | None, most: int) -> dict[str, Any]:
    if of is None:
        return lineage_of(connection, None, most)
    for kind in ("run", "plan", "artifact"):
        try:
            return lineage_of(connection, catalogue.resolve(connection, kind, of), most)
        except RequestError:
            continue
    raise NotFoundError(f"there is no run, plan, subset or pool '{of}'")
