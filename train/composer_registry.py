"""Composer's own callbacks and loggers by the names that llm-foundry gives them."""

import importlib
import inspect
from typing import Any

from ..common.errors import RequestError

KNOWN: dict[str, dict[str, str]] = {
    "callbacks": {
        "activation_monitor": "composer.callbacks:ActivationMonitor",
        "early_stopper": "composer.callbacks:EarlyStopper",
        "lr_monitor": "composer.callbacks:LRMonitor",
        "memory_monitor": "composer.callbacks:MemoryMonitor",
        "memory_snapshot": "composer.callbacks:MemorySnapshot",
        "optimizer_monitor": "composer.callbacks:OptimizerMonitor",
        "runtime_estimator": "composer.callbacks:RuntimeEstimator",
        "system_metrics_monitor": "composer.callbacks:SystemMetricsMonitor",
    },
    "loggers": {
        "file": "composer.loggers:FileLogger",
        "inmemory": "composer.loggers:InMemoryLogger",
        "mlflow": "composer.loggers:MLFlowLogger",
        "tensorboard": "composer.loggers:TensorboardLogger",
        "wandb": "epochal.train.loggers:WandB",
    },
}

EXTRAS = ("mlflow", "tensorboard", "wandb")
"""Loggers whose package is an extra of that name."""


def build(sections: dict[str, dict[str, Any] | None], where: str) -> list[Any]:
    """Return the callbacks or loggers (`where`) that `sections` names, made with the keywords it gives.

    Raises:
        RequestError: for an unknown name or keyword, or a missing package.
    """
    return [_make(name, keywords or {}, where) for name, keywords in sections.items()]


def _make(name: str, keywords: dict[str, Any], where: str) -> Any:
    target = KNOWN[where].get(name)
    if target is None:
        raise RequestError(f"{where}.{name}: known {where} are {', '.join(KNOWN[where])}")
    module, _, attribute = target.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    accepted = inspect.signature(cls).parameters
    unknown = [k for k in keywords if k not in accepted and not any(p.kind == p.VAR_KEYWORD for p in accepted.values())]
    if unknown:
        raise RequestError(f"{where}.{name}: unknown key '{unknown[0]}': known are {', '.join(accepted)}")
    try:
        return cls(**keywords)
    except ImportError as error:
        mend = f"pip install 'epochal[{name}]'" if name in EXTRAS else str(error)
        raise RequestError(f"{where}.{name} needs a package that is not installed: {mend}") from None
    except (TypeError, ValueError) as error:
        raise RequestError(f"{where}.{name}: {error}") from None
