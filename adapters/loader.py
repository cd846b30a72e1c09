"""A loader with a state, as torchtitan, Lightning and torch's distributed checkpoints take one: iterable, sized, and
`state_dict()` says after which batch the training stands, whatever the workers have read ahead."""

from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import DataLoader

from ..common.errors import RequestError
from ..shards.loader.collate import collate
from ..shards.loader.workers import check_workers
from ..shards.order.stored import position_in, state_of
from .batches import Collate
from .sampler import OrderBatchSampler
from .samples import Samples


class OrderLoader:
    """This rank's share of every batch of a run, each once.

    Iterating goes on where the loader stands, and never begins again: a run is one epoch. The state is the same on all
    ranks, and may be loaded with another number of ranks or workers and another batch.

    Attributes:
        samples: what is read.
        global_batch: samples of a batch over all ranks; where gradients are accumulated, of one forward pass.
        rank: of this process among `ranks` that read different samples; see `sampler.ranks_here`.
        num_workers: processes that read ahead.
        collate_fn: from samples to a batch; by default a dict of int64 tensors.
        position: where the next batch begins.

    Raises:
        RequestError: where they do not fit together; on iterating, at the end of the run.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        global_batch: int,
        rank: int | None = None,
        ranks: int | None = None,
        num_workers: int = 0,
        collate_fn: Collate = collate,
        **options: Any,
    ) -> None:
        check_workers(num_workers, "num_workers")
        self.samples = samples
        self.position = 0
        self._batches = OrderBatchSampler(samples, samples.order, global_batch=global_batch, rank=rank, ranks=ranks)
        self._options: dict[str, Any] = {"num_workers": num_workers, "collate_fn": collate_fn} | options

    def __len__(self) -> int:
        """Return how many batches the whole run has, those that were read included."""
        read = -(-self.position // self._batches.share.global_batch)
        return read + self._batches.share.batches(self.position)

    def __iter__(self) -> Iterator[Any]:
        start, share = self.position, self._batches.share
        if start == share.order.positions:
            raise RequestError(
                f"the run has ended: all {start:,} positions of its plan were read; train for one epoch, "
                "or make a plan of more passes"
            )
        self._batches.start = start
        loader = DataLoader(cast(Any, self.samples), batch_sampler=self._batches, **self._options)
        for number, batch in enumerate(loader):
            self.position = share.stop(number, start)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch that was delivered."""
        return state_of(self.samples.order, self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stands.

        Raises:
            RequestError: for one of another run.
        """
        self.position = position_in(state, self.samples.order)
