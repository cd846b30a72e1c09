"""What is said when a compiled part of the package is missing: where it was not compiled, or before it was changed."""

import contextlib
from collections.abc import Iterator

from ..common.errors import WorkError


class NotCompiledError(WorkError, ImportError):
    """A compiled part is missing. Also an ImportError, which the process that tasks fork from ignores while it
    preloads, so that a task reports it."""


@contextlib.contextmanager
def compiled_part() -> Iterator[None]:
    """Raise NotCompiledError when what the body imports is missing."""
    try:
        yield
    except ImportError as error:
        raise NotCompiledError(f"epochal's compiled part is missing: install epochal again ({error})") from None
