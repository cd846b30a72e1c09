"""Values that run code when they are unpickled: each makes a file, by which a test sees that it was run."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(path: Path) -> Call:
    """Return what makes the file at `path` when it is unpickled."""
    return Call(open, str(path), "w")


def pickled(path: Path) -> bytes:
    """Return a pickle that makes the file at `path`."""
    return pickle.dumps(touch(path))
