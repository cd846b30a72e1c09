"""Threads for requests that take long, apart from those that answer the others, and bounded in number.

What cannot begin at once waits; when too many wait, a request is refused with 503. A request whose client hangs up is
no longer waited for: it leaves the queue, or ends at its next `check`.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request

from ..errors import BusyError

T = TypeVar("T")

Check = Callable[[], None]
"""Called now and then by what takes long; it raises when nobody waits for the answer any more."""


class GoneError(Exception):
    """The client has hung up."""


class Workers:
    """So many threads, and so many requests that may wait for them. `what` they do is told where too many wait."""

    def __init__(self, what: str, threads: int, waiting: int) -> None:
        self._what, self._most, self._busy = what, threads + waiting, 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"epochal-{what.replace(' ', '-')}")

    async def run(self, request: Request, job: Callable[[Check], T]) -> T:
        """Return `job(check)`.

        Raises:
            BusyError: when too many wait already.
            GoneError: when the client hangs up.
        """
        if self._busy >= self._most:
            raise BusyError(f"{self._busy} {self._what} wait or are at work: try again later")
        gone = threading.Event()

        def check() -> None:
            if gone.is_set():
                raise GoneError

        def work() -> T:
            check()
            return job(check)

        self._busy += 1
        context = contextvars.copy_context()  # who asks is known there too
        done = asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)
        done.add_done_callback(self._left)
        hung_up = asyncio.ensure_future(_hung_up(request))
        try:
            both: set[asyncio.Future[Any]] = {done, hung_up}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise GoneError
            return done.result()
        finally:
            hung_up.cancel()
            gone.set()
            done.cancel()

    def _left(self, done: "asyncio.Future[Any]") -> None:
        self._busy -= 1
        if not done.cancelled():
            done.exception()  # it may have been told to nobody


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


COUNTS = Workers("counts over many samples", max(1, min(4, (os.cpu_count() or 2) - 1)), 64)
"""Digests, histograms, curves: seconds of arithmetic."""

LOOKUPS = Workers("look-ups", 4, 256)
"""Milliseconds each, but for the first of a document in a pool, which builds its index, and for wide mixtures."""

CLAIMS = Workers("runs that start", 4, 256)
"""Limits may be held against all documents of a pool."""

CARVES = Workers("subsets to be carved", 2, 16)
