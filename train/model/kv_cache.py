"""Running a transformer on some tokens at given places, with the keys and values of earlier tokens kept.

What generation and scoring share: a long prefix is read once, then many continuations attend to it.
"""

import torch
from torch import Tensor

from .cross_entropy import token_nll
from .transformer import Transformer, rotary_tables


class LayerCache:
    """Keys and values of one layer, (batch, kv_heads, length, head_size); empty at first.

    A cache of batch 1 serves any number of rows: it is expanded, not copied, until tokens are kept.
    """

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.keep = True

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `model.Past`. With `keep` off the new tokens are forgotten again."""
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


def read(
    model: Transformer,
    tokens: Tensor,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
    cache: KVCache | None = None,
) -> Tensor:
    """Return the normed last hidden states of `tokens`, (batch, length, hidden).

    tokens: int64 (batch, length). positions: int64 (batch, length) or (length,), places in the text for the rotary
    embedding; following the cache when None. mask: bool, broadcastable to (batch, 1, length, cached + length), True
    where a token (row) may attend (column); None: causal in a causal model, everything in another.
    """
    config, past = model.config, cache.length if cache else 0
    length = tokens.shape[1]
    reach = past + length if positions is None else int(positions.max()) + 1
    if positions is None:
        positions = torch.arange(past, past + length, device=tokens.device)
    if mask is None and config.causal and cache is not None and length > 1:
        mask = torch.ones(length, past + length, dtype=torch.bool, device=tokens.device).tril(past)
    assert config.head_size is not None, "filled in by ModelConfig"
    tables = rotary_tables(reach, config.head_size, config.rope_base, tokens.device)
    cos, sin = (table[positions] for table in tables)
    if positions.dim() == 2:
        cos, sin = cos[:, None], sin[:, None]  # one for all heads
    x = model.embedding(tokens)
    for i, block in enumerate(model.blocks):
        x = block(x, cos, sin, mask, cache.layers[i] if cache else None)
    return model.norm(x)


def head_weight(model: Transformer) -> Tensor:
    """Return the output head, (padded vocabulary, hidden)."""
    return model.embedding.weight if model.head is None else model.head.weight


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    """Return logits in float32, (..., vocab_size), of hidden states (..., hidden)."""
    logits = torch.nn.functional.linear(hidden, head_weight(model))
    return logits[..., : model.config.vocab_size].float()


def nll_of(model: Transformer, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return nats, float32 or wider (n,), of labels (n,) given hidden states (n, hidden)."""
    return token_nll(hidden, head_weight(model), labels, model.config.vocab_size)
