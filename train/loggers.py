"""What a run leaves while it goes on: its metrics, what loggers of others are told of it, and its folder at a URL."""

import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger, LoggerDestination, MLFlowLogger, TensorboardLogger, WandBLogger
from composer.utils import dist

from ..common import storage
from ..common.cli import say
from ..common.errors import one_line, without_secrets
from ..common.progress import Progress
from ..common.publish import MANIFEST_NAME
from ..shards.artifact import Artifact
from ..shards.order.base import Order
from .run import Run
from .run_folder import LOSS_KINDS, RunFolder, of_step_after, whole_rows


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
        names = {"loss/train/total": "loss"} | {f"metrics/validation/{k}": words for k, words in LOSS_KINDS.items()}
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


# -- W&B, MLflow, TensorBoard ----------------------------------------------------------------------------------------


class WandB(WandBLogger):
    """Composer's logger, which asks a run for `get_url()`: newer versions of wandb have `url` instead."""

    def init(self, state: State, logger: Logger) -> None:
        """Begin the run at W&B."""
        import wandb

        if not hasattr(wandb.Run, "get_url"):
            wandb.Run.get_url = lambda run: run.url  # type: ignore[attr-defined]
        super().init(state, logger)


Facts = dict[str, str | int | float | bool]


def told_of(run: Run) -> Facts:
    """Return what loggers are told of a run, flat: `model.hidden`, `plan.fingerprint`, `data.NAME.passes`.

    All that its figures follow from (without secrets), its plan, and for each source the fingerprints of its subset
    and pool, its unique tokens, and how often they are passed over in the whole run.
    """
    settings = {key: value for key, value in run.identity.items() if key != "plan"}
    facts: Facts = dict(_flat(settings)) | {
        "steps": run.steps,
        "plan.fingerprint": run.plan.fingerprint,
        "plan.tokens": run.plan.tokens,
        "plan.unique_tokens": run.plan.unique_tokens,
        "plan.passes": run.plan.passes,
    }
    for name, artifact, passes in sources_of(run):
        m = artifact.manifest
        facts |= {
            f"data.{name}.fingerprint": m.fingerprint,
            f"data.{name}.pool": _pool(artifact),
            f"data.{name}.unique_tokens": m.tokens,
            f"data.{name}.passes": passes,
        }
    return facts


def _pool(artifact: Artifact) -> str:
    """Return the fingerprint of the pool that an artifact is, or is a window of."""
    m = artifact.manifest
    return m.parent.fingerprint if m.parent else m.fingerprint


def sources_of(run: Run) -> Iterator[tuple[str, Artifact, float]]:
    """Yield each source's name (of a single subset, its own), artifact, and passes in the whole run."""
    passes = passes_of_sources(run.plan, run.plan.positions)
    for (name, n), artifact in zip(passes.items(), run.artifacts, strict=True):
        yield metric_name(name if len(passes) > 1 else artifact.manifest.name), artifact, n


def passes_of_sources(order: Order, position: int) -> dict[str, float]:
    """Return the passes over each component of an order in positions [0, position), by its name."""
    plans = order.components()
    counts = zip(plans.items(), order.counts(position), strict=True)
    return {name: plan.tokens_before(n) / plan.unique_tokens for (name, plan), n in counts}


def metric_name(name: str) -> str:
    """Return a source's name as all loggers take it in a key: letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value if isinstance(value, str | int | float | bool) else json.dumps(value)


class DescribeRun(Callback):
    """Tells loggers what a run is when it begins or goes on: see `told_of`, and its data by fingerprint.

    A logger that does not take it is named in a line; the run goes on.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._facts = told_of(run)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Tell each logger."""
        if dist.get_global_rank() != 0:
            return
        for destination in logger.destinations:
            try:
                self._tell(destination)
            except Exception as error:  # each of these packages has exceptions of its own
                say(f"{type(destination).__name__} was not told what the run is: {one_line(error)}")

    def fit_end(self, state: State, logger: Logger) -> None:
        """Have TensorBoard write hyper-parameters, which it only does with a validation."""
        if dist.get_global_rank() == 0 and self._run.validation is None:
            for destination in logger.destinations:
                if isinstance(destination, TensorboardLogger):
                    destination.eval_end(state, logger)

    def _tell(self, destination: LoggerDestination) -> None:
        if isinstance(destination, WandBLogger):
            self._tell_wandb()
        elif isinstance(destination, MLFlowLogger):
            self._tell_mlflow(destination)
        else:
            destination.log_hyperparameters(self._facts)
        if isinstance(destination, TensorboardLogger) and destination.writer is not None:
            rows = "\n".join(f"| {key} | {value} |" for key, value in self._facts.items())
            destination.writer.add_text("run", f"| key | value |\n|---|---|\n{rows}")

    def _data(self) -> Iterator[tuple[str, str, Artifact, dict[str, Any]]]:
        """Yield what the data of the run are for (training, validation), a name, the artifact, and what it is."""
        uses = [("training", name, artifact) for name, artifact, _ in sources_of(self._run)]
        if self._run.validation is not None:
            uses.append(("validation", metric_name(self._run.validation.manifest.name), self._run.validation))
        for use, name, artifact in uses:
            m = artifact.manifest
            counts = {"unique_tokens": m.tokens, "documents": m.documents, "samples": m.samples}
            yield use, name, artifact, {"kind": m.kind, "fingerprint": m.fingerprint, "pool": _pool(artifact)} | counts

    def _tell_wandb(self) -> None:
        import wandb

        if wandb.run is None:
            return
        wandb.config.update(self._facts, allow_val_change=True)
        for use, name, artifact, about in self._data():
            kept = wandb.Artifact(f"{name}-{about['fingerprint'][:12]}", type="dataset", metadata=about | {"use": use})
            where = without_secrets(storage.join(artifact.root, MANIFEST_NAME), {})
            kept.add_reference(where if storage.is_url(where) else f"file://{where}", checksum=False)
            if wandb.run.offline:
                wandb.run.log_artifact(kept)  # it only becomes an input of the run online
            else:
                wandb.run.use_artifact(kept)

    def _tell_mlflow(self, destination: MLFlowLogger) -> None:
        from mlflow import MlflowClient, log_input
        from mlflow.data.meta_dataset import MetaDataset

        if destination._run_id is None:
            return
        there = MlflowClient(destination.tracking_uri).get_run(destination._run_id).data.params
        changed = [key for key, value in self._facts.items() if there.get(key, str(value)) != str(value)]
        if changed:
            say(f"MLflow keeps the first values of what has changed since the run began: {', '.join(changed)}")
        new = [(key, value) for key, value in self._facts.items() if key not in there]
        for start in range(0, len(new), _AT_ONCE):
            destination.log_hyperparameters(dict(new[start : start + _AT_ONCE]))
        for use, name, artifact, about in self._data():
            source = _mlflow_source(without_secrets(artifact.root, {}))
            tags = {key: str(value) for key, value in about.items()}
            log_input(MetaDataset(source, name=name, digest=about["fingerprint"]), context=use, tags=tags)


def _mlflow_source(place: str) -> Any:
    """Return how MLflow names a path or URL, as text where it does not know such URLs."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.exceptions import MlflowException

    with warnings.catch_warnings(action="ignore"):
        try:
            return resolve_dataset_source(place)
        except MlflowException:
            return CodeDatasetSource(tags={"url": place})


_AT_ONCE = 100
"""Parameters that MLflow takes in a call."""
