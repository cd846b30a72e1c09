"""An order as a stream of bytes: Arrow IPC or JSON, chunk by chunk, however many positions are asked for."""

import asyncio
import collections
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from ...shards import arrow
from ...shards.order.base import Order
from ..errors import BusyError

ARROW = "application/vnd.apache.arrow.stream"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What an Arrow IPC stream ends with."""

CHUNK = 1 << 17
"""Positions in a chunk: 1 MB of ids. Half and twice of it were slower."""

AHEAD = 3
"""Chunks that are computed before the one that is being sent is gone."""

MOST_STREAMS = 64
"""Streams at a time: each holds some chunks, sent or not."""

_open: set[object] = set()
"""The long streams that are being sent."""

_workers = ThreadPoolExecutor(max_workers=max(2, (os.cpu_count() or 2)), thread_name_prefix="epochal-order")
"""Shared by all streams, so that many of them do not take more threads than there are cores."""


def arrow_chunks(plan: Order, start: int, count: int) -> AsyncIterator[bytes | memoryview]:
    """Yield an Arrow IPC stream with one column, `id` (uint64): the samples at positions [start, start + count).

    The schema's metadata has `plan` and `start`, as text.
    """
    metadata = {"plan": plan.fingerprint, "start": str(start)}
    schema = pa.schema([pa.field("id", pa.uint64(), nullable=False)], metadata=metadata)

    def chunk(begin: int, stop: int) -> memoryview:
        batch = pa.record_batch([arrow.numbers(plan.ids(range(begin, stop)))], schema=schema)
        return memoryview(batch.serialize())

    return _stream(schema.serialize().to_pybytes(), chunk, END, start, count)


def json_chunks(plan: Order, start: int, count: int) -> AsyncIterator[bytes | memoryview]:
    """Yield a JSON object: plan, start, count, ids."""

    def chunk(begin: int, stop: int) -> bytes:
        text = ",".join(map(str, plan.ids(range(begin, stop)).tolist()))
        return (text if begin == start else "," + text).encode()

    head = f'{{"plan":"{plan.fingerprint}","start":{start},"count":{count},"ids":['
    return _stream(head.encode(), chunk, b"]}", start, count)


def check_room(count: int) -> None:
    """Raise BusyError where a stream of `count` positions would be one of too many."""
    if count > CHUNK and len(_open) >= MOST_STREAMS:
        raise BusyError(f"{len(_open)} orders are being sent: try again later")


async def _stream(
    head: bytes, chunk: Callable[[int, int], bytes | memoryview], tail: bytes, start: int, count: int
) -> AsyncIterator[bytes | memoryview]:
    loop, myself = asyncio.get_running_loop(), object()
    begins = iter(range(start, start + count, CHUNK))
    waiting: collections.deque[asyncio.Future[bytes | memoryview]] = collections.deque()

    def ask() -> None:
        begin = next(begins, None)
        if begin is not None:
            waiting.append(loop.run_in_executor(_workers, chunk, begin, min(begin + CHUNK, start + count)))

    try:
        if count > CHUNK:
            _open.add(myself)
        for _ in range(AHEAD):
            ask()
        yield head
        while waiting:
            yield await waiting.popleft()
            ask()
        yield tail
    finally:
        _open.discard(myself)
        for future in waiting:  # the reader went away
            future.cancel()
