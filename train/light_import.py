"""Composer for our commands, imported without what it and what it imports take along where they find it."""

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LEFT_OUT = ("accelerate", "matplotlib", "peft", "scipy", "sklearn", "torchao")
"""Plots and metrics of torchmetrics; adapters of Composer's Hugging Face models; transformers' large, quantised and
assisted models: nothing here uses them, and they are half of the time of the import and a fifth of the memory of a
process that trains. All work without them, as from a wheelhouse (wheelhouse.txt)."""

LATER = "mcli"
"""The client of MosaicML's platform, a tenth of what is left of the import: Composer's logger there uses it."""


def import_composer() -> None:
    """Import Composer and streaming as if `LEFT_OUT` were not installed, and `LATER` when it is used; they can be
    imported as ever afterwards.

    It is for processes that run a command of ours: in those of others, Composer may be wanted whole.
    """
    if "composer" not in sys.modules:
        with _put_off(LATER), _hidden([name for name in LEFT_OUT if name not in sys.modules]):
            import composer  # noqa: F401
            import streaming  # noqa: F401


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Have packages that were not imported yet be neither importable nor listed as installed."""
    found = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> importlib.metadata.Distribution:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    importlib.metadata.Distribution.from_name = from_name  # type: ignore[method-assign]
    sys.modules |= dict.fromkeys(names)  # type: ignore[arg-type]  # None is what Python refuses to import
    try:
        yield
    finally:
        importlib.metadata.Distribution.from_name = found  # type: ignore[method-assign]
        for name in names:
            del sys.modules[name]


@contextmanager
def _put_off(name: str) -> Iterator[None]:
    """Give who imports a package something that imports it when it is first used."""
    if name in sys.modules:
        yield
        return
    stand_in: Any = types.ModuleType(name)

    def attribute(wanted: str) -> Any:
        if sys.modules.get(name) is stand_in:  # `inspect` asks each module for its file
            raise AttributeError(wanted)
        return getattr(importlib.import_module(name), wanted)

    stand_in.__getattr__ = attribute
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
