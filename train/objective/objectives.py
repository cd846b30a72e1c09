"""The two objectives: which tokens a model reads, which it must predict, and what each prediction weighs.

Both give every sample of `seq_len` tokens `seq_len` possible targets and divide the weighted sum of their negative
log-likelihoods by batch * seq_len, so that a loss is the same however a batch is cut into micro-batches and ranks.
PAD is never a target and, in a masked-diffusion model, never attended to.

`corrupt` works on numpy arrays on the CPU (in loader workers); `pack` turns rows of its result into what
`Transformer.forward` takes, with the positions of all targets known, so that nothing waits for a GPU.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.attention_reach import Reach, same_rows
from . import augment, noise
from .documents import GIVEN_LENGTHS, DocumentIds, of_inputs, of_text
from .levels import Levels

TokenRows = NDArray[np.int64]


class SpecialIds(NamedTuple):
    """Ids with a meaning. EOD begins an autoregressive input (it is BOS) and ends documents."""

    eod: int
    pad: int
    mask: int


class Corrupted(NamedTuple):
    """What a model reads and must predict, for rows of a batch.

    Attributes:
        inputs: int64 (rows, length); of block diffusion (rows, clean + length), the clean text comes first.
        labels: int64 (rows, length).
        targets: bool (rows, length), True where the label must be predicted.
        weights: float64 (rows,), of each of the row's targets, or (rows, length).
        attention_mask: bool (rows, length), False on PAD.
        reach: int32 (rows, inputs, 3), see `attention_reach`: of rows that do not attend as the model does by itself.
        documents: int32 (rows, length), of a model whose attention stays within them, see `objective.documents`.
    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]
    targets: NDArray[np.bool_]
    weights: NDArray[np.float64]
    attention_mask: NDArray[np.bool_]
    reach: Reach | None = None
    documents: DocumentIds | None = None


class Objective(Protocol):
    """A training objective. `kind` names what its loss is, in logs and tables; `target_share` is the mean share of
    tokens that are predicted."""

    @property
    def causal(self) -> bool: ...

    @property
    def kind(self) -> str: ...

    @property
    def target_share(self) -> float: ...

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """Return what to read and predict.

        Args:
            tokens: int64 (rows, length).
            n_tokens: int64 (rows,), real tokens; the rest of a row is PAD.
            positions: int64 (rows,), places in the run's order, the only thing noise depends on besides the seed.
        """
        ...


def real_of(tokens: TokenRows, n_tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool (rows, length), False on PAD."""
    return np.arange(tokens.shape[1])[None, :] < n_tokens[:, None]


def attended_of(real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what may be attended to: real tokens, and all of a row without any (a filler), which would otherwise be a
    softmax over nothing and cost the batch its kernels without a mask."""
    return real | ~real.any(1, keepdims=True)


@dataclass(frozen=True)
class Autoregressive:
    """Next-token prediction: reads [BOS] + x[:-1], predicts x; the loss is the exact negative log-likelihood.

    Attributes:
        input_masking: probability that an input token (BOS never) is replaced by MASK, the paper's ablation.
        random_replacement: probability that an input token (BOS never) is replaced by a random id that is not special;
            where MASK is drawn too, it is MASK.
        right_to_left: probability that a sample is read and predicted from its end. It then begins with MASK instead
            of BOS, so that the model knows which way it reads.
        vocab_size: ids that are drawn from.
        document_mask: the model is told which document each token is of.
    """

    ids: SpecialIds
    seed: int = 0
    input_masking: float = 0.0
    random_replacement: float = 0.0
    right_to_left: float = 0.0
    vocab_size: int = 0
    document_mask: bool = False

    causal = True
    target_share = 1.0

    @property
    def kind(self) -> str:
        """Return `nll`; where the loss is not the likelihood of the text from left to right, its name says so."""
        changes = {
            "_masked_input": self.input_masking,
            "_random_input": self.random_replacement,
            "_both_directions": self.right_to_left,
        }
        return "nll" + "".join(name for name, share in changes.items() if share)

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        real, first = real_of(tokens, n_tokens), np.full_like(tokens[:, :1], self.ids.eod)
        if self.right_to_left:
            tokens, turned = augment.reversed_rows(self.seed, self.right_to_left, tokens, n_tokens, positions)
            first[turned] = self.ids.mask
        clean = np.concatenate([first, tokens[:, :-1]], axis=1)
        inputs, weights = self._noised(clean, positions), np.ones(len(tokens))
        places = of_inputs(clean, self.ids.eod) if self.document_mask else None
        return Corrupted(inputs, tokens, real, weights, attended_of(real), documents=places)

    def _noised(self, inputs: TokenRows, positions: noise.Positions) -> TokenRows:
        length = inputs.shape[1]
        if self.random_replacement:
            changed = augment.drawn(self.seed, "random-token", self.random_replacement, positions, length)
            inputs = np.where(changed, augment.random_ids(self.seed, self._plain_ids, positions, length), inputs)
        if self.input_masking:
            hidden = augment.drawn(self.seed, "input-mask", self.input_masking, positions, length)
            inputs = np.where(hidden, self.ids.mask, inputs)
        return inputs

    @functools.cached_property
    def _plain_ids(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.vocab_size), self.ids)


