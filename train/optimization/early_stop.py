"""Early stop: when validation no longer improves, the run goes on from its best point and cools down from there.

A run that has waited long enough goes back to the checkpoint of its best evaluation, as if it had been killed right
after it, and takes `cooldown` more steps over which the rate falls. So the model that it ends with has been fed exactly
the positions from 0 to its end, once each, in the plan's order; the steps between the best point and the stop are no
part of it, nor of its receipt and metrics. What was decided lies in `early_stop.json`, with the evaluations that led to
it: a run that is killed at any moment goes on in the same way.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from composer import Callback
from composer.core import State
from composer.loggers import Logger
from composer.utils import dist

from ...common import storage
from ...common.errors import WorkError
from ...common.json_text import strict_json
from ...common.publish import FileInfo
from ..callbacks import validation_losses
from ..run_folder import LATEST_NAME, RunFolder, step_of_checkpoint
from ..saved import hashes

DECISION_NAME, KEPT_NAME = "early_stop.json", "early_stop.pt"


@dataclass(frozen=True)
class Decision:
    """That a run stops, and what led to it.

    Attributes:
        best_step: steps that the best checkpoint has taken.
        best_loss: its validation loss.
        later: (step, loss) of the evaluations after it, in order.
        gone_back: whether the folder holds the best checkpoint as its newest: the run cools down.
    """

    best_step: int
    best_loss: float
    later: tuple[tuple[int, float], ...]
    gone_back: bool = False

    def write(self, folder: str) -> None:
        """Write it to the folder of the run."""
        storage.write_atomic(os.path.join(folder, DECISION_NAME), (json.dumps(asdict(self), indent=2) + "\n").encode())


class PatienceEnded(Exception):  # noqa: N818  # it is no error: the run goes on, from its best point
    """Validation has not improved for long enough."""

    def __init__(self, decision: Decision) -> None:
        super().__init__("validation no longer improves")
        self.decision = decision


class EarlyStop(Callback):
    """Keeps the checkpoint of the best evaluation, and ends the training when enough others have followed it.

    A checkpoint is kept when the step after it had a finite gradient. There has to be one of every evaluation.

    Attributes:
        chosen_by: makes of the validation losses by kind the one that is to fall.
        patience: evaluations that may follow the best one.
        steps: of the whole run: its last evaluation stops nothing.
    """

    def __init__(
        self, folder: RunFolder, chosen_by: Callable[[Mapping[str, float]], float], patience: int, steps: int
    ) -> None:
        self.folder, self.chosen_by, self.patience, self.steps = folder.local, chosen_by, patience, steps
        self.best, self.best_step, self.to_keep = math.inf, 0, False
        self.later: list[tuple[int, float]] = []

    def eval_end(self, state: State, logger: Logger) -> None:
        """Look at the loss, which all ranks have.

        Raises:
            PatienceEnded: when it is time.
        """
        step, loss = int(state.timestamp.batch), self.chosen_by(validation_losses(state))
        if loss < self.best:
            self.best, self.best_step, self.to_keep, self.later = loss, step, True, []
            return
        self.later.append((step, loss))
        if len(self.later) >= self.patience and step < self.steps:
            raise PatienceEnded(Decision(self.best_step, self.best, tuple(self.later)))

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Keep the best checkpoint by another name, which nothing removes."""
        if self.to_keep and dist.get_global_rank() == 0:
            part = os.path.join(self.folder, f".{KEPT_NAME}.partial")
            Path(part).unlink(missing_ok=True)
            _link(os.path.join(self.folder, checkpoint_name(self.best_step)), part)
            os.replace(part, os.path.join(self.folder, KEPT_NAME))
            hashes.add(self.folder, KEPT_NAME)
        self.to_keep = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss, where it was measured, and what came after."""
        later = [list(pair) for pair in self.later]
        return {"best": self.best, "best_step": self.best_step, "to_keep": self.to_keep, "later": later}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best, self.best_step, self.to_keep = state["best"], state["best_step"], state["to_keep"]
        self.later = [(step, loss) for step, loss in state["later"]]


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint of `step` steps."""
    return f"ba{step}-rank0.pt"


def read_decision(folder: str) -> Decision | None:
    """Return what lies in the folder of a run, None where nothing was decided.

    Raises:
        WorkError: when it is damaged.
    """
    path = os.path.join(folder, DECISION_NAME)
    try:
        body = strict_json(storage.read_bytes(path, may_lack=True))
        later = tuple((int(step), float(loss)) for step, loss in body["later"])
        return Decision(int(body["best_step"]), float(body["best_loss"]), later, bool(body["gone_back"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise WorkError(f"{path} is damaged: restore it, or choose another save_folder") from None


def go_back(folder: str) -> None:
    """Make the best checkpoint the newest of the folder, where that was decided and is not done.

    Raises:
        WorkError: when the best checkpoint is gone or damaged.
    """
    decision = read_decision(folder)
    if decision is None or decision.gone_back:
        return
    kept, name = os.path.join(folder, KEPT_NAME), checkpoint_name(decision.best_step)
    try:
        hashes.check(folder, KEPT_NAME, FileInfo.at(kept))
    except FileNotFoundError:
        raise WorkError(f"{kept}, the best checkpoint, is gone: restore it, or choose another save_folder") from None
    for path in Path(folder).glob("ba*-rank*.pt"):
        if step_of_checkpoint(path.name) > decision.best_step:
            path.unlink()
    if not os.path.exists(os.path.join(folder, name)):
        _link(kept, os.path.join(folder, name))
    hashes.add(folder, name)
    latest = Path(folder, LATEST_NAME)
    latest.unlink(missing_ok=True)
    latest.symlink_to(name)
    replace(decision, gone_back=True).write(folder)
    os.unlink(kept)


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has no such thing."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    storage.copy_file(source, target)
