"""The two objectives: which tokens a model reads, which it must predict, and what each prediction weighs.

Both give every sample of `seq_len` tokens `seq_len` possible targets and divide the weighted sum of their negative
log-likelihoods by batch * seq_len, so that a loss is the same however a batch is cut into micro-batches and ranks.
PAD is never a target and, in a masked-diffusion model, never attended to.

`corrupt` works on numpy arrays on the CPU (in loader workers); `pack` turns rows of its result into what
`Transformer.forward` takes, with the positions of all targets known, so that nothing waits for a GPU.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import noise

TokenRows = NDArray[np.int64]


class SpecialIds(NamedTuple):
    """Ids with a meaning. EOD begins an autoregressive input (it is BOS) and ends documents."""

    eod: int
    pad: int
    mask: int


class Corrupted(NamedTuple):
    """What a model reads and must predict, for rows of a batch.

    Attributes:
        inputs: int64 (rows, length).
        labels: int64 (rows, length).
        targets: bool (rows, length), True where the label must be predicted.
        weights: float64 (rows,), of each of the row's targets.
        attention_mask: bool (rows, length), False on PAD.
    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]
    targets: NDArray[np.bool_]
    weights: NDArray[np.float64]
    attention_mask: NDArray[np.bool_]


class Objective(Protocol):
    """A training objective. `kind` names what its loss is, in logs and tables."""

    @property
    def causal(self) -> bool: ...

    @property
    def kind(self) -> str: ...

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """Return what to read and predict.

        Args:
            tokens: int64 (rows, length).
            n_tokens: int64 (rows,), real tokens; the rest of a row is PAD.
            positions: int64 (rows,), places in the run's order, the only thing noise depends on besides the seed.
        """
        ...


