"""Connections: none that sends nothing, sends slowly or does not read stays open, and so many there are at most."""

import asyncio
import resource
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From the first sign of a request (a connection, or its first byte) to the end of its head."""

IDLE_SECONDS = 5
"""Between an answer and the next request."""

UNREAD_SECONDS = 60.0
"""How long a client may leave an answer unread that it asked for."""

MOST_CONNECTIONS = 1000
HEAD_BYTES = 64 << 10


def most_connections() -> int:
    """Return how many connections may be open: half of the files that this process may open, the rest is for work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MOST_CONNECTIONS, soft // 2))


class PatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, with an end to patience."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, after closing the oldest connection without one where there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)
        if len(self.connections) > most_connections():
            idle = [c for c in self.connections if isinstance(c, PatientProtocol) and not c.answering]
            min(idle, key=lambda c: c._since).transport.abort()  # this one is among them

    def data_received(self, data: bytes) -> None:
        """Take what has come; a head that is not complete yet has its time."""
        super().data_received(data)
        if self.answering:
            self._head = _cancelled(self._head)
        elif self._head is None and self.timeout_keep_alive_task is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Give a client that does not read its time."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        super().resume_writing()
        self._unread = _cancelled(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._head, self._unread = _cancelled(self._head), _cancelled(self._unread)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer; return none, which takes its place."""
    if timer is not None:
        timer.cancel()
    return None


def server_config(app: ASGIApp, proxies: Sequence[str] = (), **more: Any) -> uvicorn.Config:
    """Return how `app` is served.

    Args:
        proxies: addresses whose `X-Forwarded-For` is believed; of no other.
        more: what else uvicorn is told.
    """
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        access_log=False,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        backlog=1024,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        **more,
    )
