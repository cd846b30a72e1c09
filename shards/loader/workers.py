"""What processes that load data need of the system, looked at before they are started: without it they wait for ever,
or end in the middle of a run with a library's words."""

import os
import resource

from ...common.errors import RequestError

OF_THE_PARENT, OF_A_WORKER = 24, 12
"""File descriptors that starting workers takes, and that each of them does."""

OF_BATCHES, OF_SEMAPHORES = 16 << 20, 1 << 20
"""Bytes of shared memory: where batches pass through it, and where only the locks of their queues lie there."""

SHARED_MEMORY = "/dev/shm"


def check_workers(workers: int, what: str, shared: int = OF_BATCHES) -> None:
    """Raise RequestError when this process may not open the files, or has not the shared memory, that workers need.

    Args:
        what: the setting that says how many there are, for the message.
        shared: bytes of shared memory that they need, none if 0.
    """
    if workers < 1:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files() + OF_THE_PARENT + OF_A_WORKER * workers
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise RequestError(
            f"{what}={workers} needs some {needed} open files, the limit here is {limit}: raise it (ulimit -n 4096), "
            "or use fewer"
        )
    free = _shared_bytes() if shared else None
    if free is not None and free < shared:
        raise RequestError(
            f"{what}={workers} needs shared memory, {SHARED_MEMORY} has {free >> 20} MB left: make it larger (a "
            "container's --shm-size=1g), or use 0"
        )


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _shared_bytes() -> int | None:
    """Return the free bytes of shared memory, None where the system does not show them."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None if not os.path.isdir("/proc/self") else 0
    return found.f_bavail * found.f_frsize
