"""A client of the service: `Client("http://127.0.0.1:8642").seen(key=...)`. The command line and the trainer use it."""

import functools
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...shards import arrow
from . import calls
from .answers import INSTALL, AwayError, RefusedError, data_of, refuse, unreached
from .calls import Call
from .connection import Connection
from .results import Content
from .retries import RETRIES, Attempts, Retries

__all__ = ["INSTALL", "AwayError", "Client", "RefusedError"]

P = ParamSpec("P")
T = TypeVar("T")


def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    """Return the method that makes a call of `calls`."""

    @functools.wraps(make)
    def method(self: "Client", *args: P.args, **kwargs: P.kwargs) -> T:
        return self.ask(make(*args, **kwargs))

    return method


class Client:
    """Calls of the service at `url` (default: $EPOCHAL_SERVICE, or port 8642 here). Safe to share among threads.

    Every call raises RefusedError when the service refuses it and AwayError when there is no answer, after the attempts
    that `retries` allows; a write acts once however often it is sent. Answers are JSON data of the types in `results`;
    docs/service.md lists them. `AsyncClient` has the same calls.

    Attributes:
        token: default: the one that is kept for the address, or $EPOCHAL_TOKEN; see `tokens`.
        timeout: seconds to wait for an answer.
        from_file: the address was read from a file that may be somebody else's: $EPOCHAL_TOKEN is not sent there.
        withheld: a line on a token that was not sent for that reason, or empty.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        from_file: bool = False,
        retries: Retries = RETRIES,
    ) -> None:
        connection = Connection.to(url, token, timeout, from_file)
        self.url, self.withheld, self._retries = connection.url, connection.withheld, retries
        import httpx

        self._http = httpx.Client(**connection.settings)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET; parameters that are None are left out."""
        return self.ask(Call("GET", path, query))

    def post(self, path: str, **body: Any) -> Any:
        """Return the answer to a POST; parameters that are None are left out."""
        return self.ask(Call("POST", path, body=body))

    def ask(self, call: Call[T]) -> T:
        """Return the answer to a call."""
        request, attempts = call.request(), Attempts(self._retries)
        while True:
            try:
                return call.read(self._once(request))
            except AwayError as error:
                pause = attempts.pause(error)
            time.sleep(pause)

    artifacts = _method(calls.artifacts)
    artifact = _method(calls.artifact)
    carve = _method(calls.carve)
    contents = _method(calls.contents)
    health = _method(calls.health)
    histogram = _method(calls.histogram)
    limits = _method(calls.limits)
    lineage = _method(calls.lineage)
    mixture = _method(calls.mixture)
    opt_out = _method(calls.opt_out)
    optout = _method(calls.optout)
    optout_holders = _method(calls.optout_holders)
    optouts = _method(calls.optouts)
    plan = _method(calls.plan)
    plans = _method(calls.plans)
    release = _method(calls.release)
    remove_limit = _method(calls.remove_limit)
    run = _method(calls.run)
    runs = _method(calls.runs)
    seen = _method(calls.seen)
    set_limit = _method(calls.set_limit)
    timeline = _method(calls.timeline)

    def documents(self, plan: str, start: int, count: int) -> Iterator[Content]:
        """Yield what positions [start, start + count) of a plan read: position, id, documents; in a mixture also the
        source and the sample in it. They are asked for in as many requests as it takes."""
        at: int | None = start
        while at is not None and at < start + count:
            found = self.contents(plan, at, min(1000, start + count - at))
            yield from found["positions"]
            at = found["next"] or at + len(found["positions"])

    def order(self, plan: str, start: int, count: int) -> NDArray[np.uint64]:
        """Return the samples at positions [start, start + count) of a plan, uint64 of shape (count,)."""
        parts = list(self.order_chunks(plan, start, count))
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def order_chunks(self, plan: str, start: int, count: int) -> Iterator[NDArray[np.uint64]]:
        """Yield the same in parts as they arrive; where the connection breaks, the rest is asked for."""
        at, stop, attempts = start, start + count, Attempts(self._retries)
        while True:
            begun = at
            try:
                for part in self._stream(plan, at, stop - at):
                    at += len(part)
                    yield part
                return
            except AwayError as error:
                if at > begun:  # it has got on
                    attempts = Attempts(self._retries)
                pause = attempts.pause(error)
            time.sleep(pause)

    # -- transport ----------------------------------------------------------------------------------------------------

    def _stream(self, plan: str, start: int, count: int) -> Iterator[NDArray[np.uint64]]:
        request = calls.order(plan, start, count).request()
        with self._reached(), self._http.stream(**request) as response:
            if response.status_code != 200:
                response.read()
                refuse(response, self.url)
            with pa.ipc.open_stream(pa.PythonFile(_Body(response.iter_raw(1 << 20)), mode="r")) as stream:
                for batch in stream:
                    yield arrow.array(batch.column("id"))

    def _once(self, request: dict[str, Any]) -> Any:
        with self._reached():
            response = self._http.request(**request)
        return data_of(response, self.url)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.TransportError, OSError) as error:
            raise unreached(error, self.url) from None


class _Body(io.RawIOBase):
    """A response's body as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target, done = memoryview(buffer).cast("B"), 0
        while done < len(target):
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            n = min(len(target) - done, len(self._rest))
            target[done : done + n] = self._rest[:n]
            self._rest = self._rest[n:]
            done += n
        return done
