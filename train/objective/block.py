"""Block diffusion: blocks of tokens from left to right, masked diffusion within each (BD3-LM; Arriola et al. 2025).

    NLL <= sum over blocks c of  E over k uniform in 1..n_c, over sets S of k tokens of block c, of
           n_c/k * sum over i in S of -log p(x_i | earlier blocks, block c outside S)

With blocks of one token k is 1: each token is predicted from all to its left, and the sum is the exact negative
log-likelihood of an autoregressive model that asks with MASK at the token's own place. One block over the whole text
is masked diffusion.

All blocks are trained in one pass: the model reads the clean text and then its noised copy, whose tokens attend to the
clean text of earlier blocks and to their own noised block. Nothing attends to the clean text of the last block, which
is left out; so with one block the noised text alone is read, and samples of n tokens cost (2 n - the last block) reads.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..model.attention_reach import HIDDEN, Reach, reach_of
from . import noise
from .objectives import Corrupted, MaskedDiffusion, SpecialIds, TokenRows, attended_of, real_of


@dataclass(frozen=True)
class BlockDiffusion:
    """Masks k_c = 1 + floor(u_c n_c) of the n_c real tokens of block c, each with weight n_c / k_c.

    u_0 is the u of masked diffusion and u_c = frac(u_0 + w_c) with w_c uniform, so that with one block the noise is
    that of `MaskedDiffusion` with `exact_count`; every u_c is uniform and independent of the others.

    Attributes:
        block_size: tokens of a block; the last one is shorter where the length is no multiple of it.
        sampling: as of `MaskedDiffusion`; stratified ones are spread over a group for every block.
        group: as of `MaskedDiffusion`.
    """

    ids: SpecialIds
    seed: int = 0
    block_size: int = 1
    sampling: Literal["uniform", "stratified"] = "uniform"
    group: int = 1

    causal = False

    @property
    def target_share(self) -> float:
        """Return the mean share of tokens that are predicted, of whole blocks."""
        return (self.block_size + 1) / (2 * self.block_size)

    @property
    def kind(self) -> str:
        """Return `nelbo`, and `nll` for blocks of one token, whose loss is exact."""
        return "nll" if self.block_size == 1 else "nelbo"

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        length = tokens.shape[1]
        real = real_of(tokens, n_tokens)
        starts = np.arange(0, length, self.block_size)
        counts = np.add.reduceat(real.astype(np.int64), starts, axis=1)
        k = np.where(counts > 0, 1 + (self.levels(positions, len(starts)) * counts).astype(np.int64), 0)
        targets = self._smallest(noise.token_bits(self.seed, "mask", positions, length), real, k)
        weights = np.repeat(counts / np.maximum(k, 1), self.block_size, axis=1)[:, :length]
        noised, attended = np.where(targets, self.ids.mask, tokens), attended_of(real)
        return Corrupted(
            doubled(tokens, noised, self.block_size),
            *(tokens, targets, weights, attended),
            reach=doubled_reach(attended, self.block_size),
        )

    def levels(self, positions: noise.Positions, blocks: int) -> noise.Uniform:
        """Return u_c of each position, float64 (positions, blocks) in [0, 1)."""
        plain = MaskedDiffusion(self.ids, self.seed, sampling=self.sampling, group=self.group).levels(positions)
        shared = positions // self.group if self.sampling == "stratified" else positions
        shift = noise.to_uniform(noise.token_bits(self.seed, "block-level", shared, blocks))
        shift[:, 0] = 0.0
        return (plain[:, None] + shift) % 1.0

    def _smallest(self, bits: noise.Bits, real: NDArray[np.bool_], k: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the k real tokens of each block with the smallest words, bool (rows, length)."""
        rows, length = real.shape
        missing = k.shape[1] * self.block_size - length
        ranked = np.pad(np.where(real, bits, ~np.uint64(0)), ((0, 0), (0, missing)), constant_values=~np.uint64(0))
        order = ranked.reshape(rows, -1, self.block_size).argsort(axis=2, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(self.block_size), order.shape), axis=2)
        return (rank < k[:, :, None]).reshape(rows, -1)[:, :length]


def clean_length(length: int, block_size: int) -> int:
    """Return how many tokens of a text of `length` lie in blocks before its last one."""
    return (length - 1) // block_size * block_size


def doubled(tokens: TokenRows, noised: TokenRows, block_size: int) -> TokenRows:
    """Return what is read in one pass, int64 (rows, clean + length): all blocks but the last, then the noised text."""
    return np.concatenate([tokens[:, : clean_length(tokens.shape[1], block_size)], noised], axis=1)


def doubled_reach(attended: NDArray[np.bool_], block_size: int) -> Reach:
    """Return the reach of what `doubled` returns; `attended` is bool (rows, length), False on PAD."""
    length = attended.shape[1]
    clean = clean_length(length, block_size)
    block = np.broadcast_to(np.arange(length) // block_size, attended.shape)
    none = np.full(attended.shape, -1)
    columns = (
        (np.where(attended, block, HIDDEN)[:, :clean], np.full_like(block, HIDDEN)),
        (block[:, :clean], block - 1),
        (none[:, :clean], np.where(attended, block, none)),
    )
    return reach_of(*(np.concatenate(pair, axis=1) for pair in columns))
