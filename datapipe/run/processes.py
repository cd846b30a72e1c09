"""Running the tasks of a stage in processes of this machine, forked from the server that has all they need."""

import copy
import gc
import multiprocessing
import multiprocessing.connection
import sys
from typing import Any

from ...shards.loader.workers import check_workers
from .fork_server import start_task_server


def run_in_processes(executor: Any, ranks: list[int], workers: int) -> None:
    """Run tasks in `workers` processes until all are done or one of the processes failed, which ends the others."""
    check_workers(workers, "workers", shared=False)
    start_task_server()
    context = multiprocessing.get_context("forkserver")
    taken = context.Value("q", 0)
    processes = [context.Process(target=_work, args=(executor, ranks, taken)) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        alive: dict[Any, Any] = {process.sentinel: process for process in processes}
        while alive:
            for sentinel in multiprocessing.connection.wait(list(alive)):
                process = alive.pop(sentinel)
                process.join()
                if process.exitcode:
                    return  # the caller sees which tasks are missing, and the errors that they left
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()


def _work(executor: Any, ranks: list[int], taken: Any) -> None:
    """Run the next task that no process has taken yet, until there is none. An error, kept for the caller, ends the
    process with exit status 1."""
    gc.freeze()  # imported objects are never garbage: collecting among them takes up to a tenth of the time
    while True:
        with taken.get_lock():
            i = taken.value
            taken.value += 1
        if i >= len(ranks):
            return
        try:
            copy.deepcopy(executor)._run_for_rank(ranks[i])
        except Exception:
            sys.exit(1)
