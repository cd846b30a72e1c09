"""A case in a process of its own, which is ended with all that it started when its time is over."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from epochal.benchmarks.gpu.sizes import Place
from epochal.benchmarks.gpu.stages import Case
from epochal.common import storage
from epochal.common.cli import explain

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        state: `finished`, `cut` (no time was left, or it ran out) or `failed`.
        seconds: of its process, start included.
        reason: why it did not finish.
        kept: whether it was finished by an earlier command.
    """

    state: str
    rows: Rows
    seconds: float = 0.0
    reason: str = ""
    kept: bool = False

    @property
    def passed(self) -> bool:
        """Return whether nothing failed, and nothing that was compared differs."""
        return self.state != "failed" and all(row.get("passed", True) for row in self.rows)


def run_case(case: Case, out: Path, stage: str, seconds: float, gpu: bool) -> Outcome:
    """Run `case`, for at most `seconds`.

    Args:
        out: of the whole benchmark: logs and what stages keep lie in it.
        gpu: every process starts from nothing, as CUDA wants it; else they are forked from one that imported torch.
    """
    log, kept = out / "logs" / f"{stage}, {case.name}.txt", out / "work" / stage
    for folder in (log.parent, kept):
        folder.mkdir(parents=True, exist_ok=True)
    started, scratch = time.monotonic(), tempfile.mkdtemp(prefix="case-", dir=out / "work")
    context: Any = multiprocessing.get_context("spawn" if gpu else "forkserver")
    if not gpu:
        context.set_forkserver_preload(["epochal.benchmarks.gpu.warm"])
    answer = Path(scratch, "answer.json")
    place = Place(Path(scratch, "data"), kept, seconds)
    process = context.Process(target=_work, args=(case, place, answer, log))
    try:
        process.start()
        process.join(seconds)
        took = time.monotonic() - started
        if process.exitcode is None:
            return Outcome("cut", [], took, f"not finished after {took:.0f} s")
        if process.exitcode or not answer.is_file():
            return Outcome("failed", [], took, f"{_said(log, process.exitcode)} ({log})")
        return Outcome("finished", json.loads(answer.read_bytes()), took)
    finally:
        _end(process)
        shutil.rmtree(scratch, ignore_errors=True)


def _work(case: Case, place: Place, answer: Path, log: Path) -> None:
    """Do the case's work in this process, whose output goes to `log`, and write its rows."""
    os.setsid()  # so that what it starts can be ended with it, and Ctrl-C reaches the first process alone
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    place.folder.mkdir()
    try:
        storage.write_atomic(str(answer), json.dumps(case.run(place)).encode())
    except Exception as error:
        traceback.print_exc()
        print(explain(error)[0], file=sys.stderr, flush=True)
        sys.exit(1)


def _end(process: Any) -> None:
    """End a process and all of its group."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()  # before it had a group of its own
    process.join()


def _said(log: Path, status: int | None) -> str:
    """Return the last line of a log, or how the process ended."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing said")


class Kept:
    """What finished cases came to, a file each, for the next time.

    Attributes:
        follows_from: machine, software and sizes; what was measured with others does not count.
    """

    def __init__(self, folder: Path, follows_from: Any) -> None:
        self.folder = folder
        self.follows_from = json.loads(json.dumps(follows_from))

    def path(self, stage: str, case: Case) -> Path:
        """Return the file of a case."""
        return self.folder / stage / f"{case.name}.json"

    def read(self, stage: str, case: Case) -> Outcome | None:
        """Return what a case came to before; None where it must be run."""
        path = self.path(stage, case)
        if not path.is_file():
            return None
        body = json.loads(path.read_bytes())
        return Outcome(**body["outcome"] | {"kept": True}) if body["follows_from"] == self.follows_from else None

    def write(self, stage: str, case: Case, outcome: Outcome) -> None:
        """Keep what a finished case came to."""
        path = self.path(stage, case)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"follows_from": self.follows_from, "outcome": asdict(outcome)}
        storage.write_atomic(str(path), (json.dumps(body, indent=2) + "\n").encode())
