"""Asking a store again: what fails now may work in a moment."""

import contextlib
import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import LOCAL_FAILURES, EpochalError, RequestError, WorkError, one_line, without_secrets

T = TypeVar("T")

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a store is asked for what has no number of attempts of its own."""

CREDENTIALS = (
    "there are no credentials for this store: set them as its tools do (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
    "AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS)"
)
"""Botocore's and Google's exceptions for that are named alike."""

FIRST_PAUSE = 0.5
"""Seconds, on average, before a failed download is tried again; doubles with each attempt."""


def patiently(action: Callable[[], T], what: str, attempts: int, missing_too: bool = False) -> T:
    """Return what `action` returns, tried up to `attempts` times with growing, random pauses.

    Errors of this package, a missing file and local failures (a full disk, a forbidden folder) are raised at once:
    trying again does not mend them.

    Args:
        action: see above.
        what: it does, for messages.
        attempts: see above.
        missing_too: the file must be there: a store that says otherwise is asked again.

    Raises:
        WorkError: `cannot <what> after ...` when no attempt worked.
    """
    if attempts < 1:
        raise RequestError(f"download_attempts must be at least 1, got {attempts}")
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except EpochalError:
            raise
        except Exception as error:  # every store has exceptions of its own
            if "Credentials" in type(error).__name__:
                raise RequestError(f"cannot {what}: {CREDENTIALS}") from None
            if isinstance(error, FileNotFoundError) and (not missing_too or attempt == attempts):
                raise
            if isinstance(error, OSError) and (
                error.errno in LOCAL_FAILURES
                and (error.errno != errno.EACCES or error.filename)  # a store's refusal names no file
            ):
                raise
            problem = "there is no such file" if isinstance(error, FileNotFoundError) else one_line(error)
        shown = without_secrets(what), attempt, attempts, without_secrets(problem)
        log.warning("cannot %s (attempt %d of %d): %s", *shown)
        if attempt < attempts:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * (0.5 + random.random()))
    raise WorkError(f"cannot {what} after {attempts} attempts: {problem}")


def look_again(look: Callable[[], T]) -> T:
    """Return what `look` returns. Where it finds no file, it looks twice more, within a second: a store may say so for
    a moment, and what follows from it is often that something is written there.

    Raises:
        FileNotFoundError: when there is none each time.
    """
    for share in (0.25, 1.0):
        with contextlib.suppress(FileNotFoundError):
            return look()
        time.sleep(FIRST_PAUSE * share)
    return look()
