"""Loader processes are not started where the system has not what they need."""

import resource
from types import SimpleNamespace

import pytest

from epochal.common.errors import RequestError
from epochal.shards.loader import workers
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.tests.support.loading import plan_for


def test_too_few_file_descriptors(make_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = str(make_pool(1000))
    dataset = RepeatedDataset(pool, plan_for(pool), global_batch=4)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (48, 4096))
    with pytest.raises(RequestError, match="open files, the limit here is 48: raise it"):
        dataset.loader(num_workers=2)
    assert dataset.loader(num_workers=0) is not None
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    workers.check_workers(100, "num_workers")


@pytest.mark.parametrize("free", [0, 1 << 20])
def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(workers.os, "statvfs", lambda path: SimpleNamespace(f_bavail=free >> 10, f_frsize=1 << 10))
    with pytest.raises(RequestError, match="needs shared memory, /dev/shm has"):
        workers.check_workers(2, "train_loader.num_workers")
    workers.check_workers(0, "num_workers")
    workers.check_workers(2, "workers", shared=False)


def test_no_shared_memory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", "/nowhere/shm")
    with pytest.raises(RequestError, match="needs shared memory"):
        workers.check_workers(2, "num_workers")
