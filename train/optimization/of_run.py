"""What a run's configuration asks for around its optimizer, as Composer's callbacks."""

from functools import partial

import torch
from composer import Callback
from composer.core import Event, State

from ..run import Cooldown, Run, selection_loss
from .early_stop import Decision, EarlyStop
from .ema import AverageWeights
from .optimizer import WeightDecaySchedule
from .schedules import decay_over_time


def average_of(run: Run) -> AverageWeights | None:
    """Return what averages the weights, if they are to be."""
    ema = run.config.algorithms.ema
    return AverageWeights(run.span(ema.half_life, "algorithms.ema.half_life")) if ema else None


def optimization_callbacks(run: Run, optimizer: torch.optim.Optimizer) -> list[Callback]:
    """Return what has weight decay follow its schedule, and what stops the run early."""
    callbacks: list[Callback] = []
    o, stop = run.config.optimizer, run.config.algorithms.early_stop
    if o.weight_decay_schedule != "constant":
        shape, final = o.weight_decay_schedule, o.weight_decay_final
        steps = run.planned_steps
        callbacks.append(
            WeightDecaySchedule(optimizer, lambda step: decay_over_time(run.planned_step(step), steps, shape, final))
        )
    if stop and run.folder and run.cooldown is None:
        callbacks.append(EarlyStop(run.folder, partial(selection_loss, run), stop.patience, run.steps))
    return callbacks


def cooldown_of(run: Run, decision: Decision) -> Cooldown:
    """Return how the run ends, from its best point on."""
    stop = run.config.algorithms.early_stop
    assert stop is not None, "nothing is decided without it"
    return Cooldown(decision.best_step, run.span(stop.cooldown, "algorithms.early_stop.cooldown"), stop.alpha_f)


class SaveInterval:
    """Says when a checkpoint is saved: every `every` steps, at the end, and where a run may stop early at each
    evaluation, the best of which it goes back to."""

    def __init__(self, run: Run) -> None:
        self.due = [run.span(run.config.save_interval, "save_interval")]
        if run.config.algorithms.early_stop:
            self.due.append(run.span(run.config.eval_interval, "eval_interval"))
        self.end = run.end

    def __call__(self, state: State, event: Event) -> bool:
        """Return whether it is due."""
        step = int(state.timestamp.batch)
        return event == Event.BATCH_CHECKPOINT and (step >= self.end or any(step % every == 0 for every in self.due))
