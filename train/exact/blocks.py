"""Texts of block diffusion: which tokens lie in which block, and the bound of a whole text in one read a noise sample.

Blocks are counted from the first token that a model reads. Of an answer after a context, the first block may begin in
the context: its tokens there are read as they are, which training has shown the model too.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ..model import attention_reach
from ..model.transformer import Transformer
from ..objective.block import clean_length, doubled, doubled_reach
from ..objective.nelbo import estimate, masks_for

TokenIds = NDArray[np.int64]

NEXT_BLOCK = 2**40
"""Between the noise positions of two blocks of one text, so that the first block's are those of masked diffusion."""


def pieces(context: int, answer: int, block_size: int | None) -> list[tuple[int, int]]:
    """Return (start, stop) of the parts of an answer of `answer` tokens that lie in one block each, after `context`
    tokens; one part without blocks."""
    if block_size is None:
        return [(0, answer)]
    first = block_size - context % block_size
    edges = [0, *range(first, answer, block_size), answer]
    return list(itertools.pairwise(edges))


def steps_of(context: TokenIds, answer: TokenIds, block_size: int | None) -> Iterator[tuple[TokenIds, TokenIds]]:
    """Iterate (what is written, the answer's tokens in the next block), from left to right."""
    for start, stop in pieces(len(context), len(answer), block_size):
        yield np.concatenate([context, answer[:start]]), answer[start:stop]


@torch.no_grad()
def bound(
    model: Transformer, mask: int, row: TokenIds, draws: int, seed: int, position: int, batch_tokens: int
) -> tuple[float, float]:
    """Return the bound of the text `row` in nats, and the standard error that noise leaves: 0 in blocks of one token.

    The first noise sample of each block is read in one pass, then the second of each, and so on; a block whose masks
    are all read is exact.

    Args:
        mask: the MASK id.
        draws: noise samples at most.
        position: what the noise is a pure function of, besides the seed.
        batch_tokens: read at a time.
    """
    size = model.config.block_size
    assert size is not None, "of block diffusion alone"
    blocks = pieces(0, len(row), size)
    sets = [masks_for(stop - start, draws, seed, position + i * NEXT_BLOCK) for i, (start, stop) in enumerate(blocks)]
    hidden = np.zeros((max(len(own.masks) for own in sets), len(row)), np.bool_)
    for (start, stop), own in zip(blocks, sets, strict=True):
        hidden[: len(own.masks), start:stop] = own.masks
    step = max(1, batch_tokens // (len(row) + clean_length(len(row), size)))
    nats = np.concatenate([_nats(model, mask, row, hidden[at : at + step]) for at in range(0, len(hidden), step)])
    of_blocks = np.add.reduceat(nats, [start for start, _ in blocks], axis=1)
    found = [estimate(of_blocks[: len(own.masks), i], own) for i, own in enumerate(sets)]
    return sum(value for value, _ in found), math.sqrt(sum(error**2 for _, error in found))


def _nats(model: Transformer, mask: int, row: TokenIds, hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the nats of each hidden token, 0 for others, float64, shape of `hidden` (passes, n)."""
    size, device = model.config.block_size, model.device
    assert size is not None, "of block diffusion alone"
    clean, n = clean_length(len(row), size), len(row)
    tokens = doubled(np.broadcast_to(row, hidden.shape), np.where(hidden, mask, row), size)
    at_pass, place = np.nonzero(hidden)
    reach = torch.from_numpy(doubled_reach(np.ones((1, n), np.bool_), size))
    nats = model(
        torch.from_numpy(tokens).to(device),
        attention_reach.attention_mask(reach).to(device),
        torch.from_numpy(at_pass * (clean + n) + clean + place).to(device),
        torch.from_numpy(row[place]).to(device),
        positions=torch.cat((torch.arange(clean), torch.arange(n))).to(device),
    )
    found = np.zeros(hidden.shape)
    found[at_pass, place] = nats.double().cpu().numpy()
    return found
