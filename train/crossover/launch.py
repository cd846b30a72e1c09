"""Training what a grid still lacks: data carved, runs in processes of their own, one failure no end to the others.

A run is finished when its folder, whose name holds the fingerprint of all that its figures follow from, has a
result.json. Everything else resumes from its last checkpoint. Processes die with the one that started them, and the
grid's folder is locked while any of them lives, so that killing and starting again never has two writers in one folder.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ...common import storage
from ...common.errors import RequestError
from ...common.json_text import parse_json, strict_json
from ...shards.carve import carve
from ..run_folder import CONFIG_NAME, METRICS_NAME, RESULT_NAME
from ..run_state.identity import to_yaml
from .board import Board
from .grid import GridPlan, RunSpec

LOG_NAME, TIMING_NAME, LOCK_NAME = "log.txt", "timing.json", ".lock"
POLL_SECONDS = 0.5
LOCK_SECONDS = 15.0
"""How long to wait for processes of a killed run to be gone."""


def result_of(run: RunSpec) -> dict[str, Any] | None:
    """Return the result that a finished run left, None where it is not finished."""
    path = Path(run.folder, RESULT_NAME)
    return parse_json(path.read_bytes(), str(path))["result"] if path.is_file() else None


def unfinished(plan: GridPlan) -> list[RunSpec]:
    """Return the runs that are still to be trained, in order."""
    return [run for run in plan.runs if result_of(run) is None]


def prepare(plan: GridPlan, runs: Sequence[RunSpec]) -> None:
    """Carve the subsets of `runs` that are missing and write each run's configuration.

    Raises:
        RequestError: when the pool is not there or the grid's subset was carved elsewhere.
    """
    carve_missing(plan, runs)
    for run in runs:
        os.makedirs(run.folder, exist_ok=True)
        text = to_yaml(run.config.public(run.config.model_dump(mode="json")))
        storage.write_atomic(os.path.join(run.folder, CONFIG_NAME), text.encode())


def carve_missing(plan: GridPlan, runs: Sequence[RunSpec]) -> None:
    """Carve the subsets of `runs` that are missing; raises as `prepare` does."""
    if plan.pool is None:
        raise RequestError(f"the pool {plan.grid.pool} does not exist: build it (epochal build) or name another, pool=")
    for n, replicate, path in sorted({(r.unique_tokens, r.replicate, r.subset) for r in runs}):
        carve(plan.grid.pool, n, replicate, path)


def command(run: RunSpec, gpus: int) -> list[str]:
    """Return what trains `run`: plain, or with Composer's launcher when it needs several GPUs."""
    config = os.path.join(run.folder, CONFIG_NAME)
    python = [sys.executable, "-W", "ignore"]
    if gpus == 1:
        return [*python, "-m", "epochal.train", config]
    return [*python, "-m", "composer.cli", "-n", str(gpus), "-m", "epochal.train", config]


