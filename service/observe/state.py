"""What the database, the queues and the pool of connections hold at the moment that Prometheus asks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from ..database import now
from ..errors import UnreachableError
from ..models import Artifact, Lease, RunRow
from ..service import Service

STATES = ("live", "open", "finished", "failed", "stopped")
"""Of runs: live ones hold the lease on their name; open ones do not any more, and did not say how they ended."""

RECEIPTS = ("valid", "invalid", "unchecked")


@dataclass(frozen=True)
class Queues:
    """By name: how many items wait beside the requests, and how many were dropped; each asked when they are read."""

    waiting: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    dropped: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    lineage: Callable[[], Mapping[str, int]] | None = None


@dataclass(frozen=True)
class Counted:
    """What the database holds. The mappings are by state, by kind and by what a receipt is."""

    runs: Mapping[str, int]
    artifacts: Mapping[str, int]
    receipts: Mapping[str, int]
    leases: int
    granted: int


def counted(connection: Connection) -> Counted:
    """Count runs, leases, artifacts and receipts, each in one statement."""
    at = now(connection)
    lasts = sa.func.coalesce(Lease.until, 0.0) > at
    state = sa.case((lasts, "live"), else_=RunRow.state).label("state")
    rows = sa.select(state, sa.func.count()).outerjoin(Lease, Lease.run == RunRow.fingerprint).group_by(state)
    held = sa.select(sa.func.count().filter(Lease.until > at), sa.func.coalesce(sa.func.sum(Lease.token), 0))
    kinds = sa.select(Artifact.kind, sa.func.count()).group_by(Artifact.kind)
    problem = RunRow.receipt_problem
    checked = sa.case((problem.is_(None), "unchecked"), (problem == "", "valid"), else_="invalid").label("checked")
    receipts = sa.select(checked, sa.func.count()).where(RunRow.receipt.is_not(None)).group_by(checked)
    live, granted = connection.execute(held.select_from(Lease)).one()
    return Counted(
        dict.fromkeys(STATES, 0) | _pairs(connection, rows.select_from(RunRow)),
        {"pool": 0, "subset": 0} | _pairs(connection, kinds),
        dict.fromkeys(RECEIPTS, 0) | _pairs(connection, receipts),
        live,
        int(granted),
    )


def _pairs(connection: Connection, wanted: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(wanted)}


class StateCollector(Collector):
    """Asks when it is read, so that nothing is counted twice or goes stale."""

    def __init__(self, service: Service, queues: Queues) -> None:
        self._service, self._queues = service, queues

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is follows from `collect`, which need not be called to begin."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges and counters of this moment."""
        try:
            found = self._service.read(counted)
        except UnreachableError:
            found = None
        yield GaugeMetricFamily("epochal_database_up", "Whether the database answers.", int(found is not None))
        pool: Any = self._service.db.engine.pool
        yield GaugeMetricFamily("epochal_database_connections_in_use", "Connections that read.", pool.checkedout())
        yield from self._queued()
        if found is not None:
            yield from _database_metrics(found)

    def _queued(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("epochal_queue_items", "Items that wait in a queue.", labels=["queue"])
        waiting.add_metric(["database_writes"], self._service.db.writer.waiting)
        for name, ask in self._queues.waiting.items():
            waiting.add_metric([name], ask())
        yield waiting
        if self._queues.dropped:
            dropped = CounterMetricFamily("epochal_dropped_items", "Items that a full queue lost.", labels=["queue"])
            for name, ask in self._queues.dropped.items():
                dropped.add_metric([name], ask())
            yield dropped
        if self._queues.lineage is not None:
            events = CounterMetricFamily(
                "epochal_openlineage_events", "Events by what became of them.", labels=["outcome"]
            )
            for outcome, count in self._queues.lineage().items():
                events.add_metric([outcome], count)
            yield events


def _database_metrics(found: Counted) -> Iterator[Metric]:
    for name, text, label, counts in (
        ("epochal_runs", "Runs by state; live ones hold the lease on their name.", "state", found.runs),
        ("epochal_artifacts", "Pools and subsets that were ever seen.", "kind", found.artifacts),
        (
            "epochal_receipts",
            "Receipts of runs by what holding them against their plans gave.",
            "state",
            found.receipts,
        ),
    ):
        family = GaugeMetricFamily(name, text, labels=[label])
        for key, count in counts.items():
            family.add_metric([key], count)
        yield family
    yield GaugeMetricFamily("epochal_leases", "Leases that last.", found.leases)
    yield CounterMetricFamily("epochal_leases_granted", "Leases that were ever granted.", found.granted)
