"""Attention that stays within documents.

One function of places says which token may attend to which (`attends`). On a CPU it is asked for all pairs at once, and
attention is given the mask. On a GPU attention asks it inside its kernel (flex attention), and is told beforehand which
blocks of 128 x 128 places hold nothing to attend to: these are skipped, and no mask exists, a square per sample.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

if TYPE_CHECKING:  # it takes a while to import, and only a GPU needs it
    from torch.nn.attention.flex_attention import BlockMask

Mask = Union[Tensor, "BlockMask"]
"""bool, broadcastable to (batch, heads, length, cached + length), or what flex attention takes."""

Attends = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, place that asks, place that is asked) -> bool; all integers, of shapes that broadcast."""

BLOCK = 128
"""Places of a block of flex attention."""


def attends(documents: Tensor, causal: bool, further: Attends | None = None) -> Attends:
    """Return who may attend to whom: within documents, to the left alone where `causal`, and as `further` allows.

    Args:
        documents: int32 (rows, length), the document of each token.
    """

    def may(row: Tensor, head: Tensor, asks: Tensor, asked: Tensor) -> Tensor:
        allowed = documents[row, asks] == documents[row, asked]
        if causal:
            allowed = allowed & (asked <= asks)
        return allowed if further is None else allowed & further(row, head, asks, asked)

    return may


def positions_within(documents: Tensor) -> Tensor:
    """Return int64 (rows, length): places that begin anew in every document."""
    place = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - torch.where(begins, place, 0).cummax(1).values


def whole(may: Attends, rows: int, length: int, device: torch.device) -> Tensor:
    """Return bool (rows, 1, length, length): `may` asked for all pairs."""
    row, place = torch.arange(rows, device=device), torch.arange(length, device=device)
    head = torch.zeros((), dtype=torch.int64, device=device)
    return may(row[:, None, None, None], head, place[:, None], place)


def blocks(may: Attends, documents: Tensor, causal: bool) -> "BlockMask":
    """Return what flex attention takes: `may`, and the blocks in which it may say yes.

    Blocks are found by the first and last document in each, as numbers of documents never fall along a row: nothing
    larger than (rows, blocks, blocks) is made. `may` is asked in all of them.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = documents.shape[1]
    count = -(-length // BLOCK)
    starts = torch.arange(count, device=documents.device) * BLOCK
    first, last = documents[:, starts], documents[:, (starts + BLOCK - 1).clamp(max=length - 1)]
    share = (first[:, :, None] <= last[:, None, :]) & (first[:, None, :] <= last[:, :, None])
    if causal:
        share = share.tril()
    numbers = share.sum(-1, dtype=torch.int32)[:, None]
    order = share.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)[:, None]
    return BlockMask.from_kv_blocks(
        numbers, order.contiguous(), BLOCK_SIZE=BLOCK, mask_mod=may, seq_lengths=(length, length)
    )


def mask_of_documents(documents: Tensor, causal: bool, further: Attends | None, sparse: bool) -> Mask:
    """Return the mask of a batch, the same for all layers.

    Args:
        documents: int32 (rows, length).
        causal: whether tokens attend to the left alone.
        further: what else must allow it.
        sparse: as blocks for flex attention, in place of a square per sample.
    """
    may = attends(documents, causal, further)
    return (
        blocks(may, documents, causal)
        if sparse
        else whole(may, documents.shape[0], documents.shape[1], documents.device)
    )


def attention(q: Tensor, k: Tensor, v: Tensor, mask: "BlockMask") -> Tensor:
    """Return flex attention, (rows, heads, length, head size) as `q`; `k` and `v` are alike."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compiler.is_compiling() or q.device.type != "cuda"  # with a block, or where it cannot be
    attend: Callable[..., Any] = flex_attention if compiled else _compiled()
    found: Tensor = attend(q, k, v, block_mask=mask)
    return found


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Return flex attention as kernels of its own: as it comes it makes all scores, a square per head."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
