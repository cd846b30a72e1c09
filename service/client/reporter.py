"""What a run tells the service, written down first: a service that is away never stops a run.

Every call is a line in `service.jsonl` of the run's folder, flushed to the disk before it is sent; `service.sent` says
up to where the service has acknowledged them. A thread does both. A run that starts again goes on with the same files,
and `epochal register FOLDER` sends what is left of one that is over.
"""

import contextlib
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from ...common import storage
from ...common.errors import RequestError
from .client import AwayError, Client, RefusedError

JOURNAL, SENT, LOCK = "service.jsonl", "service.sent", "service.lock"
MOST_TOGETHER = 1000
LONGEST_PAUSE = 30.0
LEASE_SECONDS = 120.0
ANSWER_SECONDS = 10.0
"""How long a run waits for an answer before it takes the service to be away."""


@dataclass
class _Progress:
    """How far a journal is sent: bytes; the run's name and its lease's number; whether the service has refused it."""

    offset: int = 0
    name: str | None = None
    token: int | None = None
    refused: bool = False


class Journal:
    """The calls of one run's folder, in order: claims, reports, checkpoints, ends. Only one process may have it open.

    Attributes:
        warn: called with one line about what the service refuses.

    Raises:
        RequestError: when another process has it open.
    """

    def __init__(self, folder: str, warn: Callable[[str], None]) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self._warn = warn
        self._lock = FileLock(os.path.join(folder, LOCK), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RequestError(f"{folder} is in use by another process: choose another save_folder") from None
        self._path = os.path.join(folder, JOURNAL)
        self._sent = os.path.join(folder, SENT)
        self.progress = _Progress()
        with contextlib.suppress(FileNotFoundError):
            self.progress = _Progress(**json.loads(storage.read_bytes(self._sent)))
        self._file = open(self._path, "ab")  # noqa: SIM115 - open as long as the run
        self._repair()

    def _repair(self) -> None:
        """Cut off a last line that a crash left unfinished."""
        data = storage.read_bytes(self._path)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)

    def holder(self) -> str:
        """Return who claims the run from this folder: the same after every restart."""
        with open(self._path, encoding="utf-8") as f:
            for line in f:
                call = json.loads(line)
                if call["call"] == "claim":
                    return str(call["body"]["holder"])
        return uuid.uuid4().hex

    def append(self, calls: list[dict[str, Any]]) -> None:
        """Write calls down; they are on the disk when this returns."""
        if calls:
            self._file.write(b"".join(json.dumps(call).encode() + b"\n" for call in calls))
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def left(self) -> bool:
        """Whether something is not acknowledged yet."""
        return os.path.getsize(self._path) > self.progress.offset

    def send(self, client: Client, strict_from: int | None = None) -> None:
        """Send what is left.

        Raises:
            AwayError: for a claim at or beyond the byte `strict_from`.
            RefusedError: for a claim at or beyond the byte `strict_from`.
        """
        for calls, end in self._groups():
            strict = strict_from is not None and self.progress.offset >= strict_from
            try:
                self._send(client, calls)
            except RefusedError as error:
                if error.status in (401, 403) and not strict:
                    raise AwayError(str(error)) from None  # somebody will mend the token
                self.progress.refused = True
                if strict:
                    self._acknowledge(end)
                    raise
                self._warn(f"the service no longer accepts this run's reports: {error}")
            self._acknowledge(end)

    def _groups(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield what is left, reports that follow each other together, each with the byte where it ends."""
        end = self.progress.offset
        waiting: list[dict[str, Any]] = []
        with open(self._path, "rb") as f:
            f.seek(end)
            for line in f:
                call = json.loads(line)
                if waiting and (call["call"] != "reports" or len(waiting) == MOST_TOGETHER):
                    yield waiting, end
                    waiting = []
                end += len(line)
                if call["call"] == "reports":
                    waiting.append(call)
                else:
                    yield [call], end
        if waiting:
            yield waiting, end

    def _send(self, client: Client, calls: list[dict[str, Any]]) -> None:
        what, body = calls[0]["call"], calls[0]["body"]
        if what == "claim":
            self.progress.name, self.progress.token = body["name"], client.post("/runs", **body)["token"]
            self.progress.refused = False
        elif not self.progress.refused:
            if what == "reports":
                body = {"reports": [call["body"] for call in calls]}
            client.post(f"/runs/{self.progress.name}/{what}", token=self.progress.token, **body)

    def renew(self, client: Client) -> None:
        """Say that the run is alive.

        Raises:
            AwayError: when the service does not answer.
        """
        if not self.progress.refused:
            with contextlib.suppress(RefusedError):  # the next report is refused as well, and a warning says so
                client.post(f"/runs/{self.progress.name}/lease", token=self.progress.token)

    def _acknowledge(self, offset: int) -> None:
        self.progress.offset = offset
        storage.write_atomic(self._sent, json.dumps(vars(self.progress)).encode())

    def close(self) -> None:
        """Let other processes have the folder."""
        self._file.close()
        self._lock.release()


class Reporter:
    """A run's connection to the service at `url`; `start` claims its name, a thread does the rest.

    Attributes:
        folder: of the run, for the journal.
        claim: the body of `POST /runs` but holder and session.
        token: see `Client`.
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
        self._client = Client(url, token, timeout=ANSWER_SECONDS)
        self._journal = Journal(folder, warn)
        self._warn = warn
        self._lease_seconds = lease_seconds
        keys = {"holder": self._journal.holder(), "session": uuid.uuid4().hex, "lease_seconds": lease_seconds}
        self._claim = claim | keys
        self._calls: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="epochal-reporter", daemon=True)
        self._deadline = float("inf")

    def start(self) -> None:
        """Claim the run's name.

        Raises:
            RefusedError: when the service refuses; when it is away the run goes on.
        """
        size = os.path.getsize(os.path.join(self._journal.folder, JOURNAL))
        self._journal.append([{"call": "claim", "url": self._client.url, "body": self._claim}])
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
            self._warn(f"the service is away: `epochal register {folder}` sends the reports in {folder} later")
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
            except AwayError:
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


def send_rest(folder: str, warn: Callable[[str], None], token: str | None = None) -> bool:
    """Send what is left of the reports of the run in `folder`; return whether there is a journal at all.

    Raises:
        AwayError: when the service is still away.
    """
    path = os.path.join(folder, JOURNAL)
    if not os.path.isfile(path):
        return False
    journal = Journal(folder, warn)
    try:
        if journal.left:
            with open(path, encoding="utf-8") as f:
                urls = [call["url"] for call in map(json.loads, f) if call["call"] == "claim"]
            client = Client(urls[-1], token)
            try:
                journal.send(client)
            finally:
                client.close()
    finally:
        journal.close()
    return True
