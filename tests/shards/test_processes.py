"""Work divided among processes: exports have the same bytes, and what goes wrong in one process ends all."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.shards import processes
from epochal.shards.artifact import open_artifact, read_export
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.formats import arrow_tables
from epochal.shards.formats import webdataset as wds
from epochal.shards.processes import in_processes
from epochal.shards.verify import verify
from epochal.tests.support.pools import random_documents

N = 2001  # tokens: no multiple of 16, so the last sample is padded

pytestmark = pytest.mark.processes


@pytest.fixture
def small_files(monkeypatch):
    """Have several files in every export, in processes that know of it: forked from this one."""
    monkeypatch.setattr(wds, "SAMPLES_PER_FILE", 10)
    monkeypatch.setattr(arrow_tables, "GROUP_BYTES", 5 * 32)
    monkeypatch.setattr(arrow_tables, "FILE_BYTES", 3 * 5 * 32)
    monkeypatch.setattr(processes, "_context", lambda: multiprocessing.get_context("fork"))


@pytest.fixture
def subset(make_pool):
    return carve(str(make_pool(random_documents(3001))), N)[0]


def files_of(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("passes", [None, 2])
@pytest.mark.parametrize("layout", ["wds", "parquet", "hf", "megatron", "bin"])
def test_several_processes_write_the_bytes_of_one(small_files, subset, tmp_path, layout, passes, workers):
    alone, _ = export(subset, layout, str(tmp_path / "alone" / "x"), passes, workers=1)
    together, _ = export(subset, layout, str(tmp_path / "together" / "x"), passes, workers=workers)
    expected = files_of(alone)
    assert files_of(together) == expected
    assert len([name for name in expected if name.endswith((".tar", ".parquet", ".arrow", ".bin"))]) > (
        0 if layout in ("bin", "megatron") else 4
    )
    assert verify(together) == []


def test_the_default_is_one_process_for_few_tokens_and_a_number_below_one_is_refused(subset, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_context", lambda: pytest.fail("another process for 2001 tokens"))
    export(subset, "wds", str(tmp_path / "x"))
    with pytest.raises(RequestError, match="--workers must be at least 1, got 0"):
        export(subset, "wds", str(tmp_path / "y"), workers=0)


def test_what_lies_in_this_process_is_written_by_it_alone(small_files, subset):
    assert verify(export(subset, "wds", "memory://exports-alone/x", workers=2)[0]) == []


def test_new_processes_write_an_export(make_pool, tmp_path):
    """Not forked from this one, as the command has them."""
    pool = str(make_pool(random_documents(16 * 5000), samples_per_shard=500))
    alone, _ = export(pool, "wds", str(tmp_path / "alone"), workers=1)
    together, _ = export(pool, "wds", str(tmp_path / "together"), workers=2)
    assert len([name for name in read_export(alone).files if name.endswith(".tar")]) == 2
    assert files_of(together) == files_of(alone)


@pytest.mark.parametrize("shard", [0, -1])
def test_a_damaged_shard_ends_all_processes_and_leaves_nothing(small_files, subset, tmp_path, shard):
    path = Path(open_artifact(subset).shards[shard].path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WorkError, match="damaged"):
        export(subset, "parquet", str(tmp_path / "out" / "x"), workers=2)
    assert list((tmp_path / "out").iterdir()) == []
    assert not multiprocessing.active_children()


def square(number, say):
    say(number)
    return number * number


def killed(number, say):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wrong(number, say):
    if number == 2:
        raise WorkError("two is wrong")
    time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_and_all_that_was_said_is_counted(workers):
    said = []
    assert in_processes(square, 7, workers, said.append) == [n * n for n in range(7)]
    assert said[-1] == sum(range(7))
    assert said == sorted(said)


def test_a_process_that_was_killed_is_an_error_and_so_is_one_that_failed():
    with pytest.raises(WorkError, match="a process was killed"):
        in_processes(killed, 7, 2, lambda done: None)
    with pytest.raises(WorkError, match="two is wrong"):
        in_processes(wrong, 200, 2, lambda done: None)
    assert not multiprocessing.active_children()


SLOW = """
import sys, time
from epochal.shards.processes import in_processes
def slow(number, say):
    open(f"{sys.argv[1]}/{number}", "w").close()
    while True:
        time.sleep(0.02)
        say(1)
if __name__ == "__main__":
    in_processes(slow, 2, 2, lambda done: None)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_goes_on_when_the_command_is_killed_or_interrupted(tmp_path, how):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    begun = tmp_path / "begun"
    begun.mkdir()
    command = subprocess.Popen(
        [sys.executable, str(script), str(begun)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while len(list(begun.iterdir())) < 2:
        assert command.poll() is None
        time.sleep(0.05)
    if how == signal.SIGINT:
        os.killpg(command.pid, how)  # as a terminal does it
    else:
        command.kill()
    _, printed = command.communicate(timeout=60)  # ends when no process holds its standard error any more
    assert printed.count("Traceback") == (1 if how == signal.SIGINT else 0)