@dataclass(frozen=True)
class MaskedDiffusion:
    """Masked diffusion: reads x with some tokens replaced by MASK, predicts those; the loss is an upper bound.

    Of u in [0, 1) drawn per sample (`sampling`): inverse_t: t = eps + (1 - eps) u, each token masked with probability
    t, weight 1/t (LLaDA, SMDM; Nie et al. 2025). exact_count: k = 1 + floor(u n) of the n real tokens masked, weight
    n/k: each row contributes n times the mean over its masked tokens, the any-order form of the same bound (Ou et al.
    2024), unbiased without any eps. uniform: masked as for inverse_t, every masked token weighs 1 / (mean t), and the
    loss is the mean nats of a masked token, no bound.

    Attributes:
        group: positions that stratified levels are spread over: the global batch in samples.
        random_length: probability that a step trains on a shorter length drawn uniformly (tokens beyond it are
            dropped).
        noise_schedule: how t follows from u; the weights follow it, so that the bound stays one (`levels`).
        t_range: the shares of masks that are trained on, instead of all (Arriola et al. 2025); no bound.
        fixed_ratio: the one share of masks that is trained on, as BERT's 0.15 (Devlin et al. 2019); no bound.
        document_mask: the model is told which document each token is of, and so where documents end.
    """

    ids: SpecialIds
    seed: int = 0
    weighting: Literal["inverse_t", "exact_count", "uniform"] = "inverse_t"
    eps: float = 1e-3
    sampling: Literal["uniform", "stratified"] = "uniform"
    group: int = 1
    random_length: float = 0.0
    noise_schedule: Literal["linear", "cosine"] = "linear"
    t_range: tuple[float, float] | None = None
    fixed_ratio: float | None = None
    document_mask: bool = False

    causal = False

    @property
    def kind(self) -> str:
        """Return `nelbo`, or `masked_nll` where the loss is no bound; of a model that is told of documents, that it is
        given their lengths."""
        bound = self.fixed_ratio is None and self.t_range in (None, (0.0, 1.0)) and self.weighting != "uniform"
        return ("nelbo" if bound else "masked_nll") + (GIVEN_LENGTHS if self.document_mask else "")

    @property
    def target_share(self) -> float:
        """Return the mean share of tokens that are predicted."""
        return Levels(self.noise_schedule).mean if self.t_range is self.fixed_ratio is None else self._levels.mean

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        tokens = tokens[:, : self._length(positions, tokens.shape[1])]
        n_tokens = np.minimum(n_tokens, tokens.shape[1])
        real = real_of(tokens, n_tokens)
        bits = noise.token_bits(self.seed, "mask", positions, tokens.shape[1])
        levels = self._levels
        t = levels.shares(self.levels(positions))
        if self.weighting == "exact_count":
            targets = _smallest(bits, real, levels.counts(t, n_tokens))
            weights = levels.count_weights(n_tokens, (targets & real).sum(1))
        else:
            targets = noise.to_uniform(bits) < t[:, None]
            weights = levels.weights(t) if self.weighting == "inverse_t" else np.full(len(t), 1.0 / levels.mean)
        targets &= real
        inputs = np.where(targets, self.ids.mask, tokens)
        places = of_text(tokens, real, self.ids.eod) if self.document_mask else None
        return Corrupted(inputs, tokens, targets, weights, attended_of(real), documents=places)

    def levels(self, positions: noise.Positions) -> noise.Uniform:
        """Return u of each position, float64 in [0, 1)."""
        if self.sampling == "stratified":
            return noise.stratified_levels(self.seed, positions, self.group)
        return noise.uniform_levels(self.seed, positions)

    @property
    def _levels(self) -> Levels:
        if self.fixed_ratio is not None:
            return Levels(low=self.fixed_ratio, high=self.fixed_ratio)
        full = (0.0 if self.weighting == "exact_count" else self.eps, 1.0)
        return Levels(self.noise_schedule, *(self.t_range or full))

    def _length(self, positions: noise.Positions, length: int) -> int:
        """Return the length this step trains on: one draw per global batch, so all ranks agree."""
        if not self.random_length or not len(positions):
            return length
        step = positions[:1] // self.group
        if noise.to_uniform(noise.row_bits(self.seed, "shorten", step))[0] >= self.random_length:
            return length
        return 1 + int(noise.to_uniform(noise.row_bits(self.seed, "length", step))[0] * length)


