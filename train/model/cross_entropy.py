"""Cross-entropy from hidden states without ever holding all logits.

Logits are made a chunk of tokens at a time. For training, the gradients of a chunk are computed as soon as its logits
exist, so nothing of size (tokens, vocabulary) outlives its chunk and no logits are computed twice.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**28
"""Logits held at a time: 1 GiB in float32."""

CPU_CHUNK_ELEMENTS = 2**22
"""The same for likelihoods on a CPU, where 16 MiB were read and written twice as fast as 1 GiB."""


def chunk_rows(vocab: int, elements: int = CHUNK_ELEMENTS) -> int:
    """Return how many targets' logits are held at a time."""
    return max(1, elements // vocab)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype matrix products run in: autocast's where it is on, else that of `x`."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # the meta device, where only operations are counted
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def logits_of(x: Tensor, weight: Tensor, vocab_size: int) -> Tensor:
    """Return logits in float32 or wider, -inf for padding ids."""
    logits = F.linear(x, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits[:, vocab_size:] = -torch.inf
    return logits


@torch.compiler.disable
def token_nll(x: Tensor, weight: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    """Return the negative log-likelihood in nats of each label, float32 or wider (n,); for use without gradients.

    Args:
        x: hidden states (n, hidden).
        weight: output head (padded vocabulary, hidden).
        labels: int64 (n,).
    """
    dtype = compute_dtype(x)
    weight = weight.to(dtype)
    rows = chunk_rows(len(weight), CPU_CHUNK_ELEMENTS if x.device.type == "cpu" else CHUNK_ELEMENTS)
    parts = [
        F.cross_entropy(logits_of(h.to(dtype), weight, vocab_size), y, reduction="none")
        for h, y in zip(x.split(rows), labels.split(rows), strict=True)
    ]
    return torch.cat(parts)


@torch.compiler.disable
def weighted_nll_sum(x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int) -> Tensor:
    """Return sum_i weights[i] * nll_i as a scalar, float32 or wider, differentiable in `x` and `weight`.

    Args:
        x: hidden states (n, hidden).
        weight: output head (padded vocabulary, hidden).
        labels: int64 (n,).
        weights: (n,), constants. n may be 0.
    """
    return _WeightedNLL.apply(x, weight, labels, weights, vocab_size)


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int) -> Tensor:
        total, *gradients = sums_and_gradients(x, weight, labels, weights, vocab_size, (), _nll_of_chunk)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grads[0]), None, None, None


def _nll_of_chunk(logits: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sum, and its gradient in place of `logits`: softmax - one-hot."""
    log_norm = logits.logsumexp(1, keepdim=True)
    total = ((log_norm - logits.gather(1, y)) * scale).sum()
    grad = logits.sub_(log_norm).exp_().mul_(scale)
    grad.scatter_add_(1, y, -scale)
    return total, grad


OfChunk = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits (n, padded vocabulary), labels (n, 1), weights (n, 1)) -> sums, and their sum's gradient by the logits."""


def sums_and_gradients(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    weights: Tensor,
    vocab_size: int,
    shape: tuple[int, ...],
    of_chunk: OfChunk,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `of_chunk` gives over all targets, of `shape`, and its gradients by `x` and `weight`, a chunk of the
    logits at a time. Other arguments are those of `weighted_nll_sum`."""
    dtype = compute_dtype(x)
    w = weight.detach().to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    sums = torch.zeros(shape, dtype=wide, device=x.device)
    grad_x, grad_w = torch.empty_like(x), torch.zeros_like(weight, dtype=wide)
    rows = chunk_rows(len(weight))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        h, y, scale = x[part].detach().to(dtype), labels[part, None], weights[part, None].to(wide)
        found, grad = of_chunk(logits_of(h, w, vocab_size), y, scale)
        sums += found
        grad = grad.to(dtype)
        grad_x[part] = grad @ w
        grad_w += grad.T @ h
    return sums, grad_x, grad_w.to(weight.dtype)


def scaled_gradients(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients that a forward pass saved, by `x` and `weight`, times that of its sum."""
    grad_x, grad_w = ctx.saved_tensors
    return grad_x * scale.to(grad_x.dtype), grad_w * scale.to(grad_w.dtype)
