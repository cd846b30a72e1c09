"""A run, from its configuration to its result: everything that Composer is given is made here."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from composer import Callback, Evaluator, Event, Trainer
from composer.utils import dist, get_device
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ..common.cli import say
from ..common.errors import FULL, EpochalError, RequestError, WorkError, one_line, system_line
from ..common.hashing import digest
from ..shards.loader.dataset import RepeatedDataset
from ..shards.loader.workers import check_workers
from . import composer_registry
from .callbacks import ClipGradient, Exports, Finite, ReceiptCallback, RestoreRandomness, RunMetrics
from .checkpoint import load_model
from .config import TrainConfig
from .data import Collate, ValidationSet, data_spec
from .eval.callback import TaskAccuracy
from .exact.callback import ExactLikelihood
from .loggers import DescribeRun, JsonlLogger, PublishRun, StepProgress
from .model.compiled import compile_for_training
from .model.composer import LanguageModel, build
from .model.flops.formulas import peak_flops, training_flops_per_token
from .model.kernels import attention, products
from .model.penalties import Penalties
from .model.transformer import config_dict
from .optimization.early_stop import PatienceEnded, go_back, read_decision
from .optimization.ema import AverageWeights
from .optimization.of_run import SaveInterval, average_of, cooldown_of, optimization_callbacks
from .optimization.optimizer import build_optimizer
from .run import (
    Run,
    first_difference,
    flops_shares,
    prepare,
    run_name,
    schedule,
    validation_kinds,
    validation_objective,
)
from .run_folder import LATEST_NAME, METRICS_NAME, RunFolder
from .run_state.claim import claim, finished, service_identity, write_result
from .run_state.lock import only_writer
from .run_state.outcome import beginning, going_back, result
from .saved.composer import make_trainer
from .service_callback import ServiceReports, send_rest

CHECKPOINT = "ba{batch}-rank{rank}.pt"


def train_loader(run: Run) -> DataLoader:
    """Return this rank's loader: one batch per step, from the first position to the last."""
    section = run.config.train_loader
    data = section.dataset
    dataset = RepeatedDataset(
        [artifact.root for artifact in run.artifacts],
        run.plan,
        global_batch=run.config.global_train_batch_size,
        batched=True,  # a rank that has no sample in the last batch still takes part in its step
        cache=data.cache,
        cache_limit=data.cache_limit,
        verify=data.verify,
    )
    return dataset.loader(
        num_workers=section.num_workers,
        collate_fn=Collate(
            run.objective,
            rows=run.config.global_train_batch_size // dist.get_world_size(),
            dropout_seed=run.config.seed if any(run.shape.rates) else None,
        ),
        prefetch_factor=section.prefetch_factor if section.num_workers else None,
        pin_memory=run.device == "gpu" if section.pin_memory is None else section.pin_memory,
    )


