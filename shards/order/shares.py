"""Which positions of a batch are whose: the one definition behind the dataset of a run and every adapter.

Batch b of G samples holds the positions [bG, (b + 1)G) after the position at which reading began; rank r of R reads the
r-th contiguous share of them. The last batch may be short: of its L positions, rank r reads those from floor(L r / R)
to floor(L (r + 1) / R). Nothing is padded, dropped or read twice.
"""

from dataclasses import dataclass

from ...common.errors import RequestError
from .base import Order


@dataclass(frozen=True)
class Share:
    """What one rank reads of an order.

    Attributes:
        order: of the run.
        global_batch: samples of a batch over all ranks.
        rank: 0 to `ranks` - 1.
        ranks: that read different samples.
        empty: whether a rank may get nothing of the last batch, where that has fewer samples than there are ranks.

    Raises:
        RequestError: where order, batch and ranks do not fit together.
    """

    order: Order
    global_batch: int
    rank: int = 0
    ranks: int = 1
    empty: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise RequestError(f"rank {self.rank} is none of {self.ranks} ranks, which are numbered from 0")
        self.order.batch_samples(self.global_batch * self.order.seq_len)
        if self.global_batch < 0:
            raise RequestError(f"a global batch has at least 1 sample, not {self.global_batch}")
        if self.global_batch % self.ranks:
            raise RequestError(f"a global batch of {self.global_batch} samples does not divide by {self.ranks} ranks")
        last = self.order.positions % self.global_batch
        if not self.empty and 0 < last < self.ranks:
            raise RequestError(
                f"the last batch has {last} samples for {self.ranks} ranks, so some would have no batch: use "
                "batched=True where the loader has it, where they get an empty one, or another budget or batch"
            )

    @property
    def rank_batch(self) -> int:
        """Samples of a whole batch that are this rank's."""
        return self.global_batch // self.ranks

    def batches(self, start: int = 0) -> int:
        """Return how many batches there are from position `start` to the run's end."""
        return -(-(self.order.positions - start) // self.global_batch)

    def stop(self, batch: int, start: int = 0) -> int:
        """Return the position after the last one of batch number `batch` after position `start`, over all ranks."""
        return min(self.order.positions, start + (batch + 1) * self.global_batch)

    def of(self, batch: int, start: int = 0) -> range:
        """Return this rank's positions in batch number `batch` after position `start`."""
        first = start + batch * self.global_batch
        size = self.stop(batch, start) - first
        return range(first + size * self.rank // self.ranks, first + size * (self.rank + 1) // self.ranks)
