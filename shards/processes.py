"""Numbered pieces of work in several processes of this machine; a process that is free takes the next piece."""

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from typing import Any

from ..common.errors import WorkError
from .loader.workers import check_workers

Say = Callable[[int], None]
"""Called with how much more of a piece is done, now and then."""

Piece = Callable[[int, Say], Any]
"""Does the piece of this number; it and what it returns are pickled."""

_EVERY = 0.1
"""Seconds between two looks at how much is done."""


def in_processes(
    piece: Piece, n: int, processes: int, watch: Callable[[int], None] = lambda done: None, setting: str = "--workers"
) -> list[Any]:
    """Return what `piece` returns for 0 to n - 1. The first that fails ends all.

    Args:
        piece: see `Piece`.
        n: number of pieces.
        processes: how many there are at once.
        watch: called with how much all of them have said so far.
        setting: the one that says how many processes, for messages.

    Raises:
        RequestError: when the system allows no such number of processes.
        WorkError: when one of them was killed.
        Exception: what a piece raised.
    """
    check_workers(processes, setting, shared=False)
    context = _context()
    taken, said = context.Value("q", 0), context.Value("q", 0)
    workers: dict[Any, Any] = {}
    found: dict[int, Any] = {}
    try:
        for _ in range(min(n, processes)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(piece, n, taken, said, theirs))
            process.start()
            theirs.close()
            workers[ours] = process
        open_pipes = list(workers)
        while open_pipes:
            for pipe in multiprocessing.connection.wait(open_pipes, _EVERY):
                if (answer := _receive(pipe)) is None:
                    open_pipes.remove(pipe)
                else:
                    found |= answer
            watch(said.value)
        if len(found) < n:
            raise WorkError(
                f"a process was killed, perhaps for memory: run the same command again, with fewer {setting}"
            )
        for process in workers.values():
            process.join()
    finally:
        for process in workers.values():
            process.terminate()
            process.join()
    return [found[number] for number in range(n)]


def _receive(pipe: Any) -> dict[int, Any] | None:
    """Return what a process says of a piece; None when there is nothing more. Raises what a piece raised."""
    try:
        number, result, error = pipe.recv()
    except EOFError:
        return None
    if error is not None:
        raise error
    return {number: result}


def _context() -> Any:
    """Return how processes are made: forked from one that has no threads, and in which interrupts are blocked, as this
    process ends the others."""
    with interrupts_blocked():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Have processes that are started in the body, and all that are forked from them, leave interrupts to this one."""
    resource_tracker.ensure_running()  # starting it unblocks interrupts, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(piece: Piece, n: int, taken: Any, said: Any, pipe: Any) -> None:
    """Do the next piece that no process has taken, until there is none."""
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= n:
            return
        try:
            pipe.send((number, piece(number, functools.partial(_say, said)), None))
        except Exception as error:
            pipe.send((number, None, error))
            return


def _say(said: Any, more: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # it was killed, and nobody is left to publish what this one writes
    with said.get_lock():
        said.value += more
