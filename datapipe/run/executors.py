"""Running a stage: datatrove's executors, on this machine, on a Ray cluster or on Slurm, with one behaviour.

A stage is run to its end; tasks that are done already are not run again; and what a task raised is raised here, in
whatever process or machine that was. Nothing is printed on the terminal: logs are in the build's work folder.
"""

import contextlib
import copy
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

from datatrove.utils.stats import PipelineStats

from ...common.errors import (
    INTERPOLATION,
    LOCAL_FAILURES,
    RequestError,
    WorkError,
    Written,
    keep_secret,
    one_line,
    system_line,
    without_secrets,
)
from ...common.json_text import strict_json
from ..settings.executors import LocalExecutor, RayExecutor, SlurmExecutor
from . import task
from .datatrove_parts import (
    LocalPipelineExecutor,
    PipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
    datatrove_ray,
    datatrove_slurm,
    logger,
)
from .fork_server import ENVIRONMENT, set_environment
from .processes import run_in_processes

HOPELESS = {
    *("BadConstraints", "InvalidAccount", "InvalidQOS"),
    *("JobHeldAdmin", "JobHeldUser", "launch_failed_requeued_held"),
}
"""Reasons for which Slurm keeps a job waiting until someone intervenes."""


TASK_NAME = "task.pickle"
"""The description of a stage for the tasks of Slurm, in the stage's folder."""


class _Quiet(PipelineExecutor):
    """What all our executors share: tasks silent on standard error, errors of any process kept for the caller, and no
    secrets in what they leave in the work folder."""

    written: Written = {}

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        keep_secret(self.written)
        logger.configure(patcher=_log_without_secrets)
        with open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere, contextlib.redirect_stderr(nowhere):
            try:
                # The base's, for Ray too: its own keeps logs in one folder of the machine for all builds.
                return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)
            except Exception as error:
                kind, said = type(error).__name__, without_secrets(str(error))
                if isinstance(error, OSError) and error.errno in LOCAL_FAILURES:
                    kind, said = "WorkError", system_line(error, self.logging_dir.path)
                with contextlib.suppress(OSError), self.logging_dir.open(f"errors/{rank:05d}.json", "w") as f:
                    json.dump({"type": kind, "message": said}, f)
                raise
            finally:
                logger.remove()

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Write nothing: it would hold the configuration, and no one reads it."""


def _log_without_secrets(record: Any) -> None:
    """Have a log hold no secrets: neither in its message nor, as loguru's tracebacks do, in values of variables."""
    error = record["exception"]
    if error is not None:
        record["message"] += "\n" + "".join(traceback.format_exception(error.type, error.value, error.traceback))
        record["exception"] = None
    message, encoding = without_secrets(record["message"]), sys.getfilesystemencoding()  # that of the log's file
    record["message"] = message.encode(encoding, "backslashreplace").decode(encoding)


class _Local(_Quiet, LocalPipelineExecutor):
    def run(self) -> None:
        """Run the tasks that are not done, here or in processes, but not in datatrove's pool: it waits forever for a
        task whose process was killed."""
        self.save_executor_as_json()
        ranks = list(self.get_incomplete_ranks())
        if self.workers > 1 and ranks:
            run_in_processes(self, ranks, min(self.workers, len(ranks)))
            return
        for rank in ranks:
            copy.deepcopy(self)._run_for_rank(rank)


class _RankWorker(datatrove_ray.RankWorker):
    """Runs tasks in the actor itself, because datatrove's pool of processes waits forever for one that is killed."""

    def run_for_rank(self, executor_ref: Any, ranks: list[int], node_ips: list[str], node_idx: int) -> PipelineStats:
        os.environ["RAY_NODELIST"], os.environ["RAY_NODEID"] = ",".join(node_ips), str(node_idx)
        for rank in ranks:
            copy.deepcopy(executor_ref)._run_for_rank(rank)
        return PipelineStats()


class _Ray(_Quiet, RayPipelineExecutor):
    def run(self) -> None:
        """Run the tasks that are not done; those of lost workers are given to others, three times at most."""
        theirs = datatrove_ray.RankWorker
        datatrove_ray.RankWorker = _RankWorker
        try:
            super().run()
        finally:
            datatrove_ray.RankWorker = theirs


class _NoPickle:
    @staticmethod
    def dump(*_: Any, **__: Any) -> None:
        """Write nothing: datatrove's description of a stage holds passwords, and is not run."""


