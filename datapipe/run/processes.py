"""Running the tasks of a stage in processes of this machine, forked from the server that has all they need."""

import contextlib
import copy
import functools
import gc
from typing import Any

from ...common.errors import WorkError
from ...shards.processes import Say, in_processes
from .fork_server import start_task_server


class TaskFailedError(WorkError):
    """A task has failed. It left its error for the build to read."""


def run_in_processes(executor: Any, ranks: list[int], workers: int) -> None:
    """Run tasks in `workers` processes until all are done or one of the processes failed, which ends the others: the
    caller sees which tasks are missing, and the errors that they left."""
    start_task_server()
    with contextlib.suppress(WorkError):
        in_processes(functools.partial(_run_task, executor, ranks), len(ranks), workers, setting="workers")


def _run_task(executor: Any, ranks: list[int], number: int, say: Say) -> None:
    if not gc.get_freeze_count():
        gc.freeze()  # imported objects are never garbage: collecting among them takes up to a tenth of the time
    try:
        copy.deepcopy(executor)._run_for_rank(ranks[number])
    except Exception:
        raise TaskFailedError("a task has failed") from None
