"""The samples of a run as the data set of other loaders: row p is what position p of the order reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..shards.loader.opening import artifacts_for
from ..shards.loader.order_reader import OrderReader
from ..shards.order.base import Order

Sample = dict[str, Any]


class Samples:
    """A map-style data set with a row for every position of `order`, read from the artifacts at `roots`.

    A row is a dict: tokens, int64 array (seq_len,), PAD only at the end of a subset's last sample; position; sample_id;
    n_tokens, the real ones. It has no state, so that it can be sent to workers, forked or spawned.

    Attributes:
        order: of the run.

    Raises:
        RequestError: where the order is not for these artifacts.
        WorkError: on reading, when a shard is gone or damaged.
    """

    def __init__(
        self, roots: str | Sequence[str], order: Order, *, cache: str | None = None, verify: bool = True
    ) -> None:
        self.order = order
        self._reader = OrderReader.of(order, artifacts_for(roots, order), cache, verify)

    def __len__(self) -> int:
        """Return how many positions the run has."""
        return self.order.positions

    def __repr__(self) -> str:
        return f"Samples(order={self.order.fingerprint})"

    def __getitem__(self, position: int) -> Sample:
        """Return what the run reads at a position. Raises IndexError outside of it."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        """Return what the run reads at several positions: DataLoader asks for a batch at once."""
        batch = self.read(positions)
        names = ("position", "sample_id", "n_tokens")
        rows = zip(batch["tokens"], *(batch[name].tolist() for name in names), strict=True)
        return [{"tokens": tokens, **dict(zip(names, values, strict=True))} for tokens, *values in rows]

    def read(self, positions: ArrayLike | range) -> dict[str, NDArray[np.int64]]:
        """Return the same for several positions as arrays: tokens int64 (k, seq_len), the others int64 (k,)."""
        wanted = np.atleast_1d(np.asarray(positions, np.int64))
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.order.positions:
            raise IndexError(f"positions go from 0 to {self.order.positions - 1:,}")
        ids = self.order.ids(wanted)
        tokens = self._reader.read(wanted, ids.astype(np.int64))
        n_tokens = self.order.n_tokens(ids)
        return {"tokens": tokens, "position": wanted, "sample_id": ids.astype(np.int64), "n_tokens": n_tokens}
