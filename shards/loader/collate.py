"""From samples to batches of torch's, and how those come from the processes that read ahead.

A worker of torch's DataLoader puts each tensor of a batch into shared memory of its own and hands over its descriptor,
which costs more than reading the samples does. Here a batch crosses as bytes through the pipe, ids as narrow as they
lie in the shards, and becomes tensors where it is used. It needs no shared memory.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

_NUMBERS = ("position", "sample_id", "n_tokens")


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of samples: int64 tensors, tokens (k, seq_len), the others (k,).

    What torch's own function returns, without its threads, which wait for each other where cores are shared.
    """
    batch = {k: torch.tensor([s[k] for s in samples]) for k in _NUMBERS}
    return {"tokens": torch.from_numpy(np.stack([s["tokens"] for s in samples]))} | batch


class NarrowLoader(DataLoader):
    """A DataLoader with workers whose batches are those of `collate`.

    Attributes:
        dataset: of samples, or of whole batches (then `batch_size` is None): dicts as `RepeatedDataset` yields.
        dtype: type of the shards, `uint16` or `uint32`, in which tokens cross from a worker.
        options: DataLoader's, `num_workers` among them.
    """

    def __init__(self, dataset: Any, dtype: str, batch_size: int | None, **options: Any) -> None:
        super().__init__(dataset, batch_size, collate_fn=partial(_narrow, dtype=dtype), **options)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        """Iterate over batches, in pinned memory if `pin_memory` was asked for and there is a GPU."""
        pinned = self.pin_memory and torch.cuda.is_available()
        for tokens, *numbers in super().__iter__():
            arrays = {"tokens": tokens.astype(np.int64)} | dict(zip(_NUMBERS, numbers, strict=True))
            batch = {k: torch.from_numpy(array) for k, array in arrays.items()}
            yield {k: v.pin_memory() for k, v in batch.items()} if pinned else batch


def _narrow(samples: dict[str, Any] | Sequence[dict[str, Any]], dtype: str) -> list[NDArray]:
    """Return tokens (k, seq_len) in `dtype` and the other numbers of a batch, int64 (k,)."""
    if isinstance(samples, dict):
        return [samples["tokens"].astype(dtype), *(np.asarray(samples[k], np.int64) for k in _NUMBERS)]
    tokens = np.empty((len(samples), len(samples[0]["tokens"])), dtype)
    for row, sample in zip(tokens, samples, strict=True):
        row[:] = sample["tokens"]
    return [tokens, *(np.array([s[k] for s in samples], np.int64) for k in _NUMBERS)]
