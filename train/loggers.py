"""What a run leaves while it goes on: its metrics, and its folder at a URL."""

import json
import math
import os
from pathlib import Path
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from ..common import storage
from ..common.progress import Progress
from .run_folder import RunFolder, of_step_after, whole_rows


class JsonlLogger(LoggerDestination):
    """Writes all metrics to one file, a JSON object per step: `step` is the number of steps taken, that one included.

    A row is written when its step is done, and what comes later for it (an evaluation) is added to it in place. Rows
    from beyond the checkpoint that a run resumes from are removed, so the file always tells one story.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.row: dict[str, float] = {}
        self.step: int | None = None
        self.last: dict[str, float] = {}
        self.offset = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Drop rows of steps that will be taken again, and a row that a crash cut off."""
        if dist.get_global_rank() != 0 or not self.path.exists():
            return
        now = int(state.timestamp.batch)
        rows = whole_rows(self.path.read_text(encoding="utf-8", errors="replace"))
        kept = [row for row in rows if row["step"] + of_step_after(row) <= now and now > 0]
        lines = [_line(row) for row in kept]
        storage.write_atomic(str(self.path), b"".join(lines))
        if kept:
            self.last, self.offset = kept[-1], sum(map(len, lines[:-1]))

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add `metrics` to the row of the step that is being taken, or has just been taken.

        Composer gives a step's loss the number of steps before it, and all that follows the number with it; a row is
        closed under the last number that it was given.
        """
        if dist.get_global_rank() != 0:
            return
        self.step = step
        numbers = {k: float(v) for k, v in metrics.items() if not k.startswith("time/")}
        self.row |= {k: v for k, v in numbers.items() if not math.isnan(v)}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step: checkpoints are saved before loggers are called, and none may be ahead of its metrics."""
        self._write()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Write the evaluation, for the same reason."""
        self._write()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the rest; of a step that was never done, nothing is written."""
        self._write()

    def _write(self) -> None:
        if not self.row or self.step is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            row = {"step": self.step} | self.row
            size = os.fstat(file).st_size
            if self.last.get("step") == self.step:
                self.last |= row
                # One call, at least as long as what it replaces: nobody finds half a row.
                line = _line(self.last)
                os.pwrite(file, line[:-1].ljust(size - self.offset - 1) + b"\n", self.offset)
            else:
                self.last, self.offset = row, size
                os.pwrite(file, _line(row), size)
        finally:
            os.close(file)
        self.row = {}


def _line(row: dict[str, float]) -> bytes:
    return json.dumps(row).encode() + b"\n"


class StepProgress(LoggerDestination):
    """Shows how far a run is and its last losses: a live line on a terminal, one every 15 seconds elsewhere."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps = name, steps
        self._losses: dict[str, float] = {}
        self._progress: Progress | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin at the step that the run resumes from."""
        if dist.get_global_rank() == 0:
            self._progress = Progress(self._name, self._steps, "steps", done=int(state.timestamp.batch)).__enter__()

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Remember the losses."""
        names = {"loss/train/total": "loss", "metrics/validation/nll": "NLL", "metrics/validation/nelbo": "NELBO"}
        self._losses |= {names[key]: float(value) for key, value in metrics.items() if key in names}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Show the step."""
        self._show(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Show what was measured."""
        self._show(state)

    def _show(self, state: State) -> None:
        if self._progress is not None:
            self._progress.note = "  ".join(f"{name} {value:.4f}" for name, value in self._losses.items())
            self._progress.update(int(state.timestamp.batch))

    def close(self, state: State, logger: Logger) -> None:
        """Leave the line, whether the run has come to its end or not."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


class PublishRun(LoggerDestination):
    """Copies a run's folder to its URL after every checkpoint; training waits for it.

    It is a logger because Composer calls loggers after it has saved a checkpoint.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.published: str | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Note what is published already."""
        self.published = self.folder.newest()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Publish a new checkpoint and all that belongs to it."""
        newest = self.folder.newest()
        if dist.get_global_rank() == 0 and newest != self.published:
            self.folder.publish()
            self.published = newest
