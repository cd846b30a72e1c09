"""The calls of a run's folder, written down before they are sent; the service's memory decides what is left to send.

`service.jsonl` holds them, one a line, and is never cut but for a refused start. `service.sent` says up to where the
service has acknowledged them. Both sides count the calls of a lease. A service that knows fewer than were acknowledged
(its database was replaced, or restored from a backup) says so, and is sent again what it lacks.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.json_text import strict_json
from .client import AwayError, Client, RefusedError

JOURNAL, SENT, LOCK = "service.jsonl", "service.sent", "service.lock"
KINDS = ("claim", "reports", "checkpoints", "close")
"""The calls that there are: a claim is `POST /runs`, the others are made below its path."""

MOST_TOGETHER = 1000
MOST_REWINDS = 3
"""How often in a row a service may turn out to know less than it did, before it is taken to be away."""


@dataclass
class Progress:
    """How far a journal is sent.

    Attributes:
        offset: bytes of the journal that are done with.
        name: of the run.
        token: the number of its lease.
        session: of the claim that got the lease.
        refused: the lease was taken over: what comes under it is never accepted.
        begin: byte after that claim.
        calls: how many calls after it were acknowledged.
        counts: whether the service counts them as well; one of version 0.1.0 does not.
        lost: calls that came after another run had taken the name over.
        parents: by session, the position at which the parent was taken over, where the claim left that open.
    """

    offset: int = 0
    name: str | None = None
    token: int | None = None
    refused: bool = False
    session: str | None = None
    begin: int = 0
    calls: int = 0
    counts: bool = False
    lost: int = 0
    parents: dict[str, int] = field(default_factory=dict)


class Journal:
    """The calls of one run's folder, in order: claims, reports, checkpoints, ends. Only one process may have it open.

    Attributes:
        warn: called with one line about what the service refuses, or has lost.

    Raises:
        RequestError: when another process has it open.
    """

    def __init__(self, folder: str, warn: Callable[[str], None]) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self._warn = warn
        self._warned: set[str] = set()
        self._lock = FileLock(os.path.join(folder, LOCK), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RequestError(f"{folder} is in use by another process: choose another save_folder") from None
        self._path = os.path.join(folder, JOURNAL)
        self._sent = os.path.join(folder, SENT)
        self._file = open(self._path, "ab")  # noqa: SIM115 - open as long as the run
        self._repair()
        self.progress = self._read_progress()

    def _repair(self) -> None:
        """Cut off a last line that a crash left unfinished."""
        data = storage.read_bytes(self._path)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)

    def _read_progress(self) -> Progress:
        """Return what `service.sent` says; where that cannot be, nothing counts as sent: sending again does no harm."""
        try:
            data = strict_json(storage.read_bytes(self._sent))
            progress = Progress(**{f.name: data[f.name] for f in fields(Progress) if f.name in dict(data)})
            if data and 0 <= progress.offset <= self.size:
                return progress
        except FileNotFoundError:
            return Progress()
        except (ValueError, TypeError, RecursionError):
            pass
        self._warn(f"{self._sent} does not fit {JOURNAL}: all of the run's reports are sent again")
        return Progress()

    @property
    def size(self) -> int:
        """Bytes of the journal."""
        return os.path.getsize(self._path)

    def holder(self) -> str:
        """Return who claims the run from this folder: the same after every restart."""
        for call, _ in self._calls(0):
            if call["call"] == "claim":
                return str(call["body"]["holder"])
        return uuid.uuid4().hex

    def address(self) -> str | None:
        """Return the address that the last claim was sent to, if there is one."""
        found = [call.get("url") for call, _ in self._calls(0) if call["call"] == "claim"]
        return str(found[-1]) if found else None

    def append(self, calls: list[dict[str, Any]]) -> None:
        """Write calls down; they are on the disk when this returns."""
        if calls:
            self._file.write(b"".join(json.dumps(call).encode() + b"\n" for call in calls))
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def left(self) -> bool:
        """Whether something is not acknowledged yet."""
        return self.size > self.progress.offset

    # -- sending ----------------------------------------------------------------------------------------------------

    def send(self, client: Client, strict_from: int | None = None) -> None:
        """Send what is left. What the service does not take is not marked as sent.

        Args:
            strict_from: where the claim of a run that starts begins: refusals of claims are raised, and it is taken
                out of the journal again, because nothing ran under it.

        Raises:
            AwayError: when the service is away, or refuses what it may take later.
            RefusedError: with `strict_from`, for a claim.
        """
        for _ in range(MOST_REWINDS):
            if self._send_on(client, strict_from):
                return
        raise AwayError(f"the service at {client.url} loses the run's reports again and again: is it one service?")

    def _send_on(self, client: Client, strict_from: int | None) -> bool:
        """Send what is left; return False when the service turns out to have lost what it had: `offset` went back."""
        for calls, end in self._groups():
            try:
                kept = self._send(client, calls, end)
            except RefusedError as error:
                if calls[0]["call"] != "claim":
                    kept = self._recover(error)
                elif strict_from is None:
                    self._wait(error)
                else:
                    self._file.truncate(strict_from)
                    raise
            if not kept:
                return False
            self._acknowledge(end, len(calls) if calls[0]["call"] != "claim" else 0)
        return True

    def _send(self, client: Client, calls: list[dict[str, Any]], end: int) -> bool:
        """Send calls that go together; return False when the answer shows that earlier ones are lost."""
        what, body = calls[0]["call"], calls[0]["body"]
        if what == "claim":
            return self._claim(client, body, end)
        if not self.progress.refused:
            if what == "reports":
                body = {"reports": [call["body"] for call in calls]}
            client.post(_path(self.progress.name, what), **self._lease(), **body)
        return True

    def _lease(self) -> dict[str, Any]:
        """Return what every call under a lease says: its number, and how many calls the service has had."""
        counted = {"session": self.progress.session, "after": self.progress.calls} if self.progress.counts else {}
        return {"token": self.progress.token, **counted}

    def _claim(self, client: Client, body: dict[str, Any], end: int) -> bool:
        before, session = self.progress, str(body["session"])
        parent = body.get("parent")
        if parent and session in before.parents:  # the parent may be further by now
            body = body | {"parent": parent | {"position": before.parents[session]}}
        answer = client.post("/runs", **body)
        if _knew_less(answer, before, session):
            self._start_over()
            return False
        self.progress = Progress(
            before.offset, body["name"], answer["token"], False, session, end, 0, "calls" in answer, before.lost
        )
        self.progress.parents = before.parents
        if parent and parent.get("position") is None and answer.get("parent_position") is not None:
            self.progress.parents = before.parents | {session: answer["parent_position"]}
        return True

    def _recover(self, error: RefusedError) -> bool:
        """Do what a refusal of a call under a lease demands; return False when calls are to be sent again.

        Raises:
            AwayError: for a refusal that may end.
        """
        token, calls, mine = error.details.get("token"), error.details.get("calls"), self.progress.token or 0
        if error.status == 409 and isinstance(calls, int) and 0 <= calls < self.progress.calls:
            self._go_back(calls)
            return False
        if error.status == 404 or (error.status == 409 and isinstance(token, int) and token <= mine):
            self._start_over()
            return False
        if error.status == 409 and isinstance(token, int):
            if not self.progress.refused:
                self._say(f"the service no longer accepts this run's reports: {error}")
            self.progress.refused = True
            return True
        self._wait(error)
        return True

    def _go_back(self, calls: int) -> None:
        """Leave all but the first `calls` calls of the lease to be sent again."""
        lacking = self.progress.calls - calls
        ends = [end for _, (_, end) in zip(range(calls), self._calls(self.progress.begin), strict=False)]
        self.progress.offset, self.progress.calls = ends[-1] if ends else self.progress.begin, calls
        self._save()
        self._say(f"the service has lost {lacking:,} of this run's reports: they are sent again")

    def _start_over(self) -> None:
        """Leave everything to be sent again, the claims too: the service does not know the lease."""
        self.progress = Progress(parents=self.progress.parents)
        self._save()
        self._say("the service has lost this run: it is registered again, and its reports are sent again")

    def _wait(self, error: RefusedError) -> None:
        """Raise AwayError for a refusal, told once, that somebody may mend."""
        self._say(f"the service takes no reports of this run for now: {error}; they wait in {self.folder}")
        raise AwayError(str(error)) from None

    def _say(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    def renew(self, client: Client) -> None:
        """Say that the run is alive. What the service has lost meanwhile is then left to send.

        Raises:
            AwayError: when the service does not answer, or refuses.
        """
        if self.progress.token is None or self.progress.refused:
            return
        try:
            client.post(_path(self.progress.name, "lease"), **self._lease())
        except RefusedError as error:
            self._recover(error)

    def _acknowledge(self, offset: int, calls: int) -> None:
        self.progress.offset = offset
        if self.progress.refused:
            self.progress.lost += calls
        else:
            self.progress.calls += calls
        self._save()

    def _save(self) -> None:
        storage.write_atomic(self._sent, json.dumps(asdict(self.progress)).encode())

    # -- reading ----------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield what is left, reports that follow each other together, each with the byte where it ends.

        A claim that another one follows is left out: nothing ran under it.
        """
        end = self.progress.offset
        waiting: list[dict[str, Any]] = []
        for call, stop in self._calls(end):
            kinds = [c["call"] for c in (*waiting[-1:], call)]
            if waiting and (kinds != ["reports", "reports"] or len(waiting) == MOST_TOGETHER):
                if kinds != ["claim", "claim"]:
                    yield waiting, end
                waiting = []
            waiting.append(call)
            end = stop
        if waiting:
            yield waiting, end

    def _calls(self, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the calls from a byte on, each with the byte where it ends. Raises WorkError for a damaged line."""
        with open(self._path, "rb") as f:
            f.seek(offset)
            for line in f:
                offset += len(line)
                call: Any = None
                with contextlib.suppress(ValueError, RecursionError):
                    call = strict_json(line)
                if not _is_call(call):
                    raise WorkError(f"{self._path} is damaged before byte {offset:,}: remove that line")
                yield call, offset

    def close(self) -> None:
        """Let other processes have the folder."""
        self._file.close()
        self._lock.release()


def _is_call(call: Any) -> bool:
    """Return whether a line of a journal is one of ours: a folder may come from somebody else."""
    if not isinstance(call, dict) or call.get("call") not in KINDS or not isinstance(call.get("body"), dict):
        return False
    named = ("name", "holder", "session") if call["call"] == "claim" else ()
    return all(isinstance(call["body"].get(key), str) for key in named)


def _path(name: str | None, what: str) -> str:
    return f"/runs/{quote(name or '', safe='')}/{what}"


def _knew_less(answer: dict[str, Any], before: Progress, session: str) -> bool:
    """Return whether what a claim is answered with shows that calls under the lease before are no longer known."""
    if before.token is None or before.refused or session == before.session:
        return False
    if answer["token"] <= before.token:  # numbers of leases rise
        return True
    previous = answer.get("previous")
    if not before.counts or not previous or previous["token"] != before.token:
        return False
    return bool(not previous["own"] or previous["calls"] < before.calls)
