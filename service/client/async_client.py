"""The client for programs that run an event loop: `await AsyncClient("http://127.0.0.1:8642").seen(key=...)`."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...shards import arrow
from . import calls
from .answers import AwayError, data_of, refuse, unreached
from .calls import Call
from .connection import Connection
from .results import Content
from .retries import RETRIES, Attempts, Retries

P = ParamSpec("P")
T = TypeVar("T")

MOST_TOGETHER = 1 << 20
"""Positions of an order that are asked for in one request: 8 MB."""


def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate["AsyncClient", P], Awaitable[T]]:
    """Return the method that makes a call of `calls`."""

    @functools.wraps(make)
    async def method(self: "AsyncClient", *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.ask(make(*args, **kwargs))

    return method


class AsyncClient:
    """The calls of `Client`, each to be awaited, with the same arguments, results, errors and retries.

    Attributes:
        token: as for `Client`.
        timeout: as for `Client`.
        from_file: as for `Client`.
        withheld: as for `Client`.
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

        self._http = httpx.AsyncClient(**connection.settings)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET; parameters that are None are left out."""
        return await self.ask(Call("GET", path, query))

    async def post(self, path: str, **body: Any) -> Any:
        """Return the answer to a POST; parameters that are None are left out."""
        return await self.ask(Call("POST", path, body=body))

    async def ask(self, call: Call[T]) -> T:
        """Return the answer to a call."""
        return call.read(await self._tried(call, lambda response: data_of(response, self.url)))

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

    async def documents(self, plan: str, start: int, count: int) -> AsyncIterator[Content]:
        """Yield what `Client.documents` does."""
        at: int | None = start
        while at is not None and at < start + count:
            found = await self.contents(plan, at, min(1000, start + count - at))
            for row in found["positions"]:
                yield row
            at = found["next"] or at + len(found["positions"])

    async def order(self, plan: str, start: int, count: int) -> NDArray[np.uint64]:
        """Return the samples at positions [start, start + count) of a plan, uint64 of shape (count,)."""
        parts = [part async for part in self.order_chunks(plan, start, count)]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    async def order_chunks(self, plan: str, start: int, count: int) -> AsyncIterator[NDArray[np.uint64]]:
        """Yield the same in parts, each of which is a request of its own."""
        for at in range(start, start + count, MOST_TOGETHER):
            call = calls.order(plan, at, min(MOST_TOGETHER, start + count - at))
            yield await self._tried(call, self._ids)

    def _ids(self, response: Any) -> NDArray[np.uint64]:
        if response.status_code != 200:
            refuse(response, self.url)
        return arrow.array(pa.ipc.open_stream(response.content).read_all().column("id"))

    async def _tried(self, call: Call[Any], read: Callable[[Any], T]) -> T:
        """Return what `read` makes of the response to a call."""
        import httpx

        request, attempts = call.request(), Attempts(self._retries)
        while True:
            try:
                try:
                    return read(await self._http.request(**request))
                except (httpx.TransportError, OSError) as error:
                    raise unreached(error, self.url) from None
            except AwayError as error:
                pause = attempts.pause(error)
            await asyncio.sleep(pause)
