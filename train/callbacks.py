"""What happens beside the training steps: the receipt, the run's own metrics, clipping, the stop at NaN."""

import contextlib
import math
import os
import time
from typing import Any

import torch
from composer.core import Algorithm, Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist, reproducibility
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

from ..common import storage
from ..common.errors import RequestError, WorkError
from ..shards.order.base import Order
from ..shards.order.receipt import RECEIPT_NAME, Receipt
from ..shards.tokenizer_file import artifact_tokenizer
from .checkpoint import ModelCard, save_model
from .loggers import metric_name, passes_of_sources
from .objective.halves import is_half
from .optimization.ema import AverageWeights
from .run import Run, model_kind, selection_loss, snapshot_steps
from .run_folder import SNAPSHOTS, RunFolder
from .run_state.claim import difference, say_unknown


class ReceiptCallback(Callback):
    """Folds every sample that a step was taken on into the receipt, over all ranks and restarts, and checks it.

    Attributes:
        identity: what makes this run this run (plan, model, objective, batch); it is saved with every checkpoint, and a
            checkpoint of another run is refused with the first difference named.
        fed: what the run is fed: `plan`, or where it stops early, one that ends there.
    """

    def __init__(self, plan: Order, identity: dict[str, Any], folder: str | None, fed: Order | None = None) -> None:
        self.receipt = Receipt(plan)
        self.fed = fed or plan
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
        """Continue the receipt of a checkpoint.

        Raises:
            RequestError: for the checkpoint of another run.
        """
        changed = difference(state["identity"], self.identity, int(state["receipt"][0]))
        if changed:
            raise RequestError(f"the checkpoint is of another run: {changed}; choose another save_folder")
        if dist.get_global_rank() == 0:
            say_unknown(state["identity"], self.identity, "the checkpoint")
        self.receipt = Receipt(self.receipt.plan, state["receipt"])

    def whole(self) -> Receipt:
        """Return the receipt of what the run was fed. Digests are keyed by the plan, so that one of a plan that ends
        earlier is made anew, where the same samples came at the same positions."""
        sound = self.receipt.digest == self.receipt.plan.digest(0, self.receipt.count)
        if self.fed == self.receipt.plan or not sound:
            return self.receipt
        body = self.receipt.to_dict() | {"plan": self.fed.to_dict()}
        return Receipt.from_dict(body | {"digest": self.fed.digest(0, self.receipt.count)})

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the receipt and hold it against the plan.

        Raises:
            WorkError: when they differ.
        """
        receipt = self.whole()
        problem = receipt.check()
        logger.log_metrics({"receipt/valid": float(problem is None), "receipt/samples": receipt.count})
        if self.path and dist.get_global_rank() == 0:
            storage.write_atomic(self.path, receipt.to_json().encode())
        if problem:
            raise WorkError(f"the run's receipt is not valid: {problem}")


class RunMetrics(Callback):
    """Logs, after every step: tokens, passes over the data, unique tokens seen, tokens/s, MFU, learning rate.

    Attributes:
        flops_per_token: see `flops.training_flops_per_token`.
        peak: FLOP/s of one device; no MFU where it is not known. MFU = tokens/s * flops_per_token / (peak * devices),
            over the time of steps alone: waiting for data counts, validation and checkpoints do not.
    """

    def __init__(self, plan: Order, flops_per_token: float, peak: float | None) -> None:
        self.plan = plan
        self.flops_per_token = flops_per_token
        self.peak = peak
        self.started = 0.0
        self.rate = math.nan

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Start the step's clock, and note its learning rate: at its end Composer has set the next one."""
        self.started = time.perf_counter()
        self.rate = state.schedulers[0].get_last_lr()[0] if state.schedulers else math.nan

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
            "run/lr": self.rate,
        }
        passes = passes_of_sources(self.plan, position)
        if len(passes) > 1:
            values |= {f"run/passes/{metric_name(name)}": n for name, n in passes.items()}
        if self.peak:
            values["throughput/mfu"] = rate * self.flops_per_token / (self.peak * dist.get_world_size())
        logger.log_metrics(values)


