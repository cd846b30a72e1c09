"""Training: models, objectives, evaluation. `epochal.train(...)` trains; the modules are imported as of any package."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig


def train(config: "str | TrainConfig", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train the run that `config` describes to its end and return its result; see `trainer.train`.

    Args:
        config: a YAML file, the name of a shipped run (`tiny-ar`, ...) or a `TrainConfig`.
        overrides: `key=value` settings for a file or a shipped run.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    from ..common.errors import RequestError
    from .config import load_config
    from .trainer import train as train_run

    if isinstance(config, str):
        config = load_config(config, tuple(overrides))
    elif overrides:
        raise RequestError("overrides change a file or a shipped run: change the TrainConfig itself instead")
    return train_run(config)


class _Callable(ModuleType):
    def __call__(self, config: "str | TrainConfig", overrides: Sequence[str] = ()) -> dict[str, Any]:
        return train(config, overrides)


# Importing any module below binds `epochal.train` to this package, whatever `epochal/__init__.py` put there before; so
# the package itself must be what users call.
sys.modules[__name__].__class__ = _Callable
