"""What the ranks of a run do together before a dataset is made: they agree on the run, and take turns on a machine."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from streaming.base.distributed import all_gather_object, get_world_size

from ...common.errors import EpochalError, RequestError, WorkError
from ..order.base import Order
from ..order.stored import order_from_dict


def agree(plan: Order, settings: dict[str, Any], problem: Exception | None) -> None:
    """Raise on every rank when one has a problem, or another plan or setting than rank 0."""
    if get_world_size() == 1:
        if problem:
            raise problem
        return
    everyone = all_gather_object((plan.to_dict(), settings, problem and (_status(problem), str(problem))))
    for rank, (_, _, failure) in enumerate(everyone):
        if failure:
            raise (RequestError if failure[0] == 2 else WorkError)(f"rank {rank}: {failure[1]}")
    first = order_from_dict(everyone[0][0])
    for rank, (theirs, others, _) in enumerate(everyone):
        differences = [first.difference(order_from_dict(theirs))]
        differences += [f"{k} is {others[k]}, not {v}" for k, v in everyone[0][1].items() if others[k] != v]
        if any(differences):
            raise RequestError(f"rank {rank} has another run than rank 0: {', '.join(filter(None, differences))}")


def _status(problem: Exception) -> int:
    return problem.exit_status if isinstance(problem, EpochalError) else 1


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one job at a time on this machine look for free shared-memory names: streaming's search is a race.

    The lock is on the folder for temporary files itself: it leaves no file, and ends with the process. The local
    leader holds it; the others wait for it in `_agree`. After a minute we go on without.
    """
    if int(os.environ.get("LOCAL_RANK", 0)):
        yield
        return
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.01)
        yield
    finally:
        os.close(folder)