def slurm_script(plan: GridPlan, runs: Sequence[RunSpec], jobs: int | None) -> str:
    """Return a job array, one task per run, at most `jobs` at once; a task that is started again resumes."""
    gpus, at_once = plan.grid.gpus_per_run, f"%{jobs}" if jobs else ""
    on_cpu = all(run.config.device == "cpu" for run in runs)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={plan.grid.name}",
        f"#SBATCH --array=0-{len(runs) - 1}{at_once}",
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={plan.grid.threads}" if on_cpu else f"#SBATCH --gpus={gpus}",
        "#SBATCH --requeue",
        f"#SBATCH --output={os.path.join(plan.grid.out, 'slurm-%a.txt')}",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
        "runs=(",
        *(f"  {shlex.quote(os.path.join(run.folder, CONFIG_NAME))}  # {run.label}" for run in runs),
        ")",
        f"exec {shlex.quote(sys.executable)} -m composer.cli -n {gpus} -m epochal.train "
        '"${runs[$SLURM_ARRAY_TASK_ID]}"',
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and the last line it said."""

    run: RunSpec
    reason: str


@dataclass
class _Live:
    """A running child. started: monotonic seconds. tokens: where it began."""

    run: RunSpec
    process: subprocess.Popen[bytes]
    slot: int
    started: float
    tokens: int


def launch(plan: GridPlan, runs: Sequence[RunSpec], jobs: int, quiet: bool = False) -> list[Failure]:
    """Train `runs`, `jobs` at once; return those that failed.

    Raises:
        RequestError: when others work on this grid.
    """
    done = sum(r.total_tokens for r in plan.runs if r not in runs)
    waiting, live, failures = list(runs), list[_Live](), list[Failure]()
    with locked(plan.grid.out) as lock, _terminable():
        board = Board(plan.grid.name, sum(r.total_tokens for r in plan.runs), len(plan.runs), quiet)
        try:
            while waiting or live:
                while waiting and len(live) < jobs:
                    slot = min(set(range(jobs)) - {child.slot for child in live})
                    live.append(_start(waiting.pop(0), plan, slot, lock))
                    board.say(f"training  {live[-1].run.label}")
                time.sleep(POLL_SECONDS)
                for child in [c for c in live if c.process.poll() is not None]:
                    live.remove(child)
                    failure = _ended(child)
                    failures += [failure] if failure else []
                    done += 0 if failure else child.run.total_tokens
                    board.say(f"{'FAILED' if failure else 'finished'}  {child.run.label}")
                finished = len(plan.runs) - len(waiting) - len(live) - len(failures)
                board.draw(done, finished, {c.run.label: (tokens_so_far(c.run), c.run.total_tokens) for c in live})
        finally:
            _stop(live)
            board.close()
    return failures


def _start(run: RunSpec, plan: GridPlan, slot: int, lock: int) -> _Live:
    gpus = plan.grid.gpus_per_run
    environment = os.environ | {"OMP_NUM_THREADS": str(plan.grid.threads)}
    if uses_gpu(run):
        import torch

        first = slot * gpus % max(1, torch.cuda.device_count())
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + i) for i in range(gpus))
    with open(os.path.join(run.folder, LOG_NAME), "ab") as log:
        process = subprocess.Popen(
            command(run, gpus),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the children
            pass_fds=(lock,),
            preexec_fn=_die_with_parent(),
        )
    return _Live(run, process, slot, time.monotonic(), tokens_so_far(run))


def _die_with_parent() -> Callable[[], None] | None:
    """Return what makes a child end with its parent, however that ends; None where only Linux could."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def before_exec() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def _ended(child: _Live) -> Failure | None:
    """Return why a child failed, None when it did not; note its time."""
    status = child.process.returncode
    if status == 0 and result_of(child.run) is not None:
        seconds, tokens = time.monotonic() - child.started, child.run.total_tokens - child.tokens
        timing = json.dumps({"seconds": round(seconds, 2), "tokens": tokens})
        storage.write_atomic(os.path.join(child.run.folder, TIMING_NAME), timing.encode())
        return None
    if status < 0:
        name = signal.Signals(-status).name
        return Failure(child.run, f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""))
    lines = Path(child.run.folder, LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing said")
    return Failure(child.run, said.removeprefix("epochal: "))


def tokens_so_far(run: RunSpec) -> int:
    """Return the tokens that the last whole line of a run's metrics tells of."""
    try:
        with open(os.path.join(run.folder, METRICS_NAME), "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 8192))
            lines = f.read().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(strict_json(line)["run/tokens"])
    return 0


def uses_gpu(run: RunSpec) -> bool:
    """Return whether `run` trains on a GPU here."""
    import torch

    return run.config.device == "gpu" or (run.config.device is None and torch.cuda.is_available())


def default_jobs(plan: GridPlan) -> int:
    """Return how many runs fit this machine at once: by GPUs, or by cores."""
    if uses_gpu(plan.runs[0]):
        import torch

        return max(1, torch.cuda.device_count() // plan.grid.gpus_per_run)
    return max(1, len(os.sched_getaffinity(0)) // plan.grid.threads) if hasattr(os, "sched_getaffinity") else 1


def _stop(live: Sequence[_Live]) -> None:
    for child in live:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGTERM)
    for child in live:
        try:
            child.process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


@contextlib.contextmanager
def locked(out: str) -> Iterator[int]:
    """Hold the grid's folder; children inherit the lock, so it is free when the last of them is gone."""
    os.makedirs(out, exist_ok=True)
    descriptor = os.open(os.path.join(out, LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RequestError(f"another `epochal crossover` is at work in {out}: wait for it") from None
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that children are ended and the terminal is left in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
