"""What a run leaves while it goes on: its metrics, and its folder at a URL."""

import json
from pathlib import Path
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from ..common import storage
from .run_folder import RunFolder, step_of


class JsonlLogger(LoggerDestination):
    """Writes all metrics to one file, a JSON object per step: `step` is the number of steps taken.

    Rows from beyond the checkpoint that a run resumes from are removed, so the file always tells one story.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.row: dict[str, float] = {}
        self.step: int | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Drop rows of steps that will be taken again, and a row that a crash cut off."""
        if dist.get_global_rank() == 0 and self.path.exists():
            now = int(state.timestamp.batch)
            kept = [line for line in self.path.read_text().splitlines() if step_of(line) <= now and now > 0]
            storage.write_atomic(str(self.path), "".join(line + "\n" for line in kept).encode())

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add `metrics` to the row of `step`."""
        if dist.get_global_rank() != 0:
            return
        if step != self.step:
            self._write()
            self.step = step
        self.row |= {k: float(v) for k, v in metrics.items() if not k.startswith("time/")}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step: checkpoints are saved before loggers are called, and none may be ahead of its metrics."""
        self._write()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Write the evaluation, for the same reason."""
        self._write()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the rest."""
        self._write()

    def close(self, state: State, logger: Logger) -> None:
        """Write the rest."""
        self._write()

    def _write(self) -> None:
        if self.row:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                f.write(json.dumps({"step": self.step} | self.row) + "\n")
        self.row = {}


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
