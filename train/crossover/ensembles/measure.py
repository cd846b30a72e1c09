"""Measuring the ensembles of a grid on its validation samples, as the trainer measures each of their members."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from composer.core.precision import get_precision_context
from composer.utils import get_device

from ....common import storage
from ....common.errors import EpochalError, WorkError
from ....common.progress import Progress
from ...checkpoint import open_checkpoint
from ...eval.evaluate import ensemble_of
from ...model.composer import LanguageModel
from ...model.transformer import Transformer
from ...objective.halves import HALVES, of_half
from ...run import Run, prepare, validation_kinds
from ...run_state.receipt import read_receipt
from ...trainer import evaluator
from ..grid import GridPlan
from ..launch import carve_missing, locked
from .members import FORMAT_VERSION, EnsembleSpec, Member, Record, members, path_of, planned, read

Tick = Callable[[int], None]


@dataclass(frozen=True)
class EnsembleFailure:
    """An ensemble that could not be measured, and why."""

    spec: EnsembleSpec
    reason: str


def measure_missing(plan: GridPlan, quiet: bool = False) -> list[EnsembleFailure]:
    """Measure the ensembles whose runs are finished and that have no file yet; return those that failed.

    Raises:
        RequestError: when others work on this grid, or its pool is gone.
        WorkError: for a damaged file of another ensemble.
    """
    specs = [spec for spec in planned(plan) if spec.finished]
    if not specs:
        return []
    failures = []
    with locked(plan.grid.out), _threads(plan.grid.threads):
        missing = [spec for spec in specs if read(spec) is None]
        carve_missing(plan, [spec.first for spec in missing])
        for spec in missing:
            try:
                _measure_to_file(spec, quiet)
            except EpochalError as error:
                failures.append(EnsembleFailure(spec, str(error)))
    return failures


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Compute with as many threads as the grid's runs: the last bits of sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure_to_file(spec: EnsembleSpec, quiet: bool) -> None:
    of = members(spec)
    path = path_of(spec, of)
    record = measure(spec, of, quiet)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    storage.write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def measure(spec: EnsembleSpec, of: Sequence[Member], quiet: bool = True) -> Record:
    """Return what an ensemble measures: JSON values, which depend on its models and their validation alone.

    Of it `kind`, `loss` (nats per token of the whole pool), `loss_se` (what the noise of a bound leaves, None where
    that is not known), `even` and `odd` (the loss on each half). Of every member run, seed, fingerprint, receipt, where
    it was saved, and the same losses of it alone, as its run measured them (halves None where it did not).

    Raises:
        WorkError: for a model or a receipt that does not hold, and for a loss that is no number.
    """
    run = prepare(spec.first.config)
    models = [open_checkpoint(member.folder, "cuda" if run.device == "gpu" else "cpu") for member in of]
    ensemble = ensemble_of(models)
    assert run.config.eval_loader is not None, "the grid names a validation pool"
    assert run.validation is not None, "the grid names a validation pool"
    samples = min(run.config.eval_loader.dataset.samples or math.inf, run.validation.manifest.samples)
    with Progress(f"{spec.stem} loss", int(samples), "samples", quiet) as progress:
        found = validation_losses(run, ensemble.model, progress.advance)
    (kind,) = validation_kinds(run)
    figures = {"loss": found[kind]} | {half: found[of_half(kind, half)] for half in HALVES}
    if not all(map(math.isfinite, figures.values())):
        raise WorkError(f"the ensemble has a loss that is no number ({figures['loss']}): look at its members' models")
    error = found.get(f"{kind}_se", 0.0)
    return {
        "format_version": FORMAT_VERSION,
        "unique_tokens": spec.first.unique_tokens,
        "objective": spec.first.objective,
        "replicate": spec.first.replicate,
        "settings": spec.first.settings,
        "fingerprint": ensemble.fingerprint,
        "validation": run.validation.manifest.fingerprint,
        "kind": kind,
        "loss_se": None if math.isnan(error) else error,
        **figures,
        "members": [_described(member, model.fingerprint) for member, model in zip(of, models, strict=True)],
    }


def _described(member: Member, fingerprint: str) -> Record:
    """Return what a record says of a member."""
    row = member.row
    return {
        "run": member.run.name,
        "seed": member.run.seed,
        "fingerprint": fingerprint,
        "receipt": read_receipt(member.run.folder).digest,
        "tokens": row["tokens"],
        "decayed": row["decayed"],
        "loss": row["loss"],
        **{half: row.get(f"{half}/loss") for half in HALVES},
    }


@torch.no_grad()
def validation_losses(run: Run, model: Transformer, tick: Tick = lambda n: None) -> dict[str, float]:
    """Return the losses of `model` on the run's validation samples by name (`nll`, `nll_even`, `nelbo_se`, ...): the
    same batches, noise, arithmetic and sums as when the trainer measures the run's own model.

    Args:
        model: of the run's type, in evaluation mode, on its device.
        tick: called with the number of samples just read.
    """
    measured, device = evaluator(run), get_device(run.device)
    assert measured is not None, "the run names a validation pool"
    whole = LanguageModel(model, run.objective.kind, measured=validation_kinds(run)).eval()
    metrics = {name: device.module_to_device(metric) for name, metric in whole.get_metrics(is_train=False).items()}
    spec: Any = measured.dataloader
    for batch in spec.dataloader:
        for part in spec.split_batch(batch, measured.device_eval_microbatch_size):
            there = device.batch_to_device(part)
            with get_precision_context(run.autocast, fp8_autocast_enabled=False):
                nats = whole.eval_forward(there)
            for metric in metrics.values():
                whole.update_metric(there, nats, metric)
            tick(len(nats))
    return {name: float(metric.compute()) for name, metric in metrics.items()}
