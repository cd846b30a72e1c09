"""Composer for our commands, imported without what it and what it imports take along where they find it."""

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LEFT_OUT = ("matplotlib", "peft", "scipy", "sklearn")
"""Plots and metrics of torchmetrics, adapters of Composer's Hugging Face models, assisted generation of transformers:
nothing here uses them, and they are half of the time of the import and a fifth of the memory of a process that trains.
All work without them, as from a wheelhouse (wheelhouse.txt)."""


def import_composer() -> None:
    """Import Composer and streaming as if `LEFT_OUT` were not installed; these can be imported as ever afterwards.

    It is for processes that run a command of ours: in those of others, Composer may be wanted whole.
    """
    if "composer" not in sys.modules:
        with _hidden([name for name in LEFT_OUT if name not in sys.modules]):
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