class _Slurm(_Quiet, SlurmPipelineExecutor):
    def launch_job(self) -> None:
        """Submit the tasks that are not done and wait until they are, or Slurm knows of none of them any more."""
        _slurm("scancel", "--name", self.job_name)  # of a build that was killed: their tasks are in this job again
        theirs, datatrove_slurm.dill = datatrove_slurm.dill, _NoPickle  # see get_launch_file_contents
        try:
            with _sbatch_errors():
                super().launch_job()
            if self.job_id != -1:
                self._wait()
        except BaseException:
            _slurm("scancel", "--name", self.job_name)
            raise
        finally:
            datatrove_slurm.dill = theirs

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """Return the job's script. It runs our own description of the stage, whose hash it has, in place of
        datatrove's, which anyone who can write to the work folder could replace by code of their own."""
        data, expected = task.pickled(copy.deepcopy(self), self.written)
        with self.logging_dir.open(TASK_NAME, "wb") as f:
            f.write(data)
        python, path = os.path.basename(sys.executable), self.logging_dir.resolve_paths(TASK_NAME)
        command = [python, "-P", "-m", task.__name__, path, expected]
        return super().get_launch_file_contents(sbatch_args, shlex.join(command))

    def launch_merge_stats(self) -> None:
        """Submit nothing: no one reads the merged statistics, and after a failure the job would wait forever."""

    def _wait(self) -> None:
        pause = 0.25
        while self.get_incomplete_ranks(skip_completed=True):
            self.logging_dir.invalidate_cache()
            rows = _slurm("squeue", "--noheader", "--name", self.job_name, "--format", "%T %r")
            if rows == []:
                return
            for state, _, reason in (row.partition(" ") for row in rows or ()):
                if state == "PENDING" and reason.replace(" ", "_") in HOPELESS:
                    raise WorkError(f"Slurm does not start job {self.job_id}: {reason} (see scontrol show job)")
            time.sleep(pause)
            pause = min(1.2 * pause, 5)


