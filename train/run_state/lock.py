"""One writer a run folder: a lock that a process holds while it trains there, on this machine and at a URL.

On a local file system the system itself keeps the lock and drops it with the process, however that ends. At a URL it
is an object, `lock.json`, that its holder writes anew every BEAT_SECONDS; a holder that is silent for DEAD_SECONDS is
taken for dead, at once where its process is known to be gone. Only the waiting process's own clock counts. A holder
that was taken for dead and is not finds out before it publishes anything, and stops.
"""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from ...common import storage
from ...common.cli import say
from ...common.errors import EpochalError, RequestError, WorkError
from ...common.json_text import strict_json
from ...common.remote.create import create
from ..run_folder import RunFolder

LOCAL_NAME, URL_NAME = ".lock", "lock.json"
BEAT_SECONDS, DEAD_SECONDS, LOOK_SECONDS, SETTLE_SECONDS = 10.0, 60.0, 2.0, 2.0

_held: set[str] = set()
"""Lock files of this process: the system would give it the same lock twice."""


@contextlib.contextmanager
def only_writer(folder: RunFolder) -> Iterator[None]:
    """Hold `folder`, at its URL too if it has one.

    Raises:
        RequestError: when another process holds it.
    """
    local = f"{folder.local}.lock" if folder.remote else os.path.join(folder.local, LOCAL_NAME)
    with _local_lock(local, folder.path):
        if not folder.remote:
            yield
            return
        lock = UrlLock(folder.path)
        lock.acquire()
        folder.before_publishing = lock.check
        try:
            yield
        finally:
            lock.release()


def _busy(path: str, owner: dict[str, Any]) -> RequestError:
    who = " ".join(
        f"{word} {owner[key]}" for key, word in (("pid", "process"), ("host", "on"), ("since", "since")) if key in owner
    )
    who = f" ({who})" if who else ""
    return RequestError(
        f"{path} is in use: another process trains there{who}; wait for it or choose another save_folder"
    )


def _me() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


@contextlib.contextmanager
def _local_lock(path: str, shown: str) -> Iterator[None]:
    """Hold the lock file at `path`: a POSIX lock, which children do not inherit and a killed process cannot keep."""
    path = os.path.realpath(path)
    if path in _held:
        raise _busy(shown, _me())
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WorkError(f"cannot write in {shown}: {error.strerror}") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(_me()).encode(), 0)
    except (BlockingIOError, PermissionError):
        owner = _parsed(os.read(file, 4096))
        os.close(file)
        raise _busy(shown, owner) from None
    except OSError as error:
        say(f"{shown} cannot be locked here ({error.strerror}): nothing keeps a second run out of it")
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        os.close(file)


class UrlLock:
    """The lock of a run folder at the URL `folder`; see the module."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = storage.join(folder, URL_NAME)
        self.owner = _me() | {"id": uuid.uuid4().hex, "machine": _machine(), "beat": 0}
        self.successor: dict[str, Any] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RequestError: when another process holds it.
            WorkError: when the store does not answer.
        """
        while not self._take():
            pass
        self._thread.start()

    def _take(self) -> bool:
        """Return whether the lock is ours now; False when it has just been freed or taken, so that one looks again."""
        there = self._read()
        if there is None:
            self._create()
            there = self._read()
            return there is not None and there.get("id") == self.owner["id"]
        if not _gone(there) and not self._silent(there):
            return False
        self._write()
        time.sleep(SETTLE_SECONDS)  # two may have found the holder silent: the last one to write has the lock
        now = self._read()
        if now is not None and now.get("id") != self.owner["id"]:
            raise _busy(self.folder, now)
        return now is not None

    def _silent(self, there: dict[str, Any]) -> bool:
        """Watch the holder; return True when it is dead, False when it gives the lock back.

        Raises:
            RequestError: when it lives.
        """
        say(f"{self.folder} is locked by process {there.get('pid')} on {there.get('host')}: looking whether it lives")
        began = time.monotonic()
        while time.monotonic() - began < DEAD_SECONDS:
            time.sleep(LOOK_SECONDS)
            now = self._read()
            if now is None:
                return False
            if now != there:
                raise _busy(self.folder, now)
        return True

    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            WorkError: when another process took this one for dead and has the lock.
        """
        there = self.successor or self._read()
        if there is not None and there.get("id") != self.owner["id"]:
            who = f"process {there.get('pid')} on {there.get('host')}"
            raise WorkError(f"{self.folder} was taken over by {who}: stopped here, and nothing there was changed")

    def release(self) -> None:
        """Give the lock back, if it is ours; a store that does not answer keeps it until it is taken for dead."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(EpochalError):
            there = self._read()
            if there is not None and there.get("id") == self.owner["id"]:
                storage.remove(self.path)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(EpochalError):
                there = self._read()
                if there is not None and there.get("id") != self.owner["id"]:
                    self.successor = there
                    return
                self.owner["beat"] += 1
                self._write()

    def _read(self) -> dict[str, Any] | None:
        """Return what the lock's object says; None when there is none."""
        try:
            data = storage.read_bytes(self.path, may_lack=True)
        except FileNotFoundError:
            return None
        return _parsed(data)

    def _create(self) -> None:
        """Make the object if there is none: the store decides between two that try at once."""
        create(self.path, json.dumps(self.owner).encode())

    def _write(self) -> None:
        storage.write_atomic(self.path, json.dumps(self.owner).encode())


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        body = strict_json(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _machine() -> str:
    """Return what tells this machine, since it was started, and its process ids from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        parts.append(f.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _gone(owner: dict[str, Any]) -> bool:
    """Return whether the process `owner` is known to be gone; this process holds no lock that it asks about."""
    pid = owner.get("pid")
    if owner.get("machine") != _machine() or not isinstance(pid, int):
        return False
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and is another user's
    return False
