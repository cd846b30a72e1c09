"""The lineage of everything: pool -> subset -> plan -> run -> checkpoint -> continued run."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ..catalogue import names_of, plans_in
from ..models import Artifact, Checkpoint, PlanRow, RunRow

MOST_NODES = 2000


def lineage(connection: Connection, of: str | None) -> dict[str, Any]:
    """Return {nodes, edges}: pool -> subset -> plan -> run -> checkpoint -> continued run.

    Args:
        of: fingerprint of one of them, to get what it came from and what came from it; else the newest of all there is.
    """
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[tuple[str, str]] = []
    for row in _newest(connection, Artifact):
        nodes[row.fingerprint] = {"kind": row.kind, "name": None, "tokens": row.tokens}
        if row.pool != row.fingerprint:
            edges.append((row.pool, row.fingerprint))
    for row in _newest(connection, PlanRow):
        parts = plans_in(row.plan)
        nodes[row.fingerprint] = {"kind": "plan", "name": None, "tokens": sum(p["total_tokens"] for p in parts)}
        edges += [(p["subset"], row.fingerprint) for p in parts]
    runs = {row.fingerprint: row for row in _newest(connection, RunRow)}
    marks: dict[tuple[str, int], str] = {}
    for row in _newest(connection, Checkpoint, Checkpoint.__table__.c.at):
        id_ = f"{row.run}@{row.position}"
        marks[row.run, row.position] = id_
        nodes[id_] = {"kind": "checkpoint", "name": row.name, "position": row.position}
        edges.append((row.run, id_))
    for row in runs.values():
        nodes[row.fingerprint] = {"kind": "run", "name": row.name, "position": row.position, "state": row.state}
        edges.append((row.plan, row.fingerprint))
        if row.parent:
            edges.append((marks.get((row.parent, row.parent_position), row.parent), row.fingerprint))
    edges = [(a, b) for a, b in edges if a in nodes and b in nodes]
    if of is not None:
        kept = _reached(of, edges) | _reached(of, [(b, a) for a, b in edges])
        nodes = {k: v for k, v in nodes.items() if k in kept}
        edges = [(a, b) for a, b in edges if a in kept and b in kept]
    for fingerprint, node in nodes.items():
        if node["name"] is None:
            names = names_of(connection, fingerprint)
            node["name"] = names[0] if names else fingerprint[:8]
    return {
        "nodes": [{"id": k} | v for k, v in nodes.items()],
        "edges": [{"from": a, "to": b} for a, b in dict.fromkeys(edges)],
    }


def _newest(connection: Connection, model: Any, by: Any = None) -> Any:
    table = model.__table__
    return connection.execute(
        sa.select(table).order_by((by if by is not None else table.c.added).desc()).limit(MOST_NODES)
    )


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
