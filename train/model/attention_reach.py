"""Attention masks of rows that attend differently, from three numbers a token.

Token i attends to token j where `since[j] <= until[i]`, where both are of the same `block` (0 or more), and where
i = j. Rows of numbers are cut into micro-batches and sent to a device as any other column; the mask, a square a row,
is made there.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .document_mask import Attends, Mask, mask_of_documents, positions_within
from .kv_cache import KVCache

HIDDEN = 2**31 - 1
"""`since` of a token that none but its own block, or itself, attends to."""

Reach = NDArray[np.int32]
"""int32 (rows, length, 3): since, until, block (-1 for none)."""


def reach_of(since: NDArray[np.int64], until: NDArray[np.int64], block: NDArray[np.int64]) -> Reach:
    """Return the three columns, each (rows, length), as one array."""
    return np.stack((since, until, block), axis=-1).astype(np.int32)


def causal(attended: NDArray[np.bool_]) -> Reach:
    """Return the reach of rows in which a token attends to itself and to its left; False in `attended` is PAD."""
    place = np.broadcast_to(np.arange(attended.shape[1]), attended.shape)
    return reach_of(np.where(attended, place, HIDDEN), place, np.full(attended.shape, -1))


def bidirectional(attended: NDArray[np.bool_]) -> Reach:
    """Return the reach of rows in which a token attends to all that is True in `attended`."""
    nothing = np.zeros(attended.shape, np.int64)
    return reach_of(np.where(attended, 0, HIDDEN), nothing, nothing - 1)


def block_causal(block_size: int, past: int, length: int, attended: Tensor | None, device: torch.device) -> Tensor:
    """Return bool (batch or 1, 1, length, past + length): a token attends to its own block and to earlier ones.

    Args:
        past: tokens before the `length` that ask; blocks are counted from the first of all.
        attended: bool (batch, past + length), False on PAD; None where there is none.
    """
    block = torch.arange(past + length, device=device) // block_size
    mask = (block[None, :] <= block[past:, None])[None, None]
    return mask if attended is None else mask & attended[:, None, None, :]


def attention_mask(reach: Tensor) -> Tensor:
    """Return bool (rows, 1, length, length), True where a token (row) attends to another (column).

    Args:
        reach: int32 (rows, length, 3).
    """
    since, until, block = reach.unbind(-1)
    mask = since[:, None, :] <= until[:, :, None]
    mask |= (block[:, None, :] == block[:, :, None]) & (block >= 0)[:, None, :]
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return mask[:, None]


def attends(reach: Tensor) -> Attends:
    """Return `attention_mask` as a function of places.

    Args:
        reach: int32 (rows or 1, length, 3).
    """
    since, until, block = reach.unbind(-1)

    def may(row: Tensor, head: Tensor, asks: Tensor, asked: Tensor) -> Tensor:
        row = row * (len(reach) > 1)
        same = (block[row, asked] == block[row, asks]) & (block[row, asked] >= 0)
        return (since[row, asked] <= until[row, asks]) | same | (asked == asks)

    return may


def mask_of(
    causal: bool,
    block_size: int | None,
    attention_mask: Mask | None,
    cache: KVCache | None,
    length: int,
    device: torch.device,
) -> Mask | None:
    """Return what `Attention` takes for the `attention_mask` of `Transformer.hidden_states`."""
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.dim() == 2):
        return attention_mask
    if block_size is not None:
        past = cache.length if cache else 0
        return block_causal(block_size, past, length, attention_mask, device)
    if causal:
        if cache is None or length == 1:
            return None  # attention itself masks the right; a single token has none
        return torch.ones(length, cache.length + length, dtype=torch.bool, device=device).tril(cache.length)
    return None if attention_mask is None else attention_mask[:, None, None, :]


def within(
    documents: Tensor, positions: Tensor | None, reach: Tensor | None, causal: bool, restart: bool, whole: bool
) -> tuple[Mask, Tensor | None]:
    """Return the `attention_mask` and the `positions` of `Transformer.hidden_states` for texts of several documents.

    Args:
        documents: int32 (rows, length), the document of each token, which attends to no other; they never fall.
        positions: where they do not restart.
        reach: of rows that do not attend as the model does by itself.
        causal: tokens attend to the left alone.
        restart: positions begin anew in each document.
        whole: make a mask, a square per sample, on a GPU too: where weights of attention are dropped.
    """
    further = None if reach is None else attends(reach)
    mask = mask_of_documents(documents, causal, further, sparse=documents.is_cuda and not whole)
    return mask, positions_within(documents) if restart else positions


def same_rows(reach: Reach) -> Reach:
    """Return the first row alone where all rows are the same, so that one mask serves them all."""
    return reach[:1] if (reach == reach[:1]).all() else reach


def hidden_of_targets(
    read: Callable[[Tensor, Mask | None, Tensor | None], Tensor],
    tokens: Tensor,
    mask: Mask | None,
    target_positions: Tensor | None,
    reach: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    """Return the hidden states of the targets, (n, hidden).

    Args:
        read: `hidden_states` of a model; the others, `mask` its `attention_mask`, are as for `Transformer.forward`.
    """
    mask = mask if reach is None else attention_mask(reach)
    x = read(tokens, mask, positions).flatten(0, 1)
    return x if target_positions is None else x.index_select(0, target_positions)
