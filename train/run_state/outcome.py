"""What a run says of itself at its beginning, and what it comes to."""

from typing import Any

from composer import Trainer

from ...common.units import format_count, round_count
from ..callbacks import ReceiptCallback, validation_losses
from ..exact.callback import ExactLikelihood
from ..model.transformer import count_parameters
from ..optimization.early_stop import Decision, read_decision
from ..optimization.of_run import cooldown_of
from ..run import Run, run_name
from ..run_folder import read_metrics, train_losses

TYPES = {
    "ar": "autoregressive",
    "mdm": "masked diffusion",
    "dual": "autoregressive and masked diffusion",
    "block": "block diffusion",
}
"""The types of model in words."""


def beginning(run: Run, trainer: Trainer) -> str:
    """Return what is trained on what, how long, and where it is saved."""
    kind = TYPES[run.config.objective.name]
    weights = round_count(count_parameters(trainer._original_model))
    names = ", ".join(artifact.manifest.name for artifact in run.artifacts)
    unique = format_count(run.plan.unique_tokens)
    passes = run.fed.tokens / run.plan.unique_tokens
    done = int(trainer.state.timestamp.batch)
    where = (
        f"saved in {run.config.save_folder}" if run.config.save_folder else "nothing of it is saved (no save_folder)"
    )
    return (
        f"{run_name(run.config)}: {kind}, {weights} weights, on {names} ({unique} unique tokens, {passes:.2f} passes): "
        f"{run.end:,} steps of {run.batch_tokens:,} tokens"
        + (f", from step {done:,} on" if done else "")
        + f"; {run.device}, {run.precision}; {where}"
    )


def going_back(run: Run, decision: Decision) -> str:
    """Return that the run stops early, and where it goes on from."""
    return (
        f"{run_name(run.config)}: no evaluation since step {decision.best_step:,} ({decision.best_loss:.4f}) was "
        f"better: going back there, and cooling down over {cooldown_of(run, decision).steps:,} steps"
    )


def result(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Return what a run came to; see `train`."""
    state = trainer.state
    receipt = next(c for c in state.callbacks if isinstance(c, ReceiptCallback)).whole()
    exact = next((c.last for c in state.callbacks if isinstance(c, ExactLikelihood)), None)
    folder = run.config.save_folder
    return {
        "name": run_name(run.config),
        "objective": run.config.objective.name,
        "steps": int(state.timestamp.batch),
        "tokens": int(state.timestamp.token),
        "passes": int(state.timestamp.token) / run.plan.unique_tokens,
        "unique_tokens": run.plan.unique_tokens,
        "parameters": count_parameters(trainer._original_model),
        "train": _train_losses(run, state),
        "validation": validation_losses(state),
        "receipt": {"valid": receipt.check() is None, "digest": receipt.digest, "samples": receipt.count},
        "folder": folder,
    } | _only_of_some(run, exact)


def _only_of_some(run: Run, exact: dict[str, Any] | None) -> dict[str, Any]:
    """Return what only some runs' results have."""
    decision = read_decision(run.folder.local) if run.cooldown and run.folder else None
    stopped = {"best_step": decision.best_step, "stopped_at": decision.later[-1][0]} if decision else None
    return {k: v for k, v in {"exact": exact, "early_stop": stopped}.items() if v}


def _train_losses(run: Run, state: Any) -> dict[str, float]:
    """Return the losses of the last step by kind; where this process took none, those that the metrics have."""
    values = state.total_loss_dict
    if not values and run.folder:
        rows = read_metrics(run.folder.local)
        values = next((row for row in reversed(rows) if train_losses(row)), {})
    return train_losses(values or {})
