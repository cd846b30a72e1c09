"""What a run tells the service, written down first: a service that is away never stops a run.

Every call is a line in the folder's journal (see journal.py), flushed to the disk before it is sent. A thread does
both. A run that starts again goes on with the same files, and `epochal register FOLDER` sends what is left of one that
is over.
"""

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...common.errors import HIDDEN, RequestError, WorkError, without_secrets
from .client import AwayError, Client, RefusedError
from .journal import JOURNAL, Journal
from .retries import NO_RETRIES

LONGEST_PAUSE = 30.0
LEASE_SECONDS = 120.0
ANSWER_SECONDS = 10.0
"""How long a run waits for an answer before it takes the service to be away."""


class Reporter:
    """A run's connection to the service at `url`; `start` claims its name, a thread does the rest.

    Attributes:
        folder: of the run, for the journal.
        claim: the body of `POST /runs` but holder and session.
        token: see `Client`; `url` counts as read from a file, that of the run's configuration.
    """

    def __init__(
        self,
        url: str,
        folder: str,
        claim: dict[str, Any],
        warn: Callable[[str], None],
        token: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._client = Client(url, token, timeout=ANSWER_SECONDS, from_file=True, retries=NO_RETRIES)
        if self._client.withheld:
            warn(self._client.withheld)
        self._journal = Journal(folder, warn)
        self._warn = warn
        self._lease_seconds = lease_seconds
        keys = {"holder": self._journal.holder(), "session": uuid.uuid4().hex, "lease_seconds": lease_seconds}
        self._claim = claim | keys
        self._calls: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="epochal-reporter", daemon=True)
        self._deadline = float("inf")
        self._problem = "the service is away"

    def start(self) -> None:
        """Claim the run's name.

        Raises:
            RefusedError: when the service refuses; when it is away the run goes on.
        """
        size = self._journal.size
        self._journal.append([{"call": "claim", "url": without_secrets(self._client.url, {}), "body": self._claim}])
        try:
            self._journal.send(self._client, strict_from=size)
        except AwayError as error:
            self._warn(f"{error}; the run goes on, its reports wait in {self._journal.folder}")
        except RefusedError:
            self._journal.close()
            self._client.close()
            raise
        self._thread.start()

    def report(self, **said: Any) -> None:
        """Report: position, tokens, loss, kind, digest, split (see docs/service.md). Returns at once."""
        self._calls.put({"call": "reports", "body": {k: v for k, v in said.items() if v is not None}})

    def checkpoint(self, position: int, name: str, digest: str | None) -> None:
        """Report a checkpoint. Returns at once."""
        body = {"position": position, "name": name, "digest": digest}
        self._calls.put({"call": "checkpoints", "body": body})

    def close(self, state: str, receipt: dict[str, Any] | None, wait: float = 3.0) -> None:
        """Close the run (finished, failed or stopped); wait so many seconds at most for the service."""
        if not self._thread.is_alive():
            return
        self._calls.put({"call": "close", "body": {"state": state, "receipt": receipt}})
        self._deadline = time.monotonic() + wait
        self._calls.put(None)
        self._thread.join()
        if self._journal.left:
            folder = self._journal.folder
            self._warn(f"{self._problem}: `epochal register {folder}` sends the reports in {folder} later")
        self._journal.close()
        self._client.close()

    def _run(self) -> None:
        pause, ended, beat = 0.0, False, time.monotonic()
        while not ended or (self._journal.left and time.monotonic() < self._deadline):
            waiting = self._take(pause if self._journal.left else self._lease_seconds / 3, ended)
            ended = ended or None in waiting
            calls = [call for call in waiting if call is not None]
            try:
                self._journal.append(calls)
            except OSError as error:  # a full disk is no reason to stop a run
                self._warn(f"reports are no longer written down: {error.strerror} ({self._journal.folder})")
                return
            try:
                if self._journal.left:
                    self._journal.send(self._client)
                    beat = time.monotonic()
                elif time.monotonic() - beat >= self._lease_seconds / 3:
                    self._journal.renew(self._client)
                    beat = time.monotonic()
                pause = 0.0
            except WorkError as error:  # it is away, or somebody has damaged the journal
                self._problem = str(error)
                pause = min(LONGEST_PAUSE, max(0.5, 2 * pause))

    def _take(self, timeout: float, ended: bool) -> list[dict[str, Any] | None]:
        """Return what is queued, after waiting for it for at most `timeout` seconds (until the deadline at the end)."""
        if ended:
            time.sleep(max(0.0, min(timeout, 0.5, self._deadline - time.monotonic())))
            return []
        try:
            calls = [self._calls.get(timeout=max(0.01, timeout))]
        except queue.Empty:
            return []
        while not self._calls.empty():
            calls.append(self._calls.get())
        return calls


@dataclass(frozen=True)
class Sent:
    """How the reports of a run's folder stand with the service.

    Attributes:
        lost: how many came after another run had taken the name over, and are not accepted.
        taken_over: another run holds the name by now, so that the service cannot be asked what it has.
    """

    lost: int
    taken_over: bool


def send_rest(
    folder: str, warn: Callable[[str], None], token: str | None = None, url: str | None = None
) -> Sent | None:
    """Send what the service does not have of the reports of the run in `folder`; None when there is no journal.

    Args:
        url: of the service, given by the user (default: the one that the run reported to).

    Raises:
        AwayError: when the service is away, or does not take them.
        RequestError: when the journal names no service.
    """
    if not os.path.isfile(os.path.join(folder, JOURNAL)):
        return None
    journal = Journal(folder, warn)
    try:
        where = url or journal.address()
        if where is None:
            raise RequestError(f"{os.path.join(folder, JOURNAL)} names no service: give --service URL")
        if HIDDEN in where:
            raise RequestError(f"{os.path.join(folder, JOURNAL)} keeps no password of {where}: give --service URL")
        client = Client(where, token, from_file=url is None)
        try:
            if client.withheld:
                warn(client.withheld)
            journal.renew(client)  # says what the service has
            journal.send(client)
        finally:
            client.close()
        return Sent(journal.progress.lost, journal.progress.refused)
    finally:
        journal.close()
