"""Every request is counted, timed and, where there is a log, written down; its answer names its id."""

import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..security import TOKEN_KEY
from .log import RequestLine, RequestLog
from .metrics import Metrics

HEADER = "x-request-id"
GIVEN_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Ids of others that are taken over: what cannot break a line, nor fill the log."""

HUNG_UP = 499
"""Status of a request whose client left before the answer, as nginx counts it."""


def request_id(headers: Headers) -> str:
    """Return the id that a request came with, or a new one where it has none that can be taken over."""
    given = headers.get(HEADER, "")
    return given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex


class Observed:
    """ASGI middleware around all others, so that what they refuse is seen too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: RequestLog | None) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id_ = request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = id_
        answered = {"status": HUNG_UP, "bytes": 0}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), (HEADER.encode(), id_.encode())]
            answered["bytes"] += len(message.get("body", b""))
            await send(message)

        started = time.perf_counter()
        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, sent)
        except Exception:
            answered["status"] = 500  # answered outside of all middleware
            raise
        finally:
            self._metrics.in_progress.dec()
            self._note(scope, id_, answered, time.perf_counter() - started)

    def _note(self, scope: Scope, id_: str, answered: dict[str, int], seconds: float) -> None:
        route: Any = scope.get("route")
        template = getattr(route, "path", "")
        self._metrics.answered(scope["method"], template, answered["status"], seconds)
        if self._log is not None:
            client = (scope.get("client") or ("",))[0]
            token = scope.get(TOKEN_KEY, "")
            line = RequestLine(
                id_,
                scope["method"],
                template,
                scope["path"],
                answered["status"],
                seconds,
                answered["bytes"],
                client,
                token,
            )
            self._log.request(line)
