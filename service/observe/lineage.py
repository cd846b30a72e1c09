"""OpenLineage events of runs, sent to a URL or written to a file by a thread of their own: no request waits for them.

A lease that is granted is START, a report RUNNING (at most one a minute), a close COMPLETE, FAIL or ABORT.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.orm import aliased

from ...common.cli import say
from ...common.errors import EpochalError, RequestError, one_line, without_secrets
from ..catalogue import names_of
from ..ledger import plans_at
from ..models import Artifact, RunRow
from ..service import Service
from .background import Background
from .lineage_events import EventType, Input, RunFacts, run_event

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENLINEAGE_API_KEY"
DEFAULT_PATH = "/api/v1/lineage"
SEND_SECONDS = 5.0
PAUSES = (0.5, 2.0)
"""Seconds before the second and the third attempt."""

RUNNING_SECONDS = 60.0
MOST_REMEMBERED = 10_000
ENDS: Mapping[str, EventType] = {"finished": "COMPLETE", "failed": "FAIL", "stopped": "ABORT"}


@dataclass(frozen=True)
class Told:
    """What happened, at `at` (seconds since 1970) and this position of a run, given by its fingerprint.

    Attributes:
        tokens: trained on so far; None: what the plan has up to the position.
    """

    kind: EventType
    run: str
    lease: int
    at: float
    position: int
    tokens: int | None = None


def gather(service: Service, told: Told) -> RunFacts:
    """Return what an event says of a run.

    Raises:
        EpochalError: when the database or a plan cannot be read.
    """
    row = service.read(_run_of, told.run)
    order, position = service.plan(row.plan), told.position
    tokens = order.tokens_before(position) if told.tokens is None else told.tokens
    at, components = plans_at(order, position), order.components()
    inputs = [
        service.read(_input, name if order.kind == "mixture" else "", plan, n)
        for name, (plan, n) in zip(components, at, strict=True)
    ]
    parent = None if row.parent is None else (row.parent_name, row.parent, row.parent_position)
    return RunFacts(row.name, told.run, told.lease, row.plan, position, order.positions, tokens, inputs, parent)


def _run_of(connection: Connection, fingerprint: str) -> Any:
    parent = aliased(RunRow)
    wanted = sa.select(RunRow.__table__, parent.name.label("parent_name"))
    wanted = wanted.outerjoin(parent, parent.fingerprint == RunRow.parent)
    return connection.execute(wanted.where(RunRow.fingerprint == fingerprint)).one()


def _input(connection: Connection, source: str, plan: Any, count: int) -> Input:
    """Return what `count` positions of a source's plan read."""
    t = Artifact.__table__
    row = connection.execute(sa.select(t.c.kind, t.c.documents).where(t.c.fingerprint == plan.subset)).one_or_none()
    names = names_of(connection, plan.subset)
    tokens = plan.tokens_before(count)
    return Input(
        name=f"{row.kind}s/{names[0]}" if row is not None and names else plan.subset,
        fingerprint=plan.subset,
        unique_tokens=plan.unique_tokens,
        samples=plan.samples,
        documents=None if row is None else row.documents,
        source=source,
        policy=plan.policy,
        seed=plan.seed,
        positions=count,
        tokens=tokens,
        passes=tokens / plan.unique_tokens,
        unique_tokens_seen=plan.unique_tokens_seen(count),
        expected=not plan.counts_unique_tokens,
    )


Deliver = Callable[[bytes], None]
"""Sends or writes one event; raises OSError or httpx.HTTPError."""


def delivery(target: str) -> Deliver:
    """Return what delivers events to `target`: a URL, to which each is posted, or a file, of which each is a line.

    Raises:
        RequestError: for what is neither.
    """
    if not target.startswith(("http://", "https://")):
        folder = os.path.dirname(os.path.abspath(target))
        if "://" in target or not os.path.isdir(folder) or os.path.isdir(target):
            raise RequestError(f"--openlineage {target}: write a URL (http:// or https://) or a file in a folder")
        return lambda event: _append(Path(target), event)
    import httpx

    address = urlsplit(target)
    if not address.hostname:
        raise RequestError(f"--openlineage {target} is no address: write it as http://host:5000")
    url = target if address.path.strip("/") else target.rstrip("/") + DEFAULT_PATH
    key = os.environ.get(KEY_VARIABLE)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    http = httpx.Client(timeout=SEND_SECONDS, trust_env=False, follow_redirects=False, headers=headers)
    return lambda event: _post(http, url, event)


def _append(path: Path, event: bytes) -> None:
    with path.open("ab") as file:
        file.write(event + b"\n")


def _post(http: "httpx.Client", url: str, event: bytes) -> None:
    answer = http.post(url, content=event)
    if answer.status_code >= 300:
        raise OSError(f"it answered {answer.status_code}")


class Lineage:
    """Takes what happened, and delivers events of it. What cannot be delivered is counted, and said once a while.

    Attributes:
        counts: events sent, and failed: given up after three attempts.
    """

    def __init__(self, service: Service, target: str) -> None:
        self._service = service
        self._target = without_secrets(target, {})
        self._deliver = delivery(target)
        self.counts = {"sent": 0, "failed": 0}
        self._lost = 0
        self._last: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._queue: Background[Told] = Background("lineage", self._work)

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return self._queue.waiting

    def outcomes(self) -> dict[str, int]:
        """Return how many events were sent, failed, and dropped because too many waited."""
        return self.counts | {"dropped": self._queue.dropped}

    def claimed(self, run: str, lease: int, position: int) -> None:
        """Take that a lease was granted to a run, by its fingerprint."""
        self._queue.put(Told("START", run, lease, time.time(), position))

    def reported(self, run: str, lease: int, position: int, tokens: int) -> None:
        """Take that a report of the training split came."""
        at, key = time.monotonic(), (run, lease)
        if at - self._last.get(key, -RUNNING_SECONDS) < RUNNING_SECONDS:
            return
        self._last[key] = at
        self._last.move_to_end(key)
        if len(self._last) > MOST_REMEMBERED:
            self._last.popitem(last=False)
        self._queue.put(Told("RUNNING", run, lease, time.time(), position, tokens))

    def closed(self, run: str, lease: int, state: str, position: int, tokens: int) -> None:
        """Take that a run was closed in this state."""
        self._last.pop((run, lease), None)
        self._queue.put(Told(ENDS[state], run, lease, time.time(), position, tokens))

    def close(self) -> None:
        """Deliver what waits, for a few seconds."""
        self._queue.close(SEND_SECONDS)

    def _work(self, told: Told) -> None:
        try:
            self._try(orjson.dumps(run_event(gather(self._service, told), told.kind, told.at)))
        except EpochalError as error:
            self._failed(error)
        except Exception as error:  # a defect must not end the thread
            self._failed(f"{type(error).__name__}: {one_line(error)}")

    def _try(self, event: bytes) -> None:
        import httpx

        for pause in (*PAUSES, None):
            try:
                self._deliver(event)
            except (OSError, httpx.HTTPError) as error:
                if pause is None:
                    self._failed(one_line(error))
                else:
                    time.sleep(pause)
            else:
                self.counts["sent"] += 1
                if self._lost:
                    say(f"OpenLineage events reach {self._target} again; {self._lost:,} were lost")
                self._lost = 0
                return

    def _failed(self, reason: object) -> None:
        self.counts["failed"] += 1
        self._lost += 1
        if self._lost == 1 or self._lost % 1000 == 0:
            say(f"OpenLineage events do not reach {self._target} ({self._lost:,} so far): {reason}; runs go on")
