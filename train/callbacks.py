"""What happens beside the training steps: the receipt, the run's own metrics, clipping, the stop at NaN."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, Callback, Event, State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist, reproducibility
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from ..common import storage
from ..common.errors import RequestError, WorkError
from ..shards.order.base import Order
from ..shards.order.receipt import Receipt
from .run_folder import RECEIPT_NAME, RunFolder, step_of


class ReceiptCallback(Callback):
    """Folds every sample that a step was taken on into the receipt, over all ranks and restarts, and checks it.

    identity: what makes this run this run (plan, model, objective, batch); it is saved with every checkpoint, and a
    checkpoint of another run is refused with the first difference named.
    """

    def __init__(self, plan: Order, identity: dict[str, Any], folder: str | None) -> None:
        self.receipt = Receipt(plan)
        self.identity = identity
        self.path = os.path.join(folder, RECEIPT_NAME) if folder else None

    def batch_end(self, state: State, logger: Logger) -> None:
        """Add the batch: here its step is done, and micro-batches that were tried again have not been counted."""
        kept = state.batch["position"] >= 0
        part = Receipt(self.receipt.plan)
        part.add(state.batch["position"][kept].numpy(), state.batch["sample_id"][kept].numpy())
        summed = state.device.tensor_to_device(torch.from_numpy(part.state))
        dist.all_reduce(summed)
        self.receipt.state += summed.cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return the receipt so far (the same on every rank) and the run's identity."""
        return {"receipt": self.receipt.state.tolist(), "identity": self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the receipt of a checkpoint. Raises RequestError for the checkpoint of another run."""
        changed = difference(state["identity"], self.identity)
        if changed:
            raise RequestError(f"the checkpoint is of another run: {changed}; choose another save_folder")
        self.receipt = Receipt(self.receipt.plan, state["receipt"])

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the receipt and hold it against the plan. Raises WorkError when they differ."""
        problem = self.receipt.check()
        logger.log_metrics({"receipt/valid": float(problem is None), "receipt/samples": self.receipt.count})
        if self.path and dist.get_global_rank() == 0:
            storage.write_atomic(self.path, self.receipt.to_json().encode())
        if problem:
            raise WorkError(f"the run's receipt is not valid: {problem}")


def difference(saved: Any, wanted: Any, path: str = "") -> str:
    """Return the first difference between two JSON-like values as `key is X there and Y here`, empty when equal."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in saved if k not in wanted)]:
            found = difference(saved.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return ""
    return "" if saved == wanted else f"{path} is {saved} there and {wanted} here"


class RunMetrics(Callback):
    """Logs, after every step: tokens, passes over the data, unique tokens seen, tokens/s, MFU, learning rate.

    flops_per_token: see `flops.training_flops_per_token`. peak: FLOP/s of one device; no MFU where it is not known.
    MFU = tokens/s * flops_per_token / (peak * devices), over the time of steps alone: waiting for data counts,
    validation and checkpoints do not.
    """

    def __init__(self, plan: Order, flops_per_token: float, peak: float | None) -> None:
        self.plan = plan
        self.flops_per_token = flops_per_token
        self.peak = peak
        self.started = 0.0

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Start the step's clock."""
        self.started = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the step."""
        seconds = time.perf_counter() - self.started
        position, tokens = int(state.timestamp.sample), int(state.timestamp.token)
        rate = (tokens - int(state.previous_timestamp.token if state.previous_timestamp else 0)) / seconds
        values = {
            "run/tokens": tokens,
            "run/passes": tokens / self.plan.unique_tokens,
            "run/position": position,
            "run/unique_tokens": self.plan.unique_tokens_seen(position),
            "throughput/tokens_per_sec": rate,
            "run/lr": state.schedulers[0].get_last_lr()[0] if state.schedulers else math.nan,
        }
        if self.peak:
            values["throughput/mfu"] = rate * self.flops_per_token / (self.peak * dist.get_world_size())
        logger.log_metrics(values)


class ClipGradient(Algorithm):
    """Clips the gradient's norm over all ranks, logs it, and stops the run when it is not finite.

    It runs before the optimizer's step, so weights that a NaN would have spoilt are never made, and the last
    checkpoint stays good. threshold: None to measure only.
    """

    def __init__(self, threshold: float | None, batch_samples: int, positions: int) -> None:
        self.threshold = math.inf if threshold is None else threshold
        self.batch_samples = batch_samples
        self.positions = positions

    def match(self, event: Event, state: State) -> bool:
        """Return whether the gradients of a whole batch are there."""
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clip. Raises WorkError naming the step and its positions when the norm is NaN or infinite."""
        norm = float(self._clip(state))
        logger.log_metrics({"run/grad_norm": norm})
        if not math.isfinite(norm):
            step = int(state.timestamp.batch)
            start = int(state.timestamp.sample)
            stop = min(start + self.batch_samples, self.positions)
            raise WorkError(
                f"the gradient is {norm} at step {step}, positions {start} to {stop - 1} of the plan: stopped before "
                "the weights changed; the last checkpoint is good. Lower the learning rate, or look at those samples "
                f"(epochal order --start {start} --count {stop - start})"
            )

    def _clip(self, state: State) -> Tensor:
        for module in state.model.modules():
            if isinstance(module, FullyShardedDataParallel) and module.check_is_root():
                return module.clip_grad_norm_(self.threshold)
        return torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.threshold)


class RestoreRandomness(Callback):
    """Puts the random state of a checkpoint back before the first step after it.

    Composer does so only at the start of an epoch or while it spins a loader forward; our run is one epoch and its
    loader starts where it should. Without this, dropout would differ after a resumption.
    """

    def __init__(self) -> None:
        self.saved: Any = None

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Restore once."""
        if self.saved is not None:
            reproducibility.load_rng_state(self.saved)
            self.saved = None


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
        """Write the step: Composer saves a checkpoint before loggers hear of it, and must not be ahead of metrics."""
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

    A logger, as those hear of a checkpoint after Composer has saved it.
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
