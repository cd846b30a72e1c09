"""Runs that are stopped on their way."""

from typing import Any

import pytest
from composer import Callback

from epochal.train.config import TrainConfig
from epochal.train.trainer import build_trainer, prepare


class StopAfter(Callback):
    """Dies after a number of steps, as a killed process would: nothing is saved."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def batch_checkpoint(self, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == self.steps:
            raise KeyboardInterrupt


def interrupt(config: TrainConfig, steps: int) -> None:
    """Run `config` and stop it after `steps` steps."""
    trainer = build_trainer(prepare(config))
    trainer.state.callbacks.append(StopAfter(steps))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer.close()
