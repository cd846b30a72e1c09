"""One writer a run folder: a second one is refused, a dead one is followed, one that was taken for dead stops."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.common.remote import patience
from epochal.tests.support.servers import until
from epochal.train.run_folder import RunFolder
from epochal.train.run_state import lock
from epochal.train.run_state.lock import UrlLock, only_writer

URL = "memory://runs/r"

HOLD = """
import sys, time
from epochal.train.run_folder import RunFolder
from epochal.train.run_state.lock import only_writer
with only_writer(RunFolder(sys.argv[1], sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)
    for name, seconds in {"BEAT": 0.05, "DEAD": 0.5, "LOOK": 0.02, "SETTLE": 0.1}.items():
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)
    yield
    MemoryFileSystem.store.clear()


@pytest.mark.processes
def test_a_local_folder_has_one_writer_and_a_killed_one_keeps_nothing(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"), str(tmp_path / "cache"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = rf"is in use: another process trains there \(process {holder.pid} on"
        with pytest.raises(RequestError, match=refused), only_writer(folder):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with only_writer(folder), pytest.raises(RequestError, match="is in use"), only_writer(folder):
        pass  # nor is this process two
    with only_writer(folder):
        pass


def other(folder: str = URL, **changes: object) -> UrlLock:
    """Return the lock that another machine's process would take."""
    made = UrlLock(folder)
    made.owner |= {"pid": 1, "host": "elsewhere", "machine": "elsewhere"} | changes
    return made


def test_a_folder_at_a_url_has_one_writer(tmp_path: Path, capsys) -> None:
    holder = other()
    holder.acquire()
    refused = r"is in use: another process trains there \(process 1 on elsewhere"
    with pytest.raises(RequestError, match=refused), only_writer(RunFolder(URL, str(tmp_path))):
        pass
    assert "looking whether it lives" in capsys.readouterr().err
    holder.release()
    with only_writer(RunFolder(URL, str(tmp_path))):
        assert json.loads(storage.read_bytes(f"{URL}/lock.json"))["pid"] == os.getpid()
    assert not storage.exists(f"{URL}/lock.json")


def test_a_silent_holder_is_followed_and_finds_out(tmp_path: Path) -> None:
    silent = other()
    silent._create()
    began = time.monotonic()
    folder = RunFolder(URL, str(tmp_path))
    with only_writer(folder):
        assert time.monotonic() - began > lock.DEAD_SECONDS
        with pytest.raises(WorkError, match="was taken over by process"):
            silent.check()
        folder.before_publishing()  # ours


def test_one_that_was_taken_for_dead_gives_back_nothing_that_is_anothers(tmp_path: Path) -> None:
    slow = UrlLock(URL)
    slow.acquire()
    other(id="the next")._write()
    until(lambda: slow.successor is not None, "it sees who came after it")
    slow.release()
    assert json.loads(storage.read_bytes(f"{URL}/lock.json"))["id"] == "the next"


def test_a_process_that_is_gone_from_this_machine_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "DEAD_SECONDS", 600)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    other(pid=ended.pid, machine=lock._machine())._create()
    with only_writer(RunFolder(URL, str(tmp_path))):
        assert json.loads(storage.read_bytes(f"{URL}/lock.json"))["pid"] == os.getpid()