def evaluator(run: Run) -> Evaluator | None:
    """Return Composer's evaluator of the validation pool, or None."""
    section = run.config.eval_loader
    if section is None or run.validation is None:
        return None
    kinds = validation_kinds(run)
    noise_samples = section.noise_samples if kinds != ("nll",) else 0
    draws = noise_samples + ("nll" in kinds)
    size = max(1, run.config.device_eval_batch_size // draws)
    ranks = dist.get_global_rank(), dist.get_world_size()
    dataset = ValidationSet(run.validation, section.dataset.samples, size, *ranks)
    collate = Collate(validation_objective(run, noise_samples, section.noise_seed), draws)
    check_workers(section.num_workers, "eval_loader.num_workers")
    loader = DataLoader(dataset, batch_size=None, collate_fn=collate, num_workers=section.num_workers)
    return Evaluator(
        label="validation",
        dataloader=data_spec(loader, draws),
        eval_interval=f"{run.span(run.config.eval_interval, 'eval_interval')}ba",
        device_eval_microbatch_size=size,
    )


def build_trainer(run: Run, reports: ServiceReports | None = None) -> Trainer:
    """Return Composer's trainer for `run`, a checkpoint loaded where there is one.

    Args:
        reports: registers the run with the service, before anything is written.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    config = run.config
    _join_ranks(run)
    folder = run.folder.local if run.folder else None
    if run.folder and run.folder.remote:
        _on_ranks(dist.get_local_rank() == 0, run.folder.fetch)
    if reports:
        reports.start()
    if run.folder:
        if run.cooldown:
            _on_ranks(dist.get_global_rank() == 0, functools.partial(go_back, run.folder.local))
        _on_ranks(dist.get_global_rank() == 0, functools.partial(claim, run, run.folder))
    penalties = Penalties(config.objective.label_smoothing, config.objective.z_loss)
    device, kind, parallel = config.model.init_device, run.objective.kind, config.parallelism_config
    model = build(run.shape, kind, config.seed, device, penalties, validation_kinds(run))
    if config.init_from:
        _take_weights(model, config.init_from)
    model.transformer.recompute_activations(config.activation_checkpointing)
    products.arrange(model.transformer, run.precision, bool(parallel), dist.get_world_size())
    if config.compile_config is not None:
        micro_batch = (_microbatch(run), run.plan.seq_len)
        compile_for_training(model.transformer, config.compile_config, micro_batch, run.device, run.precision)
    optimizer = build_optimizer(model, config.optimizer, fused=run.device == "gpu")
    average = average_of(run)
    restore = RestoreRandomness()
    trainer = make_trainer(
        model=model,
        train_dataloader=data_spec(train_loader(run), pin=run.device == "gpu"),
        eval_dataloader=evaluator(run),
        spin_dataloaders=False,
        max_duration=f"{run.end}ba",
        optimizers=optimizer,
        schedulers=LambdaLR(optimizer, schedule(run)),
        step_schedulers_every_batch=True,
        algorithms=[_clipping(run)],
        callbacks=[
            *_callbacks(run, model, folder, reports, average),
            *optimization_callbacks(run, optimizer),
            restore,
            *([DescribeRun(run)] if config.loggers else []),
            *composer_registry.build(config.callbacks, "callbacks"),
            *([average] if average else []),  # the last: the others look at what it measures
        ],
        loggers=[
            *([JsonlLogger(os.path.join(folder, METRICS_NAME))] if folder else []),
            *([StepProgress(run_name(config), run.end)] if config.progress_bar else []),
            *composer_registry.build(config.loggers, "loggers"),
            *([PublishRun(run.folder)] if run.folder and run.folder.remote else []),
        ],
        run_name=run_name(config),
        progress_bar=False,  # its two bars redraw over each other, on no terminal too
        log_to_console=config.log_to_console,
        console_log_interval=f"{run.span(config.console_log_interval, 'console_log_interval')}ba",
        python_log_level=config.python_log_level,
        save_folder=folder,
        save_filename=CHECKPOINT,
        save_latest_filename=LATEST_NAME.replace("rank0", "rank{rank}"),
        save_interval=SaveInterval(run),
        save_num_checkpoints_to_keep=config.save_num_checkpoints_to_keep,
        autoresume=config.autoresume,
        load_path=config.load_path,
        load_progress_bar=False,
        parallelism_config=parallel.model_dump(exclude_none=True) if parallel else None,
        device=run.device,
        precision=run.autocast,
        device_train_microbatch_size=_microbatch(run),
        seed=config.seed,
        deterministic_mode=config.deterministic,
        dist_timeout=config.dist_timeout,
    )
    restore.saved = trainer._rng_state
    return trainer


def _take_weights(model: LanguageModel, folder: str) -> None:
    """Give `model` the weights of the saved model in `folder`. Raises RequestError when they do not fit."""
    saved, card = load_model(folder)
    changed = first_difference(config_dict(card.shape), config_dict(model.transformer.config))
    if changed:
        raise RequestError(f"init_from {folder}: the model there has another shape: {changed}")
    model.transformer.load_state_dict(saved.state_dict())


def _callbacks(
    run: Run,
    model: LanguageModel,
    folder: str | None,
    reports: ServiceReports | None,
    average: AverageWeights | None,
) -> list[Callback]:
    per_token = training_flops_per_token(run.shape, run.plan.seq_len, *flops_shares(run))
    peak = peak_flops(torch.device("cuda")) if run.device == "gpu" else None
    receipt = reports.receipts if reports else ReceiptCallback(run.plan, run.identity, folder, run.fed)
    callbacks: list[Callback] = [receipt, RunMetrics(run.plan, per_token, peak), *([reports] if reports else [])]
    due = [run.span(run.config.eval_interval, "eval_interval")] if run.validation else []
    due += [run.span(run.config.save_interval, "save_interval")] if folder else []
    callbacks.append(Finite(tuple(due), run.end, run.folder))
    if run.config.eval_tasks and run.validation:
        both = len(validation_kinds(run)) > 1
        callbacks.append(TaskAccuracy(run.config.eval_tasks, run.validation, both))
    loader = run.config.eval_loader
    if loader and loader.exact and run.validation and not run.shape.exact:
        measured = loader.exact, run.validation, loader.dataset.samples
        callbacks.append(ExactLikelihood(*measured, due[0], run.end, run.shape.document_mask))
    return callbacks + ([Exports(run, folder, average)] if folder else [])


def _service_reports(run: Run) -> ServiceReports | None:
    """Return what reports the run to the service that its configuration names, if any."""
    if run.config.service is None:
        return None
    details = {
        "objective": run.config.objective.name,
        "subset": " + ".join(artifact.manifest.name for artifact in run.artifacts),
        "model": config_dict(run.shape),
        "identity": digest(service_identity(run)),
    }
    batch, folder = run.config.global_train_batch_size, run.folder.local if run.folder else None
    claim = {"name": run_name(run.config), "plan": run.plan.to_dict(), "batch_samples": batch, "details": details}
    receipts = ReceiptCallback(run.plan, run.identity, folder)
    return ServiceReports(run.config.service, claim, receipts, folder, LATEST_NAME)


def _clipping(run: Run) -> ClipGradient:
    section = run.config.algorithms.gradient_clipping
    threshold = section.clipping_threshold if section else None
    return ClipGradient(threshold, run.config.global_train_batch_size, run.plan.positions, run.folder)


def _microbatch(run: Run) -> int | str:
    size = run.config.device_train_microbatch_size
    per_rank = run.config.global_train_batch_size // dist.get_world_size()
    if size == "auto":
        return size if run.device == "gpu" else per_rank
    return min(int(size), per_rank)


def _join_ranks(run: Run) -> None:
    """Have the ranks find each other. Raises WorkError when they were given different runs, and would wait for ever."""
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(run.device), run.config.dist_timeout)
    mine = digest(run.identity)
    if len(set(dist.all_gather_object(mine))) > 1:
        raise WorkError(f"rank {dist.get_global_rank()} disagrees about the run: all ranks need the same configuration")


def _on_ranks(mine: bool, action: Callable[[], object]) -> None:
    """Do `action` on the ranks where `mine`; when it fails on one, raise there and everywhere."""
    problem = None
    if mine:
        try:
            action()
        except EpochalError as error:
            problem = error
    for error_of_rank in dist.all_gather_object(problem):
        if error_of_rank:
            raise error_of_rank


@contextlib.contextmanager
def _only_writer(folder: RunFolder | None) -> Iterator[None]:
    """Hold the run's folder while the body trains in it; rank 0 does so for all."""
    with contextlib.ExitStack() as held:
        if folder is not None:
            mine = dist.get_global_rank() == 0
            _on_ranks(mine, lambda: held.enter_context(only_writer(folder)))
        yield


@contextlib.contextmanager
def _plain_errors(folder: RunFolder | None) -> Iterator[None]:
    """Turn what Composer and torch raise for a user's mistakes or a full disk into our own one-line errors."""
    try:
        yield
    except EpochalError:
        raise
    except OSError as error:
        where = folder.local if folder and error.errno in FULL else ""
        said = system_line(error, where) if error.errno else one_line(error)
        raise WorkError(f"{said}; {_goes_on(folder)}") from error
    except RuntimeError as error:
        cause = next((e for e in _chain(error) if isinstance(e, EpochalError)), None)
        if cause is not None:
            raise cause from None
        if "PytorchStreamWriter failed" in str(error) or "unexpected pos" in str(error):
            raise WorkError(
                f"a checkpoint could not be written to {folder.local if folder else 'the disk'} "
                f"(is there no space left?): {_goes_on(folder)}"
            ) from error
        raise


def _goes_on(folder: RunFolder | None) -> str:
    """Say from where a run that is started again goes on."""
    step = folder.steps_saved() if folder else 0
    return f"run again to go on from step {step}" if step else "there is no checkpoint, so a run starts anew"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a run to its end (from its last checkpoint, where autoresume finds one) and return its result.

    The result has JSON values: name, steps, tokens, passes, parameters, train and validation loss with their kinds,
    receipt (`valid`, digest), folder; of a run with `eval_loader.exact` that likelihood too, apart from the bound.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    warnings.filterwarnings("ignore", message=".*No `EventCheckpoint`.*")
    warnings.filterwarnings("ignore", message=".* is not in the state_dict")  # a checkpoint of an earlier version
    run = prepare(config)
    outcome = finished(run)
    if outcome is not None:
        if config.service and run.folder and dist.get_global_rank() == 0:
            _send_rest(run.folder)
        return outcome
    _join_ranks(run)
    reports = _service_reports(run)
    with _plain_errors(run.folder), _only_writer(run.folder):
        run = _cooling_down(run)
        try:
            outcome = _fit(run, reports)
        except PatienceEnded as ended:
            if run.folder and dist.get_global_rank() == 0:
                ended.decision.write(run.folder.local)
                say(going_back(run, ended.decision))
            dist.barrier()
            run = _cooling_down(run, going_on=True)
            outcome = _fit(run, reports)
        if run.folder and dist.get_global_rank() == 0:
            write_result(run, run.folder, outcome)
            run.folder.publish()
    return outcome


def _fit(run: Run, reports: ServiceReports | None) -> dict[str, Any]:
    """Train to the end and return the result; PatienceEnded where the run is to go back to its best point."""
    with reports or contextlib.nullcontext(), attention.backend(run.config.attention_backend):
        trainer = build_trainer(run, reports)
        if dist.get_global_rank() == 0:
            say(beginning(run, trainer))
        try:
            if int(trainer.state.timestamp.batch) < run.end:
                trainer.fit()
            else:
                _finish(run, trainer)
            return result(run, trainer)
        finally:
            trainer.close()


def _cooling_down(run: Run, going_on: bool = False) -> Run:
    """Return the run as it ends where it was decided that it stops early, else `run`."""
    going_on = going_on or run.config.autoresume
    if run.folder is None or run.config.algorithms.early_stop is None or not going_on:
        return run
    decision = read_decision(run.folder.local)
    if decision is None:
        return run
    config = run.config.model_copy(update={"autoresume": True, "load_path": None})
    return dataclasses.replace(run, config=config, cooldown=cooldown_of(run, decision))


def _send_rest(folder: RunFolder) -> None:
    """Send the service what a finished run could not."""
    with only_writer(folder):
        folder.fetch()
        send_rest(folder.local)
        folder.publish()


def _finish(run: Run, trainer: Trainer) -> None:
    """Do what is left of a run that was killed after its last step."""
    for logger in trainer.logger.destinations:
        if isinstance(logger, JsonlLogger):
            logger.fit_start(trainer.state, trainer.logger)
    if run.validation is not None:
        trainer.eval()
    trainer.engine.run_event(Event.FIT_END)
