"""The keys and values of tokens that a transformer has read.

What generation and scoring share: a long prefix is read once, then many continuations attend to it.
"""

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, (batch, kv_heads, length, head_size); empty at first.

    A cache of batch 1 serves any number of rows: it is expanded, not copied, until tokens are kept.
    """

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.keep = True

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return earlier and new keys and values, each (batch, kv_heads, earlier + new, head_size).

        With `keep` off the new ones are not remembered.
        """
        if self.k is not None and self.v is not None:
            shape = (k.shape[0], -1, -1, -1)
            k, v = torch.cat((self.k.expand(shape), k), 2), torch.cat((self.v.expand(shape), v), 2)
        if self.keep:
            self.k, self.v = k, v
        return k, v


class KVCache:
    """Keys and values of all layers. `length`: tokens held."""

    def __init__(self, layers: int) -> None:
        self.layers = [LayerCache() for _ in range(layers)]

    @property
    def length(self) -> int:
        """Return how many tokens are held."""
        k = self.layers[0].k
        return 0 if k is None else k.shape[2]

    def set_keep(self, keep: bool) -> None:
        """Choose whether tokens read from now on stay in the cache."""
        for layer in self.layers:
            layer.keep = keep
