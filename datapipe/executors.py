"""Running a stage: datatrove's executors, kept quiet on the terminal (their logs lie in the build's work folder)."""

import contextlib
import os
import signal
from typing import Any

import multiprocess
import multiprocess.forkserver
import multiprocess.resource_tracker
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.utils.logging import logger


class _Executor(LocalPipelineExecutor):
    """The local executor, silent on standard error: datatrove's lines are in its log files."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                logger.remove()


def run_stage(work: str, stage: str, pipeline: list[Any], tasks: int, workers: int) -> None:
    """Run `pipeline` as `tasks` tasks, `workers` at a time; finished tasks of an interrupted run are not run again.

    Raises what a task raised.
    """
    logger.remove()
    # Loading libraries must not start a pool of threads in each of several processes.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _start_task_server()
    folder = os.path.join(work, "logs", stage)
    executor = _Executor(pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=folder)
    executor.run()


def _start_task_server() -> None:
    """Start the process that tasks fork from, once for all stages, with what they need imported already.

    It and the tasks have interrupts blocked: Ctrl-C is the main process's to handle, which ends the tasks.
    """
    multiprocess.set_forkserver_preload(["epochal.datapipe.ingest", "epochal.datapipe.pack"])
    multiprocess.resource_tracker.ensure_running()  # starting it unblocks interrupts, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocess.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