class ClipGradient(Algorithm):
    """Clips the gradient's norm over all ranks, logs it, and stops the run when it is not finite.

    It runs before the optimizer's step, so weights that a NaN would have spoilt are never made. What was saved of the
    weights that led to it is not called good.

    Attributes:
        threshold: None to measure only.
        folder: of the run.
    """

    def __init__(
        self, threshold: float | None, batch_samples: int, positions: int, folder: RunFolder | None = None
    ) -> None:
        self.threshold = math.inf if threshold is None else threshold
        self.batch_samples = batch_samples
        self.positions = positions
        self.folder = folder

    def match(self, event: Event, state: State) -> bool:
        """Return whether the gradients of a whole batch are there."""
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clip.

        Raises:
            WorkError: naming the step and its positions when the norm is NaN or infinite.
        """
        norm = float(self._clip(state))
        logger.log_metrics({"run/grad_norm": norm})
        if not math.isfinite(norm):
            step = int(state.timestamp.batch)
            start = int(state.timestamp.sample)
            stop = min(start + self.batch_samples, self.positions)
            raise WorkError(
                f"the gradient is {norm} at step {step}, positions {start} to {stop - 1} of the plan: stopped before "
                f"the weights changed; {last_good(self.folder, step)}. Lower the learning rate, or look at those "
                f"samples (epochal order --start {start} --count {stop - start})"
            )

    def _clip(self, state: State) -> Tensor:
        for module in state.model.modules():
            if isinstance(module, FullyShardedDataParallel) and module.check_is_root():
                return module.clip_grad_norm_(self.threshold)
        return torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.threshold)


def last_good(folder: RunFolder | None, step: int) -> str:
    """Say which checkpoint is good after the weights of `step` steps turned out to be spoilt; one of them is put aside.

    A checkpoint is good when the step after it had a finite gradient.
    """
    if folder is None:
        return "nothing was saved"
    spoilt = folder.newest() if folder.steps_saved() >= step > 0 else None
    aside = f"{spoilt}, of the weights that led to this, is put aside; " if spoilt else ""
    if spoilt and dist.get_global_rank() == 0:
        folder.put_aside(spoilt)
        try:
            folder.publish()
        except WorkError as error:
            aside = f"{spoilt}, of the weights that led to this, is still named at the URL ({error}); "
    dist.barrier()
    good = folder.newest()
    return aside + (f"{good} is the last good checkpoint" if good else "there is no good checkpoint")


class Finite(Callback):
    """Stops a run whose weights are no longer finite, or so large that their squares are not, before they are saved.

    Attributes:
        due: steps between savings of any kind.
    """

    def __init__(self, due: tuple[int, ...], steps: int, folder: RunFolder | None) -> None:
        self.due = due
        self.steps = steps
        self.folder = folder

    def batch_end(self, state: State, logger: Logger) -> None:
        """Look at the weights when something is to be saved: evaluation and checkpoint come after this.

        Raises:
            WorkError: when they are spoilt.
        """
        step = int(state.timestamp.batch)
        if step < self.steps and all(step % every for every in self.due):
            return
        norms = torch._foreach_norm([p.detach().float() for p in _local_parameters(state)])
        spoilt = torch.tensor(float(not math.isfinite(float(torch.stack(norms).square().sum()))))
        spoilt = state.device.tensor_to_device(spoilt)
        dist.all_reduce(spoilt)
        if spoilt.item():
            raise WorkError(
                f"the weights are not finite, or too large to square, after step {step}: nothing of them is saved; "
                f"{last_good(self.folder, step)}. Lower the learning rate"
            )


def _local_parameters(state: State) -> list[Tensor]:
    """Return what this rank holds of the weights."""
    held = (p.to_local() if hasattr(p, "to_local") else p for p in state.model.parameters())
    return [p for p in held if p.numel()]


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


class Exports(Callback):
    """Writes the model without Composer: `best/` at the lowest validation loss so far, `final/` at the end.

    A schedule of cycles also leaves `snapshots/1/`, `snapshots/2/`, ...: the model at the end of each cycle. With an
    average of the weights, the models have that.

    A model is named best only when the step after it had a finite gradient, before that step changes its weights: a
    loss may be finite on weights that are spoilt. So is a snapshot saved.
    """

    def __init__(self, run: Run, folder: str, average: AverageWeights | None = None) -> None:
        self.run = run
        self.folder = folder
        self.average = average
        self.snapshots = snapshot_steps(run)
        self.best = float("inf")
        files = (artifact_tokenizer(artifact.root, artifact.manifest) for artifact in run.artifacts)
        self.tokenizer = next((file for file in files if file is not None), None)
        self.waiting: dict[str, float] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest loss so far, and the losses of a model that is to be named best with the next step."""
        return {"best": self.best, "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best = state["best"]
        self.waiting = state.get("waiting")

    def eval_end(self, state: Any, logger: Any) -> None:
        """Keep the model when its validation loss is the lowest so far, and the last one (measured after fit_end).

        Raises:
            WorkError: when the validation loss is NaN or infinite.
        """
        measured = validation_losses(state)
        loss, step = selection_loss(self.run, measured), int(state.timestamp.batch)
        if not math.isfinite(loss):
            raise WorkError(
                f"the validation loss ({model_kind(self.run)}) is {loss} after step {step}: stopped, and nothing is "
                f"named best; {last_good(self.run.folder, step)}. Lower the learning rate, or look at the validation "
                "pool"
            )
        last = step >= self.run.end
        if loss < self.best:
            self.best = loss
            self.waiting = measured
        if last:
            self._save_best(state)
            self._save(state, "final", measured)

    def after_train_batch(self, state: Any, logger: Any) -> None:
        """Name the model best that the last evaluation measured; algorithms, which check the gradient, come first."""
        self._save_best(state)
        self._save_snapshot(state)

    def _save_snapshot(self, state: Any) -> None:
        step = int(state.timestamp.batch)
        if step in self.snapshots:
            self._save(state, f"{SNAPSHOTS}/{self.snapshots.index(step) + 1}", {})

    def _save_best(self, state: Any) -> None:
        if self.waiting is not None:
            self._save(state, "best", self.waiting)
            self.waiting = None

    def fit_end(self, state: Any, logger: Any) -> None:
        """Keep the last model where nothing is measured, and as the last snapshot."""
        self._save_snapshot(state)
        if self.run.validation is None:
            self._save(state, "final", {})

    def _save(self, state: Any, name: str, measured: dict[str, float]) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        with self.average.in_place(state.model) if self.average else contextlib.nullcontext():
            weights = get_model_state_dict(state.model, options=options)
            kept = {k.rpartition("transformer.")[2]: v for k, v in weights.items() if isinstance(v, Tensor)}
            kept = {k: v.clone() for k, v in kept.items()} if self.average else kept
        if dist.get_global_rank() == 0:
            card = model_card(self.run, state, measured)
            save_model(os.path.join(self.folder, name), kept, card, self.tokenizer)


def validation_losses(state: Any) -> dict[str, float]:
    """Return the validation losses as last measured, by kind; NaN (an error that cannot be known) is left out.

    Losses of halves of the pool stand in the metrics alone.
    """
    metrics = state.eval_metrics.get("validation", {})
    values = {k: float(v.compute()) for k, v in metrics.items() if not is_half(k)}
    return {k: v for k, v in values.items() if not math.isnan(v)}


def model_card(run: Run, state: Any, validation: dict[str, float]) -> ModelCard:
    """Return what is to be known about the model as it is now."""
    manifest = run.artifact.manifest
    return ModelCard(
        shape=run.shape,
        objective=run.config.objective.figures(),
        kind=model_kind(run),
        tokenizer=manifest.tokenizer.model_dump(),
        seq_len=manifest.seq_len,
        training={
            "plan": run.plan.to_dict(),
            "seed": run.config.seed,
            "steps": int(state.timestamp.batch),
            "tokens": int(state.timestamp.token),
            "validation": validation,
            "validation_data": run.validation.manifest.fingerprint if run.validation else None,
        },
    )
