"""The lineage of everything: pool -> subset -> plan -> run -> checkpoint -> continued run."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ..catalogue import names_of_all, plans_in
from ..models import Artifact, Checkpoint, PlanRow, PlanSubset, RunRow

MOST_NODES = 2000
"""Of each kind, in one answer."""

ABOVE = (
    (RunRow.parent, RunRow.fingerprint),
    (RunRow.plan, RunRow.fingerprint),
    (PlanSubset.subset, PlanSubset.plan),
    (Artifact.pool, Artifact.fingerprint),
    (Artifact.manifest["parent"]["fingerprint"].as_string(), Artifact.fingerprint),  # carved without documents
)
"""(what something came from, what it is): columns of one table each."""


def lineage(connection: Connection, of: str | None, most: int = MOST_NODES) -> dict[str, Any]:
    """Return {nodes, edges, cut}: pool -> subset -> plan -> run -> checkpoint -> continued run.

    Args:
        of: fingerprint of one of them, to get what it came from and what came from it; else the newest of all there is.
        most: nodes of each kind; `cut` says whether there are more.
    """
    family = None if of is None else _family(connection, of, most)
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[tuple[str, str]] = []
    tables = [_newest(connection, model, family, most) for model in (Artifact, PlanRow, RunRow)]
    artifacts, plans, runs = (rows for rows, _ in tables)
    for row in artifacts:
        nodes[row.fingerprint] = {"kind": row.kind, "name": None, "tokens": row.tokens}
        if parent := row.manifest.get("parent"):
            edges.append((parent["fingerprint"], row.fingerprint))
    for row in plans:
        parts = plans_in(row.plan)
        nodes[row.fingerprint] = {"kind": "plan", "name": None, "tokens": sum(p["total_tokens"] for p in parts)}
        edges += [(p["subset"], row.fingerprint) for p in parts]
    saved, more = _checkpoints(connection, [row.fingerprint for row in runs], most)
    marks: dict[tuple[str, int], str] = {}
    for row in saved:
        id_ = f"{row.run}@{row.position}"
        marks[row.run, row.position] = id_
        nodes[id_] = {"kind": "checkpoint", "name": row.name, "position": row.position}
        edges.append((row.run, id_))
    for row in runs:
        nodes[row.fingerprint] = {"kind": "run", "name": row.name, "position": row.position, "state": row.state}
        edges.append((row.plan, row.fingerprint))
        if row.parent:
            edges.append((marks.get((row.parent, row.parent_position), row.parent), row.fingerprint))
    edges = [(a, b) for a, b in edges if a in nodes and b in nodes]
    if of is not None:  # a parent's checkpoints after the one that was taken over, and the like
        kept = _reached(of, edges) | _reached(of, [(b, a) for a, b in edges])
        nodes = {k: v for k, v in nodes.items() if k in kept}
        edges = [(a, b) for a, b in edges if a in kept and b in kept]
    names = names_of_all(connection, [one for one, node in nodes.items() if node["name"] is None])
    for fingerprint, of_it in names.items():
        nodes[fingerprint]["name"] = of_it[0] if of_it else fingerprint[:8]
    return {
        "nodes": [{"id": k} | v for k, v in nodes.items()],
        "edges": [{"from": a, "to": b} for a, b in dict.fromkeys(edges)],
        "cut": more or any(cut for _, cut in tables),
    }


def _family(connection: Connection, of: str, most: int) -> set[str]:
    """Return `of`, what it came from and what came from it; about `most` of these, the nearest first."""
    down = [(own, source) for source, own in ABOVE]
    return _closure(connection, of, ABOVE, most) | _closure(connection, of, down, most)


def _closure(connection: Connection, of: str, steps: Sequence[tuple[Any, Any]], most: int) -> set[str]:
    found, frontier = {of}, {of}
    while frontier and len(found) <= most:
        reached: set[str | None] = set()
        for wanted, known in steps:
            reached.update(connection.execute(sa.select(wanted).where(known.in_(frontier)).limit(most + 1)).scalars())
        frontier = {one for one in reached if one is not None} - found
        found |= frontier
    return found


def _newest(connection: Connection, model: Any, only: set[str] | None, most: int) -> tuple[Sequence[Any], bool]:
    """Return the newest rows, of `only` if any, and whether there are more."""
    table = model.__table__
    rows = sa.select(table).order_by(table.c.added.desc(), table.c.fingerprint)
    return _first(connection, rows if only is None else rows.where(table.c.fingerprint.in_(only)), most)


def _checkpoints(connection: Connection, runs: Sequence[str], most: int) -> tuple[Sequence[Any], bool]:
    table = Checkpoint.__table__
    rows = sa.select(table).where(table.c.run.in_(runs)).order_by(table.c.at.desc(), table.c.position, table.c.name)
    return _first(connection, rows, most)


def _first(connection: Connection, rows: Any, most: int) -> tuple[Sequence[Any], bool]:
    """Return the first `most` rows, and whether there are more."""
    found = connection.execute(rows.limit(most + 1)).all()
    return found[:most], len(found) > most


def _reached(start: str, edges: list[tuple[str, str]]) -> set[str]:
    after: dict[str, list[str]] = {}
    for a, b in edges:
        after.setdefault(a, []).append(b)
    found, waiting = {start}, [start]
    while waiting:
        for node in after.get(waiting.pop(), []):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found