def _real(tokens: TokenRows, n_tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.arange(tokens.shape[1])[None, :] < n_tokens[:, None]


def _attended(real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what may be attended to: real tokens, and all of a row without any (a filler), which would otherwise be a
    softmax over nothing and cost the batch its kernels without a mask."""
    return real | ~real.any(1, keepdims=True)


@dataclass(frozen=True)
class Autoregressive:
    """Next-token prediction: reads [BOS] + x[:-1], predicts x; the loss is the exact negative log-likelihood.

    Attributes:
        input_masking: probability that an input token (BOS never) is replaced by MASK, the paper's ablation.
    """

    ids: SpecialIds
    seed: int = 0
    input_masking: float = 0.0

    causal = True

    @property
    def kind(self) -> str:
        """Return `nll`; with masked inputs the loss is not a likelihood of the text, and its name says so."""
        return "nll_masked_input" if self.input_masking else "nll"

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        inputs = np.concatenate([np.full_like(tokens[:, :1], self.ids.eod), tokens[:, :-1]], axis=1)
        if self.input_masking:
            bits = noise.token_bits(self.seed, "input-mask", positions, tokens.shape[1])
            hide = noise.to_uniform(bits) < self.input_masking
            hide[:, 0] = False
            inputs = np.where(hide, self.ids.mask, inputs)
        real = _real(tokens, n_tokens)
        return Corrupted(inputs, tokens, real, np.ones(len(tokens)), _attended(real))


@dataclass(frozen=True)
class MaskedDiffusion:
    """Masked diffusion: reads x with some tokens replaced by MASK, predicts those; the loss is an upper bound.

    Of u in [0, 1) drawn per sample (`sampling`): inverse_t: t = eps + (1 - eps) u, each token masked with probability
    t, weight 1/t (LLaDA, SMDM; Nie et al. 2025). exact_count: k = 1 + floor(u n) of the n real tokens masked, weight
    n/k: each row contributes n times the mean over its masked tokens, the any-order form of the same bound (Ou et al.
    2024), unbiased without any eps.

    Attributes:
        group: positions that stratified levels are spread over: the global batch in samples.
        random_length: probability that a step trains on a shorter length drawn uniformly (tokens beyond it are
            dropped).
    """

    ids: SpecialIds
    seed: int = 0
    weighting: Literal["inverse_t", "exact_count"] = "inverse_t"
    eps: float = 1e-3
    sampling: Literal["uniform", "stratified"] = "uniform"
    group: int = 1
    random_length: float = 0.0

    causal = False
    kind = "nelbo"

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        tokens = tokens[:, : self._length(positions, tokens.shape[1])]
        n_tokens = np.minimum(n_tokens, tokens.shape[1])
        real = _real(tokens, n_tokens)
        bits = noise.token_bits(self.seed, "mask", positions, tokens.shape[1])
        if self.weighting == "inverse_t":
            targets, weights = self._bernoulli(bits, self.levels(positions))
        else:
            targets, weights = _exact_count(bits, real, self.levels(positions), n_tokens)
        targets &= real
        return Corrupted(np.where(targets, self.ids.mask, tokens), tokens, targets, weights, _attended(real))

    def levels(self, positions: noise.Positions) -> noise.Uniform:
        """Return u of each position, float64 in [0, 1)."""
        if self.sampling == "stratified":
            return noise.stratified_levels(self.seed, positions, self.group)
        return noise.uniform_levels(self.seed, positions)

    def _bernoulli(self, bits: noise.Bits, u: noise.Uniform) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        t = self.eps + (1.0 - self.eps) * u
        return noise.to_uniform(bits) < t[:, None], inverse_t_weight(t)

    def _length(self, positions: noise.Positions, length: int) -> int:
        """Return the length this step trains on: one draw per global batch, so all ranks agree."""
        if not self.random_length or not len(positions):
            return length
        step = positions[:1] // self.group
        if noise.to_uniform(noise.row_bits(self.seed, "shorten", step))[0] >= self.random_length:
            return length
        return 1 + int(noise.to_uniform(noise.row_bits(self.seed, "length", step))[0] * length)


def inverse_t_weight(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each masked token when tokens were masked with probability t: 1/t (t = 0 masks none)."""
    return 1.0 / np.maximum(t, 2.0**-53)


def exact_count_weight(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of each masked token when exactly k of n were masked: n/k."""
    return n / np.maximum(k, 1)


def _exact_count(
    bits: noise.Bits, real: NDArray[np.bool_], u: noise.Uniform, n: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask the k real tokens of each row with the smallest words."""
    k = np.where(n > 0, 1 + (u * n).astype(np.int64), 0)
    ranked = np.where(real, bits, ~np.uint64(0))
    targets = np.zeros(real.shape, np.bool_)
    for row, count in enumerate(k):
        if count:
            targets[row] = ranked[row] <= np.partition(ranked[row], count - 1)[count - 1]
    return targets, exact_count_weight(n, (targets & real).sum(1))


class Packed(NamedTuple):
    """Keyword arguments of `Transformer.forward`; None where everything is meant."""

    tokens: Tensor
    attention_mask: Tensor | None
    target_positions: Tensor | None
    labels: Tensor
    weights: Tensor


def pack(rows: Corrupted, dtype: torch.dtype = torch.float32) -> Packed:
    """Return `rows` as tensors for the model; weights have `dtype`."""
    target_positions = np.flatnonzero(rows.targets)
    every = len(target_positions) == rows.targets.size
    weights = np.repeat(rows.weights, rows.targets.sum(1))
    return Packed(
        tokens=torch.from_numpy(np.ascontiguousarray(rows.inputs)),
        attention_mask=None if rows.attention_mask.all() else torch.from_numpy(rows.attention_mask),
        target_positions=None if every else torch.from_numpy(target_positions),
        labels=torch.from_numpy(rows.labels.reshape(-1)[target_positions]),
        weights=torch.from_numpy(weights).to(dtype),
    )


def loss_of(nll_sum: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the loss in nats per token: the weighted sum divided by batch * length, `shape` of the tokens read."""
    return nll_sum / (shape[0] * shape[1])
