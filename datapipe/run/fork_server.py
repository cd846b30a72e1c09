"""The process that a build's tasks on this machine are forked from. Started early, it imports what they need while the
build gets ready; so this file imports nothing of ours, and can be loaded before the build is.
"""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal

ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""So that libraries do not start a pool of threads in each of several processes."""


def set_environment() -> None:
    """Give the variables of ENVIRONMENT their values, here and in processes to come, where they have none."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})


def start_task_server() -> None:
    """Start the process that tasks are forked from, once for all stages; it imports what they need in the background.

    It and the tasks have interrupts blocked: the main process handles Ctrl-C, and ends the tasks.
    """
    set_environment()
    multiprocessing.set_forkserver_preload(
        ["epochal.datapipe.stages.ingest", "epochal.datapipe.deduplicate", "epochal.datapipe.stages.pack"]
    )
    multiprocessing.resource_tracker.ensure_running()  # starting it unblocks interrupts, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
