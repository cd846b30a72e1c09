"""A moving average of the weights: kept beside them, measured and saved in their place."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from composer import Callback
from composer.core import State
from composer.loggers import Logger
from torch import Tensor, nn


class AverageWeights(Callback):
    """Keeps a = a + (1 - d) / (1 - d^t) * (w - a) after each step t, d being 2 ** (-1 / half_life): the mean of all
    weights since the first step, each half as heavy as one `half_life` steps later. The first weights, before any
    step, are not in it.

    Validation measures it, and `best/`, `final/` and snapshots have it; training goes on with the weights themselves.
    It is a function of the weights alone, float32 or wider, the same on every rank, and lies in every checkpoint.

    It has to come after every callback that looks at an evaluation: its `eval_end` puts the weights back.
    """

    def __init__(self, half_life: int) -> None:
        self.keep = 2.0 ** (-1.0 / half_life)
        self.average: dict[str, Tensor] = {}
        self.inside = False

    def batch_end(self, state: State, logger: Logger) -> None:
        """Take the step's weights in."""
        weights = _weights(state.model)
        if not self.average:
            self.average = {name: _wide(weight) for name, weight in weights.items()}
            return
        step = int(state.timestamp.batch)
        self._at_hand(weights)
        ours, theirs = list(self.average.values()), [_wide(w) for w in weights.values()]
        torch._foreach_lerp_(ours, theirs, (1.0 - self.keep) / (1.0 - self.keep**step))

    def eval_start(self, state: State, logger: Logger) -> None:
        """Put the average in the weights' place."""
        self._swap(state.model, inside=True)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Put the weights back."""
        self._swap(state.model, inside=False)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Have the average in the place of the model's weights in the body."""
        before = self.inside
        self._swap(model, inside=True)
        try:
            yield
        finally:
            self._swap(model, inside=before)

    def _swap(self, model: nn.Module, inside: bool) -> None:
        """Exchange weights and average, unless they are where they should be; nothing is lost by it."""
        if inside == self.inside or not self.average:
            return
        weights = _weights(model)
        self._at_hand(weights)
        if inside:
            self._held = {name: weight.clone() for name, weight in weights.items()}
        source = self.average if inside else self._held
        for name, weight in weights.items():
            weight.copy_(source[name])
        self.inside = inside
        if not inside:
            self._held = {}

    def _at_hand(self, weights: dict[str, Tensor]) -> None:
        """Have the average where the weights lie: a checkpoint's lies on the CPU."""
        self.average = {name: self.average[name].to(weight.device) for name, weight in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the average by the names of weights."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.average = dict(state["average"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights by their names, without what DDP puts before them."""
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
