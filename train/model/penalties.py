"""What may be added to the cross-entropy in training: label smoothing and the z-loss.

Of a target y with logits l over the V ids in use, and Z the sum of exp(l):

    label smoothing   a * (l_y - mean(l))    which makes of the loss (1 - a) * nll + a * (mean over all ids of -log p)
    z-loss            z * (log Z)^2

(Szegedy et al. 2016; Chowdhery et al. 2022, PaLM.) They are kept apart from the negative log-likelihood, so that what
is logged as one still is one.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cross_entropy import OfChunk, scaled_gradients, sums_and_gradients


class Penalties(NamedTuple):
    """Weights of what is added, each 0 for nothing."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0


@torch.compiler.disable
def penalised_sums(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    weights: Tensor,
    vocab_size: int,
    penalties: Penalties,
    backend: str | None = None,
) -> Tensor:
    """Return four sums over targets, each times its weight, float32 or wider (4,): all of it, nll, smoothing, z-loss.

    The first is differentiable in `x` and `weight`; take gradients of no other.

    Args:
        x: hidden states (n, hidden).
        weight: output head (padded vocabulary, hidden).
        labels: int64 (n,).
        weights: (n,), constants. n may be 0.
        vocab_size: ids in use.
        penalties: what is added.
        backend: as for `weighted_nll_sum`.
    """
    total, parts = _Penalised.apply(x, weight, labels, weights, vocab_size, penalties, backend)
    return torch.cat((total[None], parts))


class _Penalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        labels: Tensor,
        weights: Tensor,
        vocab_size: int,
        penalties: Penalties,
        backend: str | None,
    ) -> tuple[Tensor, Tensor]:
        of_chunk = _of_chunk(vocab_size, penalties)
        parts, *gradients = sums_and_gradients(x, weight, labels, weights, vocab_size, (3,), of_chunk, backend)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(parts)
        return parts.sum(), parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grads[0]), None, None, None, None, None


@functools.cache  # one function for the same arguments, which is compiled once
def _of_chunk(vocab_size: int, penalties: Penalties) -> OfChunk:
    """Return the function of a chunk, see `OfChunk`, that gives three sums: nll, smoothing, z-loss."""
    a, z = penalties

    def of_chunk(logits: Tensor, of_label: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_norm, mean = logits.logsumexp(1, keepdim=True), logits[:, :vocab_size].mean(1, keepdim=True)
        terms = (log_norm - of_label, a * (of_label - mean), z * log_norm.square())
        sums = torch.stack([(term * scale).sum() for term in terms])
        # softmax * (1 + 2 z log Z) - (1 - a) * one-hot - a / V
        of_softmax, of_all = scale * (1.0 + 2.0 * z * log_norm), a / vocab_size * scale
        at_label = (of_label - log_norm).exp_().mul_(of_softmax).sub_((1.0 - a) * scale).sub_(of_all)
        in_use = torch.arange(logits.shape[1], device=logits.device) < vocab_size
        grad = logits.sub_(log_norm).exp_().mul_(of_softmax).addcmul_(of_all, in_use, value=-1)
        return sums, grad, at_label

    return of_chunk
