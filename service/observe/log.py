"""The log of requests: one line each on standard error, as JSON or as text, with the id that the answer has too."""

import sys
import traceback
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
from starlette.types import Scope

from ...common.errors import printable
from .background import Background

STYLES = ("json", "text")
CLOSING_SECONDS = 2.0


def id_of(scope: Scope) -> str:
    """Return the id of a request that has passed `Observed`, else an empty one."""
    return str(scope.get("state", {}).get("request_id", ""))


@dataclass(frozen=True)
class RequestLine:
    """One request and its answer.

    Attributes:
        route: its template, as `/runs/{run}`; empty where the path is none that we have.
        status: of the answer; 499 where the client hung up before it.
        seconds: from its head to the end of its answer.
        bytes: of the answer's body.
        token: the name of the token that it came with, never the token.
    """

    request_id: str
    method: str
    route: str
    path: str
    status: int
    seconds: float
    bytes: int
    client: str
    token: str


class RequestLog:
    """Lines for people (`text`) or programs (`json`). A reader that is slow stops no request: lines are then dropped.

    Queries of requests are not written: they may hold what a document says.
    """

    def __init__(self, style: str, stream: TextIO | None = None) -> None:
        self._style = style
        self._stream = stream or sys.stderr
        self._lines: Background[str] = Background("log", self._write)
        self._lost = 0

    @property
    def dropped(self) -> int:
        """How many lines were not written."""
        return self._lines.dropped + self._lost

    def request(self, line: RequestLine) -> None:
        """Write a request's line."""
        if self._style == "json":
            self._json("info", asdict(line) | {"seconds": round(line.seconds, 6)})
        else:
            path = printable(line.path)
            parts = [str(line.status), line.method, path, f"{line.seconds * 1000:.1f} ms", f"{line.bytes:,} B"]
            self._lines.put(" ".join([_now(), *parts, line.client or "-", line.token or "-", line.request_id]))

    def defect(self, request_id: str, error: BaseException) -> None:
        """Write what failed and where: a defect of this program."""
        text = "".join(traceback.format_exception(error))
        if self._style == "json":
            self._json("error", {"request_id": request_id, "error": type(error).__name__, "traceback": text})
        else:
            self._lines.put(f"{_now()} defect {request_id}\n{text.rstrip()}")

    def close(self) -> None:
        """Write what waits."""
        self._lines.close(CLOSING_SECONDS)

    def _json(self, level: str, fields: dict[str, Any]) -> None:
        self._lines.put(orjson.dumps({"time": _now(), "level": level} | fields).decode())

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            self._lost += 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