def _smallest(bits: noise.Bits, real: NDArray[np.bool_], k: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True for the k real tokens of each row with the smallest words."""
    ranked = np.where(real, bits, ~np.uint64(0))
    targets = np.zeros(real.shape, np.bool_)
    for row, count in enumerate(k):
        if count:
            targets[row] = ranked[row] <= np.partition(ranked[row], count - 1)[count - 1]
    return targets


class Packed(NamedTuple):
    """Keyword arguments of `Transformer.forward`; None where everything is meant."""

    tokens: Tensor
    attention_mask: Tensor | None
    target_positions: Tensor | None
    labels: Tensor
    weights: Tensor
    reach: Tensor | None = None
    positions: Tensor | None = None
    documents: Tensor | None = None


def pack(rows: Corrupted, dtype: torch.dtype = torch.float32) -> Packed:
    """Return `rows` as tensors for the model; weights have `dtype`."""
    row, place = np.nonzero(rows.targets)
    clean, read = rows.inputs.shape[1] - rows.targets.shape[1], rows.inputs.shape[1]
    every = len(row) == rows.inputs.size
    weights = rows.weights[row] if rows.weights.ndim == 1 else rows.weights[row, place]
    positions = torch.cat((torch.arange(clean), torch.arange(read - clean))) if clean else None
    plain = rows.reach is not None or rows.documents is not None or rows.attention_mask.all()
    return Packed(
        tokens=torch.from_numpy(np.ascontiguousarray(rows.inputs)),
        attention_mask=None if plain else torch.from_numpy(rows.attention_mask),
        target_positions=None if every else torch.from_numpy(row * read + clean + place),
        labels=torch.from_numpy(rows.labels[row, place]),
        weights=torch.from_numpy(weights).to(dtype),
        reach=None if rows.reach is None else torch.from_numpy(same_rows(rows.reach)),
        positions=positions,
        documents=None if rows.documents is None else torch.from_numpy(np.ascontiguousarray(rows.documents)),
    )


def loss_of(nll_sum: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the loss in nats per token: the weighted sum divided by batch * length, `shape` of the tokens read."""
    return nll_sum / (shape[0] * shape[1])
