"""Opt-out lists over HTTP: entering them, what they are, and who holds their documents."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import Connection

from .. import catalogue, runs
from ..catalogue import ArtifactQuery
from ..database import Place, now
from ..models import Artifact
from ..operations.once import OnceOfRequest
from ..optouts import holders, lists
from ..optouts.lists import InForce
from ..schemas import INT, NAME, OptOutRequest, RunPath, Text
from ..service import Service
from . import run_lists
from .dependencies import ServiceOfApp, answer
from .paging import CursorQuery, page, place_of
from .run_lists import RunQuery
from .workers import COUNTS, Check

AT_ONCE = 200
"""Rows of a list that are looked at together for those that hold documents."""

MOST_SHOWN = 100
"""Live runs that are named in the answer to a new list; all are counted."""

_POOLS = sa.select(Artifact.fingerprint).where(Artifact.kind == "pool")

router = APIRouter()

ListPath = Annotated[str, Path(description="name of an opt-out list", pattern=NAME)]
VersionQuery = Annotated[int | None, Query(ge=1, le=INT, description="default: the last one")]
Kind = Literal["pool", "subset", "plan", "run"]
Row = tuple[Place, Callable[[], dict[str, Any] | None]]
"""Where a row stands in its list, and what is shown of it, None where it holds nothing."""


@router.post("/optouts", status_code=201, responses={200: {"description": "it was in force already"}})
async def enter(service: ServiceOfApp, request: Request, body: OptOutRequest, once: OnceOfRequest) -> Response:
    """Enter a list of documents that are to be fed no more, or a newer version of it. Live runs that hold some are
    counted and named, and go on."""

    def entered(check: Check) -> Response:
        service.refresh()
        done = service.write(lists.add, body.name, body.entries(), once=once)
        of = service.read(lists.find, body.name)
        live = [shown for shown in _shown(_runs(service, of, None, True), check) if _holds(shown)]
        counted = {"live_runs": len(live), "live": live[:MOST_SHOWN]}
        return answer(done | _found(service, of, check) | counted, 201 if done["new"] else 200)

    return await COUNTS.run(request, entered)


@router.get("/optouts")
def listed(
    service: ServiceOfApp,
    name: Annotated[Text | None, Query(description="a part of it")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Return a page of lists, the last version of each, newest first."""
    found = service.read(lists.listed, place_of(cursor), limit + 1, name)
    kept, rest = page(found, limit, lambda of: Place(of.added, of.fingerprint))
    return answer({"optouts": [of._asdict() for of in kept], "next": rest})


@router.get("/optouts/{name}")
async def show(service: ServiceOfApp, request: Request, name: ListPath, version: VersionQuery = None) -> Response:
    """Return a list: its versions, how many of its lines name a document of a pool, and pools that are not known."""

    def question(check: Check) -> Response:
        service.refresh()
        of = service.read(lists.find, name, version)
        known = [row._asdict() for row in service.read(lists.versions, name)]
        return answer(of._asdict() | _found(service, of, check) | {"versions": known})

    return await COUNTS.run(request, question)


