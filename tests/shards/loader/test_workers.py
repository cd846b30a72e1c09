"""Loader processes are not started where the system has not what they need."""

import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from epochal.common.errors import RequestError
from epochal.shards.loader import workers
from epochal.shards.loader.collate import NarrowLoader, collate
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
    workers.check_workers(2, "workers", shared=0)


def test_batches_need_no_shared_memory(make_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's 64 MB, nearly full: ours come by pipe, those of somebody's own function as tensors."""
    pool = str(make_pool(1000))
    dataset = RepeatedDataset(pool, plan_for(pool), global_batch=4)
    monkeypatch.setattr(workers.os, "statvfs", lambda path: SimpleNamespace(f_bavail=2 << 10, f_frsize=1 << 10))
    batches = list(dataset.loader(2))
    assert [len(b["tokens"]) for b in batches[:-1]] == [4] * (len(batches) - 1)
    with pytest.raises(RequestError, match="has 2 MB left"):
        dataset.loader(2, collate_fn=collate)


def test_ids_beyond_two_bytes_come_from_workers_as_they_are() -> None:
    rows = [{"tokens": np.array([7, 2**17 + i]), "position": i, "sample_id": 9 - i, "n_tokens": 2} for i in range(5)]
    batches = list(NarrowLoader(rows, "uint32", 2, num_workers=1))
    assert torch.equal(torch.cat([b["tokens"] for b in batches]), torch.tensor([r["tokens"].tolist() for r in rows]))
    assert torch.cat([b["sample_id"] for b in batches]).tolist() == [9, 8, 7, 6, 5]
    assert {t.dtype for b in batches for t in b.values()} == {torch.int64}


def test_no_shared_memory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", "/nowhere/shm")
    with pytest.raises(RequestError, match="needs shared memory"):
        workers.check_workers(2, "num_workers")
