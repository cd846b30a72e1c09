"""Answers on exposures: which runs were fed a document, how many documents a run saw, how a plan repeats its samples.

The arithmetic is the ledger's; here are the questions to the catalogue around it, and the answers as JSON data.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from ..common.errors import RequestError
from ..shards.order.base import Order, Repetition, as_positions, digest_text
from . import catalogue, ledger, runs
from .bounds import MOST_COUNTED, check_copies, slots_counted
from .catalogue import UNKNOWN
from .document_index import Document
from .errors import NotFoundError
from .ledger import Segment, plans_at, segments_of
from .models import Artifact
from .runs import Ancestor
from .service import Service

MOST_SEGMENTS = 1 << 15
"""Stretches of histories whose segments are remembered: half a kilobyte each."""

DIGEST_PART = 1 << 18
"""Positions of a digest that are folded at once: some 20 ms."""

MOST_CURVE = 1 << 22
MOST_CURVE_COPIES = 1000

_POOLS = sa.select(Artifact.pool).distinct()
"""Of every stream that subsets are cut from: those of pools, and of subsets without some documents their own."""

Parts = list[tuple[Segment, list[ledger.Part]]]
"""The parts of a document in each segment of a stretch of a history."""


# -- one document ---------------------------------------------------------------------------------------------------


def seen(
    service: Service,
    key: bytes | None = None,
    id_: str | None = None,
    run: str | None = None,
    position: int | None = None,
) -> dict[str, Any]:
    """Return which runs were fed the document with this key (or the documents with this id), how often and when.

    Args:
        run: only this one (name or fingerprint), sample by sample, also when it saw nothing.
        position: as of there, not as of its last report.

    Raises:
        NotFoundError: when nothing of that name is known.
        RequestError: for a wrong request.
    """
    with service.db.reader() as connection:
        wanted = catalogue.resolve(connection, "run", run) if run is not None else None
        histories = {wanted: runs.ancestry(connection, wanted)} if wanted else runs.ancestries(connection)
        pools = connection.execute(_POOLS).scalars().all()
    if wanted is not None:
        histories = {wanted: until(service, histories[wanted], position)}
    elif position is not None:
        raise RequestError("position needs a run")
    if wanted is not None:
        plans = [plan for a in histories[wanted] for plan in service.plan(a.plan).components().values()]
        pools = [p for p in dict.fromkeys(service.pool_of(plan.subset) for plan in plans) if p]
    documents, unread = _find(service, pools, key, id_)
    if not documents:
        hint = f" ({len(unread)} pools could not be looked at: register them)" if unread else ""
        what = f"key {key.hex()}" if key is not None else f"id {(id_ or '')[:200]!r}"
        raise NotFoundError(f"no document with {what} is in the pools{' of that run' if run else ''}{hint}")
    return {"documents": [_document(service, of, histories, set(unread), wanted is not None) for of in documents]}


def until(service: Service, history: Sequence[Ancestor], position: int | None) -> list[Ancestor]:
    """Return a history up to `position` of its run.

    Raises:
        RequestError: for a position beyond the run's plan.
    """
    first, *rest = history
    if position is None:
        return [first, *rest]
    positions = service.plan(first.plan).positions
    if not 0 <= position <= positions:
        raise RequestError(f"position {position} is not in the plan of run '{first.name}', which ends at {positions}")
    return [Ancestor(first.run, first.name, first.plan, position, first.batch_samples), *rest]


def _find(
    service: Service, pools: Sequence[str], key: bytes | None, id_: str | None
) -> tuple[list[dict[str, Document]], list[str]]:
    """Return documents, each by the pools it lies in, and the pools that cannot be looked at."""
    by_key: dict[str, dict[str, Document]] = {}
    indexes = {pool: service.index(pool) for pool in pools}
    keys = {key} if key is not None else set()
    for index in indexes.values():
        if index is not None and id_ is not None:
            keys |= {bytes.fromhex(document.key) for document in index.by_id(id_)}
    for pool, index in indexes.items():
        for wanted in keys if index is not None else ():
            for document in index.by_key(wanted):  # type: ignore[union-attr]
                by_key.setdefault(document.key, {})[pool] = document
    return [by_key[k] for k in sorted(by_key)], [pool for pool, index in indexes.items() if index is None]


def _document(
    service: Service,
    places: dict[str, Document],
    histories: dict[str, list[Ancestor]],
    unread: set[str],
    in_full: bool,
) -> dict[str, Any]:
    """Return what every run has seen of the document that lies at `places`; in full, also sample by sample."""
    document = next(iter(places.values()))
    by_ancestor, unknown = _parts(service, places, histories, unread)
    parts = {a: [part for _, row in rows for part in row] for a, rows in by_ancestor.items()}
    shown = []
    for history in histories.values():
        row = _run_shown(document.tokens, history, parts, unknown)
        if in_full:
            row["segments"] = _segments_shown(history, by_ancestor)
        if in_full or row["exposures"]["most"] or row["unknown"]:
            shown.append(row)
    return {
        "key": document.key,
        "id": document.id,
        "source": document.source,
        "tokens": document.tokens,
        "pools": [{"pool": pool, "start": d.start} for pool, d in places.items()],
        "runs": shown,
        "runs_looked_at": len(histories),
    }


def _parts(
    service: Service, places: dict[str, Document], histories: dict[str, list[Ancestor]], unread: set[str]
) -> tuple[dict[Ancestor, Parts], set[str]]:
    """Return the parts of a document in every stretch of every history, by segment, and the plans that train on a
    pool that is unknown."""
    asked: list[tuple[Ancestor, Segment]] = []
    unknown: set[str] = set()
    for ancestor in {a: None for history in histories.values() for a in history}:
        for segment in _segments(service, ancestor):
            if segment.pool == UNKNOWN or segment.pool in unread:
                unknown.add(ancestor.plan)
            elif segment.pool in places:
                asked.append((ancestor, service.packed(segment)))
    spans = [(places[s.pool].start, places[s.pool].tokens) for _, s in asked]
    check_copies([(s.plan, tokens) for (_, s), (_, tokens) in zip(asked, spans, strict=True)])
    by_ancestor: dict[Ancestor, Parts] = {}
    for (ancestor, segment), row in zip(asked, ledger.parts([s for _, s in asked], spans), strict=True):
        by_ancestor.setdefault(ancestor, []).append((segment, row))
    return by_ancestor, unknown


def _segments(service: Service, a: Ancestor) -> list[Segment]:
    """Return the segments of a stretch of a history; their pool is UNKNOWN where the catalogue lacks a subset.

    Where it lacks none they never change, and are remembered.
    """
    found = service.segments.get(a)
    if found is None:
        order = service.plan(a.plan)
        found = segments_of(a.run, order, a.stop, a.batch_samples, lambda s: service.pool_of(s) or UNKNOWN)
        if not any(segment.pool == UNKNOWN for segment in found):
            if len(service.segments) >= MOST_SEGMENTS:
                service.segments.clear()
            service.segments[a] = found
    return found


def _run_shown(
    tokens: int, history: Sequence[Ancestor], parts: dict[Ancestor, list[ledger.Part]], unknown: set[str]
) -> dict[str, Any]:
    """Return what one run has seen of a document of `tokens` tokens."""
    rows = [parts.get(a, []) for a in history]  # the youngest run first
    level = ledger.intervals(tokens, rows)
    fed = sum([(stop - start) * times for start, stop, times in level])
    times_seen = [times for _, _, times in level]
    seen = [(a, part) for a, row in zip(history, rows, strict=True) for part in row if part.exposures]
    first = last = None
    if seen:
        oldest, youngest = seen[-1][0], seen[0][0]
        first = _event(oldest, min([part.first or 0 for a, part in seen if a is oldest]))
        last = _event(youngest, max([part.last or 0 for a, part in seen if a is youngest]))
    return {
        "run": history[0].name,
        "fingerprint": history[0].run,
        "exposures": {"least": min(times_seen), "most": max(times_seen), "mean": fed / tokens},
        "tokens_fed": fed,
        "first": first,
        "last": last,
        "intervals": [{"start": a, "stop": b, "exposures": times} for a, b, times in level],
        "unknown": [a.name for a in history if a.plan in unknown],
    }


def _segments_shown(history: Sequence[Ancestor], by_ancestor: dict[Ancestor, Parts]) -> list[dict[str, Any]]:
    """Return the parts of a document in each stretch of a history.

    source: of a mixture, whose subset the samples are of. position: of the run; source_position: how many of the
    positions before it are the source's.
    """
    return [
        {
            "run": a.name,
            "plan": a.plan,
            "position": a.stop,
            "source": segment.source,
            "source_position": segment.stop,
            "parts": [part._asdict() for part in row],
        }
        for a in history
        for segment, row in by_ancestor.get(a, [])
        if row
    ]


def _event(ancestor: Ancestor, position: int) -> dict[str, Any]:
    return {"run": ancestor.name, "position": position, "step": position // ancestor.batch_samples}


# -- all documents of a run -----------------------------------------------------------------------------------------


def histogram(service: Service, run: str, position: int | None, check: Callable[[], None]) -> dict[str, Any]:
    """Return how many documents a run saw how often, over its ancestry.

    Args:
        check: called for every part of a pool's documents; what it raises ends the count.

    Raises:
        NotFoundError: when nothing of that name is known.
        RequestError: for a wrong request.
    """
    with service.db.reader() as connection:
        fingerprint = catalogue.resolve(connection, "run", run)
        history = runs.ancestry(connection, fingerprint)
    history = until(service, history, position)
    segments = [segment for a in history for segment in _countable(service, a)]

    def read(pool: str) -> Iterator[dict[str, Any]]:
        for chunk in service.read_documents(pool):
            check()
            yield chunk

    counted = ledger.histogram(segments, read)
    return {
        "run": history[0].name,
        "fingerprint": fingerprint,
        "position": history[0].stop,
        "ancestry": [{"run": a.name, "plan": a.plan, "position": a.stop} for a in history],
    } | {name: {str(k): v for k, v in rows.items()} for name, rows in counted.items()}


def _countable(service: Service, ancestor: Ancestor) -> list[Segment]:
    """Return the segments of a stretch whose documents are to be counted. Raises NotFoundError, RequestError."""
    segments = _segments(service, ancestor)
    for plan, pool in ((s.plan, s.pool) for s in segments):
        if pool == UNKNOWN:
            raise NotFoundError(f"subset {plan.subset} of run '{ancestor.name}' is not in the catalogue: register it")
    slots = slots_counted(service.plan(ancestor.plan))
    if slots > MOST_COUNTED:
        raise RequestError(f"run '{ancestor.name}' shuffles {slots:,} samples together: too many")
    return [service.packed(segment) for segment in segments]


# -- the samples of a plan ------------------------------------------------------------------------------------------


def digest_of(order: Order, start: int, stop: int, check: Callable[[], None]) -> str:
    """Return the digest of positions [start, stop), as `Order.digest` does; `check` is called now and then.

    Raises:
        RequestError: for positions that the order does not have.
    """
    if not 0 <= start <= stop <= order.positions:
        return order.digest(start, stop)  # says what is wrong
    lanes = (0, 0)
    for begin in range(start, stop, DIGEST_PART):
        check()
        span = range(begin, min(begin + DIGEST_PART, stop))
        part = order.fold(as_positions(span), order.ids(span))
        lanes = lanes[0] + part[0], lanes[1] + part[1]
    return digest_text(lanes)


def exposure_curve(order: Order, points: int = 65) -> dict[str, Any]:
    """Return, at evenly spaced positions, the share of samples not seen yet and the least and most exposures.

    For `global` with more than 2**22 slots or 1000 passes the share is its expectation, taken as (1 - p / nc)**c, and
    `kind` says so; least and most are then null.
    """
    at = sorted({round(order.positions * i / (points - 1)) for i in range(points)})
    counts = [[count for _, count in plans_at(order, p)] for p in at]
    curves = [_curve(plan, stops) for plan, *stops in zip(order.components().values(), *counts, strict=True)]
    rows = []
    for position, *by_plan in zip(at, *(curve for _, curve in curves), strict=True):
        unseen, least, most = zip(*by_plan, strict=True)
        known = None not in least
        rows.append(
            {
                "position": position,
                "unseen": sum(unseen) / order.samples,
                "least": min(least) if known else None,
                "most": max(most) if known else None,
            }
        )
    exact = all(kind == "exact" for kind, _ in curves)
    return {"kind": "exact" if exact else "expected", "samples": order.samples, "points": rows}


def _curve(plan: Repetition, stops: Sequence[int]) -> tuple[str, list[tuple[float, int | None, int | None]]]:
    """Return whether it is exact or expected, and (samples not seen, least, most exposures) at positions of a plan."""
    n, slots = plan.samples, plan.samples * plan.copies
    if plan.skips and (plan.policy != "global" or slots <= MOST_CURVE):
        tallies = [plan.histogram(p) for p in stops]
        return "exact", [(tally.get(0, 0), min(tally), max(tally)) for tally in tallies]
    if plan.policy != "global":
        return "exact", [(max(0, n - p), p // n, -(-p // n)) for p in stops]
    if slots > MOST_CURVE or plan.copies > MOST_CURVE_COPIES:
        return "expected", [(n * (1 - p / slots) ** plan.copies, None, None) for p in stops]
    where = plan.positions_of_copies(np.arange(n, dtype=np.uint64), range(plan.copies))
    counted = [(where < p).sum(axis=0) for p in stops]
    return "exact", [(int((seen == 0).sum()), int(seen.min()), int(seen.max())) for seen in counted]
