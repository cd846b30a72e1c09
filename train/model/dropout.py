"""Dropout by site, and stochastic depth: masks that are a pure function of (seed, position, layer, site).

So they are the same on any ranks, in any micro-batches and after any resumption, which masks from torch's generator
are not. A row brings one 64-bit word, row(p) of the purpose `dropout` (`objective.noise`); all arithmetic is modulo
2^64:

    site s          = 8 * layer + number of the site (`SITES`)
    word(p, s, e)   = mix(mix(row(p) + (s + 1) * G) + (e + 1) * G)
    element 4e + i of the row is dropped when the i-th 16 bits of the word, as a signed integer, are less than
    round(65536 * rate) - 32768

and what is kept is divided by the share that is kept. docs/training.md has test vectors.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

SITES = (
    "attention",
    "residual_of_attention",
    "mlp",
    "residual_of_mlp",
    "depth_of_attention",
    "depth_of_mlp",
    "",
    "embedding",
)
"""By their numbers; the embedding is one of layer 0."""


def _signed(n: int) -> int:
    """Return `n` modulo 2^64 as an int64 has it."""
    return (n + 2**63) % 2**64 - 2**63


_GAMMA, _FIRST, _SECOND = (_signed(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Rates(NamedTuple):
    """Shares that are dropped, each 0 for none."""

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    mlp: float = 0.0
    depth: float = 0.0


class Draws:
    """Holds the words of the rows that the model reads now, int64 (rows,): what all sites draw from.

    It is filled before each pass that trains, and lies beside the arguments of the layers rather than among them, since
    nothing but dropout has to do with it.
    """

    words: Tensor | None = None


def _mix(z: Tensor) -> Tensor:
    """Return SplitMix64's output function of int64 words; shifts bring zeros in."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


def site_words(rows: Tensor, site: int, count: int) -> Tensor:
    """Return int64 (rows, count): the first words of a site for each row's word, int64 (rows,)."""
    places = torch.arange(1, count + 1, device=rows.device) * _GAMMA
    return _mix(_mix(rows + _signed((site + 1) * _GAMMA))[:, None] + places)


def kept(rows: Tensor, site: int, rate: float, shape: Sequence[int]) -> Tensor:
    """Return bool (rows, *shape), False for what is dropped."""
    elements = math.prod(shape)
    numbers = site_words(rows, site, -(-elements // 4)).view(torch.int16)[:, :elements]
    return (numbers >= _steps(rate) - 2**15).view(-1, *shape)


def _steps(rate: float) -> int:
    """Return a rate in 65536ths, below 1."""
    return min(round(rate * 2**16), 2**16 - 1)


class Site(nn.Module):
    """Dropout of one site in one layer: of single elements, or of whole rows (`rows`), as stochastic depth drops a
    layer's part for a sample."""

    def __init__(self, name: str, layer: int, rate: float, draws: Draws, rows: bool = False) -> None:
        super().__init__()
        self.site, self.rate, self.draws, self.rows = 8 * layer + SITES.index(name), rate, draws, rows

    @property
    def active(self) -> bool:
        """Return whether it drops anything now."""
        return self.training and self.rate > 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (rows, ...) with what is dropped set to 0 and the rest made larger."""
        if not self.active:
            return x
        words = self.draws.words
        assert words is not None, "a pass that trains gives the words of its rows"
        shape = (1,) * (x.dim() - 1) if self.rows else x.shape[1:]
        mask = kept(words, self.site, self.rate, shape)
        return torch.where(mask, x / (1.0 - _steps(self.rate) / 2**16), 0.0)


class Residual(nn.Module):
    """What is done to what a layer's part adds to the residual stream: `dropout` from torch's generator, dropout by
    site, stochastic depth."""

    def __init__(self, part: str, layer: int, layers: int, dropout: float, rates: Rates, draws: Draws) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.site = Site(f"residual_of_{part}", layer, rates.residual, draws)
        depth = rates.depth * (layer + 1) / layers  # deeper parts are dropped more often (Huang et al. 2016)
        self.depth = Site(f"depth_of_{part}", layer, depth, draws, rows=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added, shape of `x`."""
        return self.depth(self.site(self.dropout(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, site: Site) -> Tensor:
    """Return attention with dropout of its weights by `site`, which have to be made whole for it: memory and time grow
    with the square of the length, as they do not in the fused kernels.

    Args:
        q: (rows, heads, length, head size); `k` and `v` alike.
        mask: bool, True where a token (row) may attend (column).
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return site(weights).to(v.dtype) @ v