@contextlib.contextmanager
def _sbatch_errors() -> Iterator[None]:
    """Raise RequestError with what sbatch prints when it refuses a job; otherwise drop what it prints."""
    with tempfile.TemporaryFile() as printed:
        terminal = os.dup(2)
        os.dup2(printed.fileno(), 2)
        try:
            yield
        except subprocess.CalledProcessError:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").splitlines() or ["it does not say why"]
            raise RequestError(f"Slurm refuses the job: {lines[-1][:300]}") from None
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _slurm(*command: str) -> list[str] | None:
    """Return the lines a Slurm command prints, None when it fails: its controller may be back a moment later."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RequestError(
            f"executor slurm needs the command {command[0]}: run on a machine that submits jobs"
        ) from None
    return done.stdout.splitlines() if done.returncode == 0 else None


def run_stage(
    work: str,
    stage: str,
    pipeline: list[Any],
    tasks: int,
    workers: int,
    where: LocalExecutor | RayExecutor | SlurmExecutor,
    raises: Sequence[type[WorkError]] = (),
    written: Written = MappingProxyType({}),
) -> None:
    """Run `pipeline` as `tasks` tasks, `workers` at a time; finished tasks of an interrupted run are not run again.

    Args:
        work: path or URL that all tasks reach.
        where: on which machines.
        raises: errors of tasks that reach the caller as they are.
        written: what the configuration has from the environment.

    Raises:
        RequestError: as a task raised it.
        WorkError: as a task raised it, or one of `raises`; for every other error of a task too.
    """
    logger.remove()
    set_environment()
    folder = f"{work}/logs/{stage}"
    make: dict[str, Any] = {"local": _local, "ray": _ray, "slurm": _on_slurm}
    executor = make[where.name](where, pipeline, tasks, min(workers, tasks), folder, written)
    executor.written = dict(written)
    with _task_errors(executor, stage, raises):
        if executor.logging_dir.exists("errors"):
            executor.logging_dir.rm("errors", recursive=True)
        executor.run()


@contextlib.contextmanager
def _task_errors(executor: PipelineExecutor, stage: str, raises: Sequence[type[WorkError]]) -> Iterator[None]:
    """Raise the first error that a task left, or WorkError when tasks are missing and left none."""
    try:
        yield
    except (RequestError, WorkError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LOCAL_FAILURES:
            raise WorkError(system_line(error, executor.logging_dir.path)) from error
        _raise_task_error(executor, stage, raises)
        reason = one_line(error, 300)
        raise WorkError(f"stage {stage} failed: {type(error).__name__}: {reason}") from error
    executor.logging_dir.invalidate_cache()  # others wrote there
    missing = executor.get_incomplete_ranks(skip_completed=True)
    if missing:
        _raise_task_error(executor, stage, raises)
        raise WorkError(
            f"{len(missing)} of {executor.world_size} tasks of stage {stage} were lost (killed, or out of time or "
            "memory): run the same command again, and it goes on with them"
        )


def _raise_task_error(executor: PipelineExecutor, stage: str, raises: Sequence[type[WorkError]]) -> None:
    classes: list[type[Exception]] = [RequestError, WorkError, *raises]
    known = {cls.__name__: cls for cls in classes}
    executor.logging_dir.invalidate_cache()
    for name in sorted(executor.logging_dir.list_files("errors")):
        rank = int(name.rpartition("/")[2].split(".")[0])
        with executor.logging_dir.open(name) as f:
            error = _said(f.read())
        if error is None:
            raise WorkError(
                f"task {rank} of stage {stage} failed, and could not write why: no space left on the disk at "
                f"{executor.logging_dir.path}? Free some and run the same command again"
            )
        if error["type"] in known:
            raise known[error["type"]](error["message"])
        message = one_line(error["message"], 300)
        log = executor.logging_dir.resolve_paths(f"logs/task_{rank:05d}.log")
        raise WorkError(f"task {rank} of stage {stage} failed: {error['type']}: {message} (its log: {log})")


def _said(text: str) -> dict[str, str] | None:
    """Return the type and message that a task wrote, None where it could not."""
    try:
        error = strict_json(text)
    except ValueError:
        return None
    whole = isinstance(error, dict) and all(isinstance(error.get(key), str) for key in ("type", "message"))
    return error if whole else None


def _local(where: Any, pipeline: list[Any], tasks: int, workers: int, folder: str, __: Written) -> PipelineExecutor:
    return _Local(pipeline, tasks=tasks, workers=workers, logging_dir=folder)


def _ray(
    where: RayExecutor, pipeline: list[Any], tasks: int, workers: int, folder: str, __: Written
) -> PipelineExecutor:
    try:
        import ray
    except ImportError:
        raise RequestError("executor ray needs the package ray: install the extra 'ray'") from None
    if not ray.is_initialized():
        try:
            host, _, port = where.address.rpartition(":")
            if host and port.isdecimal() and "//" not in host:
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()  # Ray tries for minutes
            ray.init(address=where.address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError) as error:
            reason = one_line(error, 160)
            raise RequestError(f"no Ray cluster at {where.address}: ray start --head makes one ({reason})") from None
    return _Ray(
        pipeline,
        tasks=tasks,
        workers=workers,
        logging_dir=folder,
        cpus_per_task=where.cpus_per_task,
        mem_per_cpu_gb=where.mem_per_cpu_gb,
        time=where.seconds,
        ray_remote_kwargs={"runtime_env": {"env_vars": ENVIRONMENT}},
    )


def _on_slurm(
    where: SlurmExecutor, pipeline: list[Any], tasks: int, workers: int, folder: str, written: Written
) -> PipelineExecutor:
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        raise RequestError("a build on Slurm is started outside of array jobs: from a login node, or a plain job")
    # The job's script lies in the work folder; the shell knows the environment too.
    setup = INTERPOLATION.sub(r"${\1}", without_secrets(where.setup, written)) if where.setup else None
    here = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH"
    return _Slurm(
        pipeline,
        tasks=tasks,
        workers=workers,
        logging_dir=folder,
        job_name=_job_name(folder),
        partition=where.partition,
        time=where.time,
        cpus_per_task=where.cpus_per_task,
        mem_per_cpu_gb=where.mem_per_cpu_gb,
        tasks_per_job=where.tasks_per_job,
        max_array_size=where.max_array_size,
        qos=where.qos,
        sbatch_args=dict(where.sbatch),
        env_command=f"{here}\n{setup}" if setup else here,
        with_srun=False,  # a task is one process: the job's own step will do
    )


def _job_name(folder: str) -> str:
    """Return a name that the jobs of no other build have: that of the work folder, which holds the request's digest."""
    *_, work, _, stage = folder.split("/")
    return f"epochal{work}-{stage}"
