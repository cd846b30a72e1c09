"""The order of a run in Grain: a source whose record b is this rank's share of batch b, and a sampler in its order.

Grain deals records to its workers one by one and lets each worker batch its own, so samples as records would come to
the training step in batches of every W-th sample. A batch is therefore one record here, and Grain neither shuffles,
shards nor batches. `grain.MapDataset.source(Batches(...))` gives the same batches. Neither needs torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..shards.loader.workers import check_workers
from ..shards.order.shares import Share
from .samples import Samples

if TYPE_CHECKING:
    import grain


class Batches:
    """A `RandomAccessDataSource` of batches: int64 arrays tokens (k, seq_len), position, sample_id and n_tokens (k,).

    Its name in messages and checkpoints holds the order, the batch and the rank, so that Grain, which compares these
    names, refuses the state of another run.

    Raises:
        RequestError: where samples, batch and ranks do not fit together.
    """

    def __init__(self, samples: Samples, *, global_batch: int, rank: int, ranks: int) -> None:
        self.samples = samples
        self.share = Share(samples.order, global_batch, rank, ranks, empty=True)

    def __len__(self) -> int:
        """Return how many batches the run has; where the last one is short, a rank's share of it may be empty."""
        return self.share.batches()

    def __getitem__(self, batch: int) -> dict[str, NDArray[np.int64]]:
        """Return this rank's share of a batch."""
        return self.samples.read(self.share.of(range(len(self))[batch]))

    def __repr__(self) -> str:
        s = self.share
        return f"Batches({self.samples!r}, global_batch={s.global_batch}, rank={s.rank}, ranks={s.ranks})"


class InOrder:
    """A Grain sampler: every batch of a source once, in the run's order."""

    def __init__(self, batches: Batches) -> None:
        self._n, self._name = len(batches), f"InOrder({batches!r})"

    def __len__(self) -> int:
        """Return how many batches there are."""
        return self._n

    def __getitem__(self, index: int) -> "grain.RecordMetadata":
        """Return the record at a place. Raises IndexError after the last."""
        import grain

        return grain.RecordMetadata(index=index, record_key=range(self._n)[index])

    def __repr__(self) -> str:
        return self._name


def grain_loader(
    samples: Samples,
    *,
    global_batch: int,
    rank: int,
    ranks: int,
    worker_count: int = 0,
    operations: Sequence[Any] = (),
) -> "grain.DataLoader":
    """Return Grain's DataLoader of this rank's batches; its iterator's `get_state` and `set_state` work as ever.

    Args:
        rank: of this process, `jax.process_index()`; 0 where there is one.
        ranks: `jax.process_count()`; 1 where there is one.
        operations: Grain's, on whole batches; one that batches again would mix them.

    Raises:
        RequestError: where samples, batch and ranks do not fit together.
    """
    import grain

    check_workers(worker_count, "worker_count")
    batches = Batches(samples, global_batch=global_batch, rank=rank, ranks=ranks)
    return grain.DataLoader(
        data_source=batches,
        sampler=InOrder(batches),
        operations=operations,
        worker_count=worker_count,
        shard_options=grain.sharding.NoSharding(),  # each process has its own share already
    )