@router.get("/optouts/{name}/documents")
def documents(
    service: ServiceOfApp,
    name: ListPath,
    version: VersionQuery = None,
    start: Annotated[int, Query(ge=0, le=INT)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Return what the lines of a list say, from line `start` on; `next` is the `start` of the rest, or null."""
    of = service.read(lists.find, name, version)
    said = service.read(lists.entries, of.fingerprint)[start : start + limit]
    shown = [value if kind is None else {kind: value} for kind, value in said]
    return answer({"documents": shown, "next": start + limit if start + limit < of.lines else None})


@router.get("/optouts/{name}/holders")
async def holding(
    service: ServiceOfApp,
    request: Request,
    name: ListPath,
    kind: Kind,
    live: Annotated[bool | None, Query(description="of runs: only those whose lease lasts, or the others")] = None,
    version: VersionQuery = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Return a page of the pools, subsets, plans or runs that hold documents of a list, in the order of their own
    lists; of plans and runs also how often they feed them. Where that is not known, `unknown` names the subsets."""

    def question(check: Check) -> Response:
        service.refresh()
        of, place = service.read(lists.find, name, version), place_of(cursor)
        rows = {
            "plan": lambda: _plans(service, of, place),
            "run": lambda: _runs(service, of, place, live),
        }.get(kind, lambda: _artifacts(service, of, place, kind))()
        found: list[tuple[Place, dict[str, Any]]] = []
        for at, shown in rows:
            check()
            if (row := shown()) is not None:
                found.append((at, row))
            if len(found) > limit:
                break
        kept, rest = page(found, limit, lambda one: one[0])
        return answer({"kind": kind, "holders": [row for _, row in kept], "next": rest})

    return await COUNTS.run(request, question)


@router.get("/optouts/{name}/runs/{run}")
async def of_run(
    service: ServiceOfApp, request: Request, name: ListPath, run: RunPath, version: VersionQuery = None
) -> Response:
    """Return what one run was fed of a list's documents over its ancestry, since where nothing, and which of its data
    sets, and of the pools that they are cut from, hold some."""

    def question(_: Check) -> Response:
        of = service.read(lists.find, name, version)
        history = service.read(lambda c: runs.ancestry(c, catalogue.resolve(c, "run", run)))
        shown = [_artifact_shown(service, of, row) for row in service.read(_data_of, service, history)]
        artifacts = [row for row in shown if row is not None]
        return answer({"optouts": of._asdict(), "held": holders.of_run(service, of, history), "artifacts": artifacts})

    return await COUNTS.run(request, question)


def _found(service: Service, of: InForce, check: Check) -> dict[str, Any]:
    """Return how many lines of a list name a document of which pools, and the pools that cannot be looked at."""
    pools = service.read(lambda connection: connection.execute(_POOLS).scalars().all())
    keys: set[bytes] = set()
    ids: set[str] = set()
    unread = []
    for pool in pools:
        check()
        found = service.optouts.at(of, pool)
        if found is None:
            unread.append(pool)
        else:
            keys.update(found.keys)
            ids.update(found.ids)
    lines = service.optouts.names(of).found(keys, ids)
    return {"documents": len(keys), "unmatched": lines[None], "pools": len(pools) - len(unread), "unread": unread}


def _holds(shown: dict[str, Any]) -> bool:
    """Return whether a run's own plan holds documents, or may."""
    return bool(shown["documents"] or shown["unknown"])


def _shown(rows: Iterator[Row], check: Check) -> Iterator[dict[str, Any]]:
    for _, show_row in rows:
        check()
        if (shown := show_row()) is not None:
            yield shown


def _artifacts(service: Service, of: InForce, place: Place | None, kind: str) -> Iterator[Row]:
    def look(after: Place | None) -> Sequence[dict[str, Any]]:
        return service.read(catalogue.search, ArtifactQuery(kind, after=after, limit=AT_ONCE))

    for row, at in _walked(look, lambda row: Place(row["added"], row["fingerprint"]), place):
        yield at, partial(_artifact_shown, service, of, row)


def _artifact_shown(service: Service, of: InForce, row: dict[str, Any]) -> dict[str, Any] | None:
    return holders.of_artifact(service, of, row, service.pool_of(row["fingerprint"]) or row["fingerprint"])


def _data_of(connection: Connection, service: Service, history: Sequence[runs.Ancestor]) -> list[dict[str, Any]]:
    """Return the data sets of a history that the catalogue has, and the pools that they are cut from."""
    sets = dict.fromkeys(plan.subset for a in history for plan in service.plan(a.plan).components().values())
    manifests = connection.execute(sa.select(Artifact.manifest).where(Artifact.fingerprint.in_(sets))).scalars()
    pools = [manifest["parent"]["fingerprint"] for manifest in manifests if manifest.get("parent")]
    wanted = dict.fromkeys([*sets, *sorted(pools)])
    return [row for one in wanted for row in catalogue.search(connection, ArtifactQuery(fingerprint=one, limit=1))]


def _plans(service: Service, of: InForce, place: Place | None) -> Iterator[Row]:
    def look(after: Place | None) -> Sequence[dict[str, Any]]:
        return service.plans(None, after, AT_ONCE)

    for row, at in _walked(look, lambda row: Place(row["added"], row["fingerprint"]), place):
        yield at, partial(holders.of_plan, service, of, row)


def _runs(service: Service, of: InForce, place: Place | None, live: bool | None) -> Iterator[Row]:
    def look(after: Place | None) -> Sequence[tuple[dict[str, Any], float, Any]]:
        def question(connection: Connection) -> list[tuple[dict[str, Any], float, Any]]:
            at = now(connection)
            found = run_lists.listed(connection, RunQuery(live=live, after=after, limit=AT_ONCE), at)
            return [(run_lists.shown(r, at), r.heard, runs.ancestry(connection, r.fingerprint)) for r in found]

        return service.read(question)

    for (row, _, history), at in _walked(look, lambda one: Place(one[1], one[0]["fingerprint"]), place):
        more = {key: row[key] for key in ("state", "live")}
        yield at, partial(_run_shown, service, of, history, more)


def _run_shown(
    service: Service, of: InForce, history: Sequence[runs.Ancestor], more: dict[str, Any]
) -> dict[str, Any] | None:
    found = holders.of_run(service, of, history)
    return None if found is None else found | more


def _walked(
    look: Callable[[Place | None], Sequence[Any]], place_of_row: Callable[[Any], Place], place: Place | None
) -> Iterator[tuple[Any, Place]]:
    """Yield the rows of a list after `place`, each with where it stands."""
    rows: Sequence[Any] = ()
    while not rows or len(rows) == AT_ONCE:
        rows = look(place)
        if not rows:
            return
        for row in rows:
            place = place_of_row(row)
            yield row, place
