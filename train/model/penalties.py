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

from .cross_entropy import scaled_gradients, sums_and_gradients


class Penalties(NamedTuple):
    """Weights of what is added, each 0 for nothing."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0


@torch.compiler.disable
def penalised_sums(
    x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int, penalties: Penalties
) -> Tensor:
    """Return four sums over targets, each times its weight, float32 or wider (4,): all of it, nll, smoothing, z-loss.

    The first is differentiable in `x` and `weight`; take gradients of no other.

    Args:
        x: hidden states (n, hidden).
        weight: output head (padded vocabulary, hidden).
        labels: int64 (n,).
        weights: (n,), constants. n may be 0.
    """
    total, parts = _Penalised.apply(x, weight, labels, weights, vocab_size, penalties)
    return torch.cat((total[None], parts))


class _Penalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int, penalties: Penalties
    ) -> tuple[Tensor, Tensor]:
        of_chunk = functools.partial(_sums_and_gradient, vocab_size=vocab_size, penalties=penalties)
        parts, *gradients = sums_and_gradients(x, weight, labels, weights, vocab_size, (3,), of_chunk)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(parts)
        return parts.sum(), parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grads[0]), None, None, None, None


def _sums_and_gradient(
    logits: Tensor, y: Tensor, scale: Tensor, vocab_size: int, penalties: Penalties
) -> tuple[Tensor, Tensor]:
    """Return the three sums, and the gradient of all in place of `logits` (n, padded vocabulary)."""
    a, z = penalties
    log_norm, of_label = logits.logsumexp(1, keepdim=True), logits.gather(1, y)
    mean = logits[:, :vocab_size].mean(1, keepdim=True)
    terms = (log_norm - of_label, a * (of_label - mean), z * log_norm.square())
    sums = torch.stack([(term * scale).sum() for term in terms])
    # softmax * (1 + 2 z log Z) - (1 - a) * one-hot - a / V
    grad = logits.sub_(log_norm).exp_().mul_(scale * (1.0 + 2.0 * z * log_norm))
    grad.scatter_add_(1, y, -(1.0 - a) * scale)
    grad[:, :vocab_size] -= a / vocab_size * scale
    return sums, grad
