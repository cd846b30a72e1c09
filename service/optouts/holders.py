"""Which pools, subsets, plans and runs hold documents of an opt-out list, how often those are fed, and what is refused.

A list in force allows no exposures from now on: a plan that would feed one of its documents is not entered, and no run
starts or goes on with it, but for one that is live. Nobody's run is ended.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ...shards.order.base import Order
from ..catalogue import UNKNOWN
from ..errors import ConflictError
from ..ledger import Segment, segments_of
from ..models import PlanRow
from ..runs import Ancestor
from .counts import NONE, Counted, count
from .lists import InForce, in_force
from .places import Known, Spans


class Held(NamedTuple):
    """What is fed of a list's documents, and the subsets of which it cannot be known."""

    counted: Counted
    unknown: list[str]

    def shown(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {k: v for k, v in self.counted._asdict().items() if k != "held"} | {"unknown": self.unknown}


def is_entered(connection: Connection, plan: str) -> bool:
    """Return whether a plan, by its fingerprint, was entered already."""
    return connection.execute(sa.select(PlanRow.added).where(PlanRow.fingerprint == plan)).first() is not None


def check(service: Known, order: Order) -> None:
    """Raise ConflictError for a plan that would feed documents of a list in force, or of which that is not known."""
    for of in service.read(in_force):
        counted, unknown = held(service, of, _segments(service, order, order.positions))
        if unknown:
            raise ConflictError(
                f"opt-out list '{of.name}' is in force, and which documents subset {unknown[0]} holds is not known "
                "here: register it and its pool (epochal register)",
                optouts=of.name,
                unknown=unknown,
            )
        if counted.documents:
            documents = f"{counted.documents:,} of its documents" if counted.documents > 1 else "1 of its documents"
            raise ConflictError(
                f"opt-out list '{of.name}' (version {of.version}) allows no exposures from now on, and this plan would "
                f"feed {documents}: train on a subset without them (POST /subsets with without_optouts)",
                optouts=of.name,
                version=of.version,
                documents=counted.documents,
            )


def held(service: Known, of: InForce, segments: Sequence[Segment]) -> Held:
    """Return what segments feed of a list's documents.

    Raises:
        RequestError: as `count`.
    """
    places: dict[str, Spans | None] = {UNKNOWN: None}
    for pool in {s.pool for s in segments} - {UNKNOWN}:
        places[pool] = service.optouts.at(of, pool)
    known = {pool: found for pool, found in places.items() if found is not None}
    counted = [service.packed(s) for s in segments if s.pool in known and len(known[s.pool].starts)]
    unknown = dict.fromkeys(s.plan.subset for s in segments if s.pool not in known)
    return Held(count(counted, known) if counted else NONE, list(unknown))


def of_artifact(service: Known, of: InForce, artifact: dict[str, Any], stream: str) -> dict[str, Any] | None:
    """Return how many documents of a list a pool or subset has a token of; None where it has none.

    Args:
        service: see above.
        of: see above.
        artifact: as the catalogue shows it.
        stream: fingerprint of the artifact whose stream it is cut from.
    """
    found = service.optouts.at(of, stream)
    keys = ("fingerprint", "name", "kind")
    shown: dict[str, Any] = {key: artifact[key] for key in keys}
    if found is None:
        return shown | {"documents": None, "tokens": None, "unknown": [artifact["fingerprint"]]}
    start = artifact["start_sample"] * artifact["seq_len"] if stream != artifact["fingerprint"] else 0
    ends = (found.starts + found.tokens).clip(start, start + artifact["tokens"])
    tokens = ends - found.starts.clip(start, start + artifact["tokens"])
    documents = int((tokens > 0).sum())
    return shown | {"documents": documents, "tokens": int(tokens.sum()), "unknown": []} if documents else None


def of_plan(service: Known, of: InForce, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a plan, as it is listed, feeds of a list's documents by its end; None where it holds none."""
    order = service.plan(plan["fingerprint"])
    whole = held(service, of, _segments(service, order, order.positions))
    if not whole.counted.held and not whole.unknown:
        return None
    return {
        "fingerprint": plan["fingerprint"],
        "names": plan["names"],
        "subset_names": plan["subset_names"],
        "positions": order.positions,
        "documents": whole.counted.held,
        "to_the_end": whole.shown(),
    }


def of_run(service: Known, of: InForce, history: Sequence[Ancestor]) -> dict[str, Any] | None:
    """Return what a run was fed of a list's documents over its ancestry, and would be by its plan's end.

    `documents` are those that its own plan holds, `unknown` its subsets of which that is not known, and `held` those
    that it or its ancestors hold. None where neither
    it nor its ancestors hold any. `since`: nothing of the list was fed after this position of this run of the ancestry;
    null where the run's own positions have fed some.
    """
    own = history[0]
    order = service.plan(own.plan)
    stretches = [_stretch(service, a) for a in history]
    past = [segment for stretch in stretches[1:] for segment in stretch]
    whole = _segments(service, order, order.positions)
    to_the_end, by_plan = held(service, of, [*whole, *past]), held(service, of, whole)
    if not to_the_end.counted.held and not to_the_end.unknown:
        return None
    by_stretch = [held(service, of, stretch) for stretch in stretches]
    return {
        "run": own.name,
        "fingerprint": own.run,
        "plan": own.plan,
        "position": own.stop,
        "positions": order.positions,
        "documents": by_plan.counted.held,
        "unknown": by_plan.unknown,
        "held": to_the_end.counted.held,
        "so_far": held(service, of, [*stretches[0], *past]).shown(),
        "to_the_end": to_the_end.shown(),
        "since": _since(history, by_stretch),
        "ancestry": [
            {"run": a.name, "fingerprint": a.run, "position": a.stop} | h.shown()
            for a, h in zip(history, by_stretch, strict=True)
        ],
    }


def _since(history: Sequence[Ancestor], fed: Sequence[Held]) -> dict[str, Any] | None:
    """Return from where on nothing was fed: where the last run that was fed some was taken over, or the beginning."""
    for number, (ancestor, of) in enumerate(zip(history, fed, strict=True)):
        if of.counted.documents or of.unknown:
            return {"run": ancestor.name, "position": ancestor.stop} if number else None
    return {"run": history[-1].name, "position": 0}


def _stretch(service: Known, a: Ancestor) -> list[Segment]:
    return _segments(service, service.plan(a.plan), a.stop, a.run)


def _segments(service: Known, order: Order, stop: int, run: str = "") -> list[Segment]:
    return segments_of(run, order, stop, 1, lambda subset: service.pool_of(subset) or UNKNOWN)
