"""The order of a run as samplers of torch's DataLoader, with a state that says where the run stands."""

import itertools
import os
from collections.abc import Iterator, Sized
from typing import Any

import torch.distributed as dist
from torch.utils.data import Sampler

from ..common.errors import RequestError
from ..shards.loader.order_reader import check_not_packed
from ..shards.order.base import Order
from ..shards.order.shares import Share
from ..shards.order.stored import checked_position, position_in, state_of
from .samples import Samples


def ranks_here(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """Return (rank, number of ranks): as given, else torch.distributed's, else $RANK and $WORLD_SIZE, else (0, 1).

    Raises:
        RequestError: when only one of them is given.
    """
    if (rank is None) != (ranks is None):
        raise RequestError("give both rank and ranks, or neither")
    if rank is not None and ranks is not None:
        return rank, ranks
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class OrderBatchSampler(Sampler[list[int]]):
    """Yields the rows of a data set that make this rank's share of each batch, from position `start` to the run's end.

    `data` is a `Samples` of the same order, whose rows are positions, or any map-style data set whose row i is sample
    i, such as an export read with `load_dataset`. It is shared among ranks already: let nothing share it again. Every
    iteration begins at `start`. What a DataLoader's workers have asked for ahead counts as read in `state_dict`:
    `OrderLoader` knows what was delivered.

    What asks for its `batch_size` means to deal its batches among ranks, or to even them out, as `accelerator.prepare`
    does: that is refused.

    Attributes:
        start: the position at which iterating begins: as given, or that of the state that was loaded.

    Raises:
        RequestError: where data set, order, batch and ranks do not fit together.
    """

    def __init__(
        self,
        data: Sized,
        order: Order,
        *,
        global_batch: int,
        rank: int | None = None,
        ranks: int | None = None,
        start: int = 0,
    ) -> None:
        self.share = Share(order, global_batch, *ranks_here(rank, ranks))
        self._positions = isinstance(data, Samples)
        if isinstance(data, Samples):
            if data.order != order:
                raise RequestError(f"the samples are of another order: {order.difference(data.order)} (the samples)")
        else:
            check_not_packed(order, "a data set's rows are not its samples, give it `Samples`")
        if not self._positions and len(data) != order.samples:
            raise RequestError(f"the data set has {len(data):,} rows, the order is over {order.samples:,} samples")
        self.start = self._reached = checked_position(start, order)

    @property
    def batch_size(self) -> int:
        """Nothing that may be read: always raises RequestError."""
        raise RequestError(
            "these batches are one rank's share already, and would be shared twice: for accelerate make the loader "
            "with accelerate_loader or for_trainer, for Lightning with OrderData"
        )

    def __len__(self) -> int:
        """Return how many batches there are from `start` on."""
        return self.share.batches(self.start)

    def __iter__(self) -> Iterator[list[int]]:
        order, start = self.share.order, self.start
        self._reached = start
        for batch in range(self.share.batches(start)):
            positions = self.share.of(batch, start)
            self._reached = self.share.stop(batch, start)
            yield list(positions) if self._positions else order.ids(positions).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch that was handed out."""
        return state_of(self.share.order, self._reached)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin where a state stands, with any batch and number of ranks.

        Raises:
            RequestError: for another run's.
        """
        self.start = self._reached = position_in(state, self.share.order)


class OrderSampler(Sampler[int]):
    """The same, row by row: for a DataLoader whose `batch_size` is `global_batch / ranks`, without `drop_last`.

    Its state counts whole batches: take it after a batch, not within one.
    """

    def __init__(self, data: Sized, order: Order, **options: Any) -> None:
        self.batches = OrderBatchSampler(data, order, **options)

    def __len__(self) -> int:
        """Return how many rows there are for this rank from the start on."""
        share, start = self.batches.share, self.batches.start
        left = share.batches(start)
        return share.rank_batch * (left - 1) + len(share.of(left - 1, start)) if left else 0

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the batch of the last row that was handed out."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin where a state stands.

        Raises:
            RequestError: for another run's.
        """
        self.batches.load_state_dict(state)
