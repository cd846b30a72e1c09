"""Work beside the requests: one thread, and a queue that is bounded. What does not fit is dropped and counted."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_WAITING = 10_000


class Background(Generic[T]):
    """A thread that does `work(item)` for each item put, in their order.

    Attributes:
        dropped: items that came while the queue was full, or after the end.
    """

    def __init__(self, name: str, work: Callable[[T], None], most: int = MOST_WAITING) -> None:
        self.dropped = 0
        self._work = work
        self._items: queue.Queue[T | None] = queue.Queue(most)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"epochal-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many items wait, about."""
        return self._items.qsize()

    def put(self, item: T) -> None:
        """Have `item` worked at; returns at once."""
        try:
            if self._over.is_set():
                raise queue.Full
            self._items.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float) -> None:
        """Finish what waits, for at most so many seconds; the rest counts as dropped."""
        self._over.set()
        try:
            self._items.put(None, timeout=seconds)
        except queue.Full:
            pass
        else:
            self._thread.join(seconds)
        if self._thread.is_alive():
            self.dropped += self._items.qsize()

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            self._work(item)
