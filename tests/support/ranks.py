"""Running a function on several ranks: forked processes that a gloo group joins."""

import multiprocessing
import os
import queue
import socket
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_ranks(n_ranks: int, work: Callable[..., Any], folder: Path, *args: Any, timeout: float = 90) -> list[Any]:
    """Return what `work(rank, *args)` returns on each rank. Raises RuntimeError when one fails."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    meeting = folder / f"meeting-{uuid.uuid4().hex[:8]}"
    ranks = [
        context.Process(target=_rank, args=(rank, n_ranks, meeting, results, work, args)) for rank in range(n_ranks)
    ]
    for process in ranks:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < n_ranks and not any(isinstance(value, Failure) for value in found.values()):
            found |= [results.get(timeout=timeout)]
    except queue.Empty:
        raise RuntimeError(f"{n_ranks} ranks did not end within {timeout} s") from None
    finally:
        for process in ranks:
            process.join(1 if len(found) < n_ranks else 10)
            process.kill()
    for value in found.values():
        if isinstance(value, Failure):
            raise RuntimeError(value.text)
    return [found[rank] for rank in range(n_ranks)]


class Failure:
    """What a rank died of."""

    def __init__(self, text: str) -> None:
        self.text = text


def _rank(rank: int, n_ranks: int, meeting: Path, results: Any, work: Callable[..., Any], args: tuple) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, rank, n_ranks, n_ranks)), strict=True))
    try:
        if n_ranks > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks)
        results.put((rank, work(rank, *args)))
        if n_ranks > 1:
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        results.put((rank, Failure(traceback.format_exc())))
        results.close()
        results.join_thread()
        os._exit(1)  # no barrier: the others may be waiting in one


def in_ranks(world: int, function: Callable[..., Any], *args: Any) -> None:
    """Call `function(*args)` in `world` forked ranks (gloo on loopback); fail when one of them fails."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_composer_rank, args=(r, world, port, function, args)) for r in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert codes == [0] * world


def _composer_rank(rank: int, world: int, port: int, function: Callable, args: tuple) -> None:
    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "NODE_RANK": 0}
    os.environ |= {k: str(v) for k, v in names.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["COMPOSER_RUN_NAME"] = os.environ["STREAMING_RUN"] = "test"
    try:
        function(*args)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
