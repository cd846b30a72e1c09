"""One model of both types: every sample is autoregressive or masked diffusion, by a hash of its position.

Both halves are the objectives that exist, on the same transformer and the same weights: an autoregressive sample reads
[BOS] + x[:-1] and attends to the left, a masked-diffusion one reads x with MASK in places and attends to both sides.
At index i either predicts x_i, so nothing is shifted between the two. (Samuel & Charpentier 2025, arXiv 2512.14549,
have both predict the next token; here each half is what an `ar` or `mdm` run trains, and is measured as such.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.attention_reach import bidirectional, causal
from . import noise
from .documents import GIVEN_LENGTHS
from .objectives import Autoregressive, Corrupted, MaskedDiffusion, SpecialIds, TokenRows


@dataclass(frozen=True)
class Dual:
    """Trains samples of either type in one batch.

    The loss is the sum of both types' weighted negative log-likelihoods over batch * seq_len: on average ar_share * NLL
    + (1 - ar_share) * NELBO.

    Attributes:
        ar_share: probability that a sample is autoregressive, independently of all others.
        seed: the types of samples are a pure function of it and their positions.
    """

    ar: Autoregressive
    mdm: MaskedDiffusion
    ar_share: float
    seed: int = 0

    causal = False

    @property
    def kind(self) -> str:
        """Return `dual`; of a model that is told of documents, that its bound is given their lengths."""
        return "dual" + (GIVEN_LENGTHS if self.mdm.document_mask else "")

    @property
    def target_share(self) -> float:
        """Return the mean share of tokens that are predicted."""
        return self.ar_share * self.ar.target_share + (1 - self.ar_share) * self.mdm.target_share

    @property
    def ids(self) -> SpecialIds:
        """Return the special ids of both."""
        return self.ar.ids

    def is_autoregressive(self, positions: noise.Positions) -> NDArray[np.bool_]:
        """Return the type of the sample at each of `positions`, True for autoregressive, their shape."""
        return noise.to_uniform(noise.row_bits(self.seed, "objective", positions)) < self.ar_share

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`."""
        parts = (half.corrupt(tokens, n_tokens, positions) for half in (self.ar, self.mdm))
        return of_both(self.is_autoregressive(positions), *parts)


@dataclass(frozen=True)
class DualValidation:
    """What validation measures of a dual model: of each sample the likelihood once, then the bound's noise samples.

    Noise samples have the very noise with which a masked-diffusion run is validated.

    Attributes:
        noise_samples: of the bound; positions count 1 + noise_samples rows a sample.
    """

    ar: Autoregressive
    mdm: MaskedDiffusion
    noise_samples: int

    causal = False
    kind = "dual"
    target_share = 1.0

    def corrupt(self, tokens: TokenRows, n_tokens: NDArray[np.int64], positions: noise.Positions) -> Corrupted:
        """See `Objective.corrupt`; `positions` are sample * (1 + noise_samples) + row."""
        sample, row = positions // (1 + self.noise_samples), positions % (1 + self.noise_samples)
        ar = self.ar.corrupt(tokens, n_tokens, sample)
        mdm = self.mdm.corrupt(tokens, n_tokens, sample * self.noise_samples + np.maximum(row - 1, 0))
        return of_both(row == 0, ar, mdm)


def of_both(is_ar: NDArray[np.bool_], ar: Corrupted, mdm: Corrupted) -> Corrupted:
    """Return the rows of `ar` where `is_ar`, bool (rows,), else those of `mdm`; each attends as its type does."""
    told = None
    if ar.documents is not None and mdm.documents is not None:
        told = _rows(is_ar, ar.documents, mdm.documents)
    return Corrupted(
        inputs=_rows(is_ar, ar.inputs, mdm.inputs),
        labels=_rows(is_ar, ar.labels, mdm.labels),
        targets=_rows(is_ar, ar.targets, mdm.targets),
        weights=_rows(is_ar, ar.weights, mdm.weights),
        attention_mask=_rows(is_ar, ar.attention_mask, mdm.attention_mask),
        reach=_rows(is_ar, causal(ar.attention_mask), bidirectional(mdm.attention_mask)),
        documents=told,
    )


def _rows(first: NDArray[np.bool_], a: NDArray, b: NDArray) -> NDArray:
    return np.where(first.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
