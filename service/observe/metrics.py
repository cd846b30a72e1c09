"""What Prometheus reads at `/metrics`: requests, the database, and what runs report.

Each server counts its own requests and reports; what is counted in the database (runs, leases, artifacts) is the same
from every server of it.
"""

import platform
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy import Engine, event

import epochal

from ..service import Service
from .state import Queues, StateCollector

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STATEMENTS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
UNKNOWN = "unknown"
"""Stands for paths and methods that we do not have: others could make any number of them."""


class Metrics:
    """The metrics of one server over `service`.

    Attributes:
        in_progress: requests that are being answered.
        positions: see `reported`.
        tokens: see `reported`.
    """

    def __init__(self, service: Service, queues: Queues) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        build = Info("epochal_build", "Version of the server.", registry=registry)
        build.info({"version": epochal.__version__, "python": platform.python_version()})
        self._requests = Counter(
            "epochal_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._latency = Histogram(
            "epochal_http_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ("method", "route"),
            buckets=LATENCIES,
            registry=registry,
        )
        self.in_progress = Gauge(
            "epochal_http_requests_in_progress", "Requests that are being answered.", registry=registry
        )
        self.positions = Counter(
            "epochal_reported_positions", "Positions (samples) that runs reported as trained on.", registry=registry
        )
        self.tokens = Counter("epochal_reported_tokens", "Tokens that runs reported as trained on.", registry=registry)
        self._statements = Histogram(
            "epochal_database_statement_duration_seconds",
            "Statements that the database was given.",
            buckets=STATEMENTS,
            registry=registry,
        )
        self._transactions = Histogram(
            "epochal_database_write_duration_seconds",
            "Transactions that write, their flush to the disk included.",
            buckets=LATENCIES,
            registry=registry,
        )
        self._writes = Counter(
            "epochal_database_writes", "Writes, of which several share a transaction.", registry=registry
        )
        registry.register(StateCollector(service, queues))
        _time_statements(service.db.engine, self._statements)
        service.db.writer.committed = self._committed

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request, by the template of its route (empty where there is none)."""
        method, route = method if method in METHODS else UNKNOWN, route or UNKNOWN
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def reported(self, positions: int, tokens: int) -> None:
        """Count what a run has got on by, since its last report."""
        self.positions.inc(positions)
        self.tokens.inc(tokens)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that `accept` (of the request) asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _committed(self, seconds: float, jobs: int) -> None:
        self._transactions.observe(seconds)
        self._writes.inc(jobs)


def _time_statements(engine: Engine, histogram: Histogram) -> None:
    """Observe the time of each statement of `engine` in `histogram`."""

    @event.listens_for(engine, "before_cursor_execute")
    def _begin(connection: Any, cursor: Any, statement: Any, parameters: Any, context: Any, many: Any) -> None:
        context.epochal_began = time.perf_counter()

    @event.listens_for(engine, "after_cursor_execute")
    def _end(connection: Any, cursor: Any, statement: Any, parameters: Any, context: Any, many: Any) -> None:
        histogram.observe(time.perf_counter() - context.epochal_began)
