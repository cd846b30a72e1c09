"""The process that a build's tasks on this machine are forked from. It is itself forked from the build's, when that has
imported what tasks need and loaded the tokenizer: they share its memory, and nothing is imported or loaded again.

A process with threads must not be forked: a lock that one of them holds would be held for ever. So this happens early,
before the build has any, and is tried only where the system says how many there are. Otherwise the server is a new
process, which imports what tasks need.
"""

import contextlib
import gc
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.reduction
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ...shards.processes import interrupts_blocked

ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""So that libraries do not start a pool of threads in each of several processes."""

FORKED_WELL = {"jemalloc_bg_thd"}
"""Names of threads that a fork does not harm. Arrow's allocator stops its own before each, and starts it again."""

_server: Any = multiprocessing.forkserver._forkserver
_shared: Any = None
"""What the server that was forked, and so each task, has in its memory."""
_forked: int | None = None
"""The process number of that server."""


def set_environment() -> None:
    """Give the variables of ENVIRONMENT their values, here and in processes to come, where they have none."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})


def start_task_server(shared: Any = None, prepare: Callable[[], object] = lambda: None) -> None:
    """Start the process that tasks are forked from, if there is none yet.

    It and the tasks have interrupts blocked: the main process handles Ctrl-C, and ends the tasks.

    Args:
        shared: an object of which tasks find a copy in their memory, so that none is sent to them.
        prepare: what the server does first, beside this process.
    """
    set_environment()
    with interrupts_blocked():
        if _server._forkserver_pid is None and _forks_well():
            _fork(shared, prepare)
        else:
            multiprocessing.set_forkserver_preload(
                ["epochal.datapipe.stages.ingest", "epochal.datapipe.stages.pack", "epochal.datapipe.tables.range_sort"]
            )
            _server.ensure_running()


@contextlib.contextmanager
def task_server() -> Iterator[None]:
    """Have a server that is forked within the body end with it: it holds the memory that this process had then."""
    before = _forked
    try:
        yield
    finally:
        if is_forked() and _forked != before:
            _end()


def is_forked() -> bool:
    """Return whether the server runs and was forked: tasks start at once."""
    return _forked is not None and _server._forkserver_pid == _forked


def _forks_well() -> bool:
    """Return whether this process has no threads but those that a fork does not harm, as far as the system says."""
    try:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        return False
    return len(names) - sum(name in FORKED_WELL for name in names) == 1


def _fork(shared: Any, prepare: Callable[[], object]) -> None:
    """Fork the server, and have multiprocessing know of it as if it had started it."""
    global _forked, _shared
    _shared = shared
    multiprocessing.reduction.ForkingPickler.register(type(shared), _reduced)
    address: Any = multiprocessing.connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        if not multiprocessing.util.is_abstract_socket_namespace(address):
            os.chmod(address, 0o600)
        listener.listen()
        ended, alive = os.pipe()  # the server ends when no process has `alive` open any more
        if not (pid := _forked_process()):
            os.close(alive)
            _serve(listener, ended, prepare)
        os.close(ended)
    _server._forkserver_address, _server._forkserver_alive_fd, _server._forkserver_pid = address, alive, pid
    _forked = pid


def _end() -> None:
    global _forked, _shared
    os.close(_server._forkserver_alive_fd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(_server._forkserver_pid, os.WNOHANG)
    _server._forkserver_address = _server._forkserver_alive_fd = _server._forkserver_pid = None
    _forked = _shared = None


def _forked_process() -> int:
    """Fork this process; return 0 in the new one, its number in the old one."""
    for stream in (sys.stdout, sys.stderr):  # or each task would write what waits here
        with contextlib.suppress(AttributeError, ValueError):
            stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads in FORKED_WELL too
        return os.fork()


def _serve(listener: socket.socket, ended: int, prepare: Callable[[], object]) -> NoReturn:
    """Be the server until the build has ended."""
    try:
        gc.freeze()  # a collection would write to memory that is shared
        with contextlib.suppress(Exception):  # a task will say what is wrong
            prepare()
        gc.freeze()
        multiprocessing.forkserver.main(listener.fileno(), ended, [])
    finally:
        os._exit(0)  # what this process has of the build's is not its own to end


def _reduced(value: Any) -> Any:
    """Return how an object is sent to a task: not at all where the task has it."""
    return (_get_shared, ()) if value is _shared and is_forked() else value.__reduce__()


def _get_shared() -> Any:
    return _shared
