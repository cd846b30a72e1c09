"""From the samples of a dataset to the batches that a model is given.

Noise is drawn while samples are collated, in loader workers; cutting a batch into micro-batches is then only slicing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..shards.artifact import Artifact
from ..shards.loader.sample_reader import SampleReader
from ..shards.order.plan import Plan
from .objective.noise import row_bits
from .objective.objectives import Corrupted, Objective, pack

Batch = dict[str, Any]


class Collate:
    """Draws an objective's noise for a rank's share of a batch.

    Attributes:
        draws: noise samples per sample (validation only); the noise position of draw k is position * draws + k.
        rows: samples that a batch has at least. A smaller share (of the last batch) is filled up, so that every rank
            makes the same micro-batches of the same shapes in every step: under FSDP each of them waits for the others.
        dropout_seed: give each row the word that its dropout is drawn from; none when None.
    """

    def __init__(self, objective: Objective, draws: int = 1, rows: int = 1, dropout_seed: int | None = None) -> None:
        self.dropout_seed = dropout_seed
        self.objective = objective
        self.draws = draws
        self.rows = rows

    def __call__(self, batch: Any) -> Batch:
        """Return tensors: position, sample_id, n_tokens (samples,), and those of `Corrupted` (samples * draws, ...).

        batch: tokens (samples, seq_len), position, sample_id, n_tokens (samples,), integers. Fillers, which weigh
        nothing, have position -1.
        """
        batch = _filled(batch, self.rows - len(batch["position"]))
        names = ("position", "sample_id", "n_tokens")
        position, sample_id, n_tokens = (np.asarray(batch[name]).astype(np.int64) for name in names)
        tokens = np.repeat(np.asarray(batch["tokens"]).astype(np.int64), self.draws, 0)
        noise_position = (np.maximum(position, 0)[:, None] * self.draws + np.arange(self.draws)).ravel()
        rows = self.objective.corrupt(tokens, np.repeat(n_tokens, self.draws), noise_position)
        columns = {"position": position, "sample_id": sample_id, "n_tokens": n_tokens}
        columns |= {name: column for name, column in rows._asdict().items() if column is not None}
        if self.dropout_seed is not None:
            columns["words"] = row_bits(self.dropout_seed, "dropout", noise_position).view(np.int64)
        return {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}


def _filled(batch: Any, missing: int) -> dict[str, NDArray[Any]]:
    """Return `batch` with `missing` fillers at its end."""
    fillers = {"tokens": 0, "position": -1, "sample_id": -1, "n_tokens": 0}
    arrays = {name: np.asarray(batch[name]) for name in fillers}
    if missing <= 0:
        return arrays
    return {
        name: np.concatenate([a, np.full((missing, *a.shape[1:]), fillers[name], np.int64)])
        for name, a in arrays.items()
    }


class Split:
    """Cuts a collated batch into micro-batches for `LanguageModel`; a plain class, so that it can be pickled.

    Attributes:
        draws: see `Collate`.
        pin: lay the tensors where a GPU reads them by itself, so that copying them there is not waited for.
    """

    def __init__(self, draws: int = 1, pin: bool = False) -> None:
        self.draws = draws
        self.pin = pin

    def __call__(self, batch: Batch, size: int | float) -> list[Batch]:
        """Return micro-batches of `size` samples, the last perhaps smaller."""
        step = int(size)
        return [self._part(batch, slice(i, i + step)) for i in range(0, len(batch["position"]), step)]

    def _part(self, batch: Batch, samples: slice) -> Batch:
        rows = slice(samples.start * self.draws, samples.stop * self.draws)
        corrupted = Corrupted(**{name: batch[name][rows].numpy() for name in Corrupted._fields if name in batch})
        packed = {k: v for k, v in pack(corrupted)._asdict().items() if v is not None}
        packed |= {"words": batch["words"][rows]} if "words" in batch else {}
        packed["rows"] = torch.from_numpy(np.repeat(np.arange(len(corrupted.targets)), corrupted.targets.sum(1)))
        if self.pin:
            packed = {k: v.pin_memory() for k, v in packed.items()}
        n_tokens = batch["n_tokens"][samples]
        real_samples = int((batch["position"][samples] >= 0).sum())
        return packed | {
            "n_tokens": n_tokens,
            "sample_id": batch["sample_id"][samples],
            "shape": (max(1, real_samples), corrupted.targets.shape[1]),
            "samples": real_samples,
            "draws": self.draws,
        }


def samples_in(batch: Batch) -> int:
    """Return the samples of a batch or micro-batch, fillers not counted."""
    return batch["samples"] if "samples" in batch else int((batch["position"] >= 0).sum())


def tokens_in(batch: Batch) -> int:
    """Return the real tokens of a batch or micro-batch."""
    return int(batch["n_tokens"].sum())


def data_spec(loader: DataLoader, draws: int = 1, pin: bool = False) -> DataSpec:
    """Return what Composer needs to know of a loader of collated batches; `draws` and `pin` as of `Split`."""
    return DataSpec(
        loader, split_batch=Split(draws, pin), get_num_samples_in_batch=samples_in, get_num_tokens_in_batch=tokens_in
    )


class ValidationSet(IterableDataset):
    """The first samples of a pool in batches, shared out over ranks: rank r of R holds samples r, r + R, ...

    All ranks have the same number of batches, some perhaps empty, because Composer ends an evaluation when the first
    rank has no more.

    Raises:
        WorkError: when a shard that it reads is damaged: each is hashed here, once for all workers.
    """

    def __init__(self, artifact: Artifact, samples: int | None, batch: int, rank: int, ranks: int) -> None:
        m = artifact.manifest
        self.plan = Plan.for_artifact(m, m.tokens, policy="sequential")
        self.samples = min(samples or m.samples, m.samples)
        self.batch, self.rank, self.ranks = batch, rank, ranks
        self.reader = SampleReader.of(artifact)
        self.reader.check(np.arange(self.samples))

    @property
    def tokens(self) -> int:
        """Return the real tokens of all ranks together."""
        return self.plan.tokens_before(self.samples)

    def __len__(self) -> int:
        return -(-self.samples // (self.batch * self.ranks))

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Iterate this rank's batches (a worker's share of them) as `Collate` takes them."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (self._read(i) for i in range(first, len(self), step))

    def _read(self, i: int) -> dict[str, NDArray[Any]]:
        ids = np.arange(i * self.batch, (i + 1) * self.batch) * self.ranks + self.rank
        ids = ids[ids < self.samples]
        return {"tokens": self.reader.read(ids), "position": ids, "sample_id": ids, "n_tokens": self.plan.n_tokens(ids)}
