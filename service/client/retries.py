"""When a request is made again: after which failures, how often, and after which pauses."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from .answers import AwayError


@dataclass(frozen=True)
class Retries:
    """How often a request is made and how long the pauses are.

    The pause after failure k = 0, 1, ... is min(longest, first * 2^k) seconds, of which up to half is taken away by
    chance, so that those who failed together do not come back together. What `Retry-After` says comes on top.

    Attributes:
        attempts: how often a request is made at most: 1 is no retries.
        first: seconds.
        longest: seconds.
        patience: seconds that all pauses of a request may take; where the next one would go beyond, it is given up.
        chance: returns numbers in [0, 1); `random.Random(seed).random` makes the pauses repeatable.
    """

    attempts: int = 4
    first: float = 0.25
    longest: float = 8.0
    patience: float = 30.0
    chance: Callable[[], float] = random.random

    def pause(self, failures: int, waited: float, retry_after: str | None = None) -> float | None:
        """Return how many seconds to wait after so many failures (from 1), None to give up.

        Args:
            waited: seconds that the pauses before took.
            retry_after: the header of that name, if there was one: seconds, or a date.
        """
        if failures >= self.attempts:
            return None
        pause = min(self.longest, self.first * 2.0 ** (failures - 1)) * (1 - self.chance() / 2)
        pause += _seconds(retry_after)
        return pause if waited + pause <= self.patience else None


RETRIES = Retries()
NO_RETRIES = Retries(attempts=1)


class Attempts:
    """The failures of one request so far."""

    def __init__(self, retries: Retries) -> None:
        self._retries, self._failures, self._waited = retries, 0, 0.0

    def pause(self, error: AwayError) -> float:
        """Return how many seconds to wait before the next attempt, after `error`; raise it when there is none."""
        self._failures += 1
        pause = self._retries.pause(self._failures, self._waited, error.retry_after) if error.again else None
        if pause is None:
            raise error
        self._waited += pause
        return pause


def _seconds(retry_after: str | None) -> float:
    """Return the seconds from now that the header asks for, 0 for what cannot be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
