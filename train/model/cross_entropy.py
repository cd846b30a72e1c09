"""Cross-entropy from hidden states without ever holding all logits.

Logits are made a chunk of tokens at a time. For training, the gradients of a chunk are computed as soon as its logits
exist, so nothing of size (tokens, vocabulary) outlives its chunk and no logits are computed twice. Where the model is
compiled, so is what lies between the matrix products of a chunk: it reads logits as one product wrote them and writes
gradients as the next reads them, and no copy in float32 exists.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**28
"""Logits held at a time: 1 GiB in float32."""

COMPILED_CHUNK_ELEMENTS = 2 * CHUNK_ELEMENTS
"""The same where a chunk is compiled: 1 GiB in bfloat16."""

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
    """Return logits (n, padded vocabulary) in the dtype of the product, -inf for padding ids."""
    logits = F.linear(x, weight)
    logits[:, vocab_size:].fill_(-torch.inf)
    return logits


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
        F.cross_entropy(_wide(logits_of(h.to(dtype), weight, vocab_size)), y, reduction="none")
        for h, y in zip(x.split(rows), labels.split(rows), strict=True)
    ]
    return torch.cat(parts)


@torch.compiler.disable
def weighted_nll_sum(
    x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int, backend: str | None = None
) -> Tensor:
    """Return sum_i weights[i] * nll_i as a scalar, float32 or wider, differentiable in `x` and `weight`.

    Args:
        x: hidden states (n, hidden).
        weight: output head (padded vocabulary, hidden).
        labels: int64 (n,).
        weights: (n,), constants. n may be 0.
        vocab_size: ids in use.
        backend: of `torch.compile`, for what lies between the matrix products; None leaves it as it is.
    """
    return _WeightedNLL.apply(x, weight, labels, weights, vocab_size, backend)


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, vocab_size: int, backend: str | None
    ) -> Tensor:
        chosen = (x, weight, labels, weights, vocab_size)
        total, *gradients = sums_and_gradients(*chosen, (), nll_of_chunk, backend)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grads[0]), None, None, None, None


OfChunk = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(logits (n, padded vocabulary), -inf for padding ids, those of the labels (n, 1), weights (n, 1)) -> sums, the
gradient of their sum by the logits, in the place of these, and what belongs in it at the labels (n, 1).

All are float32 or wider."""


def nll_of_chunk(logits: Tensor, of_label: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum, and its gradient, the weighted softmax - one-hot; see `OfChunk`.

    What belongs at the labels stands apart: in a gradient that was narrowed before 1 is taken off, a probability near
    1 would be 1, and nothing would be left where the model is sure of a label.
    """
    log_norm = logits.logsumexp(1, keepdim=True)
    total = ((log_norm - of_label) * scale).sum()
    at_label = (of_label - log_norm).exp_().mul_(scale).sub_(scale)
    return total, logits.sub_(log_norm).exp_().mul_(scale), at_label


def sums_and_gradients(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    weights: Tensor,
    vocab_size: int,
    shape: tuple[int, ...],
    of_chunk: OfChunk,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums that `of_chunk` gives over all targets, of `shape`, and their gradients by `x` and `weight`.

    Logits are made a chunk at a time. Other arguments are those of `weighted_nll_sum`.
    """
    dtype = compute_dtype(x)
    w = weight.detach().to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    sums = torch.zeros(shape, dtype=wide, device=x.device)
    grad_x, grad_w = torch.empty_like(x), torch.zeros_like(weight, dtype=wide)
    rows = chunk_rows(len(weight), COMPILED_CHUNK_ELEMENTS if backend else CHUNK_ELEMENTS)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        h, y, scale = x[part].detach().to(dtype), labels[part, None], weights[part, None].to(wide)
        found, grad = _sums_and_gradient(h, w, y, scale, vocab_size, of_chunk, backend)
        sums += found
        grad_x[part] = grad @ w
        grad_w += grad.T @ h
    return sums, grad_x, grad_w.to(weight.dtype)


def _sums_and_gradient(
    h: Tensor, w: Tensor, y: Tensor, scale: Tensor, vocab_size: int, of_chunk: OfChunk, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Return what `of_chunk` gives for one chunk, the gradient complete and in the dtype of the products."""
    logits = logits_of(h, w, vocab_size)
    of_label = _wide(logits.gather(1, y))
    if backend is None or len(h) == 1:  # one target would be compiled apart from all other numbers of them
        logits = _wide(logits)
        sums, grad, at_label = of_chunk(logits, of_label, scale)
        grad = grad.to(h.dtype)
    else:
        for of_targets in (logits, of_label, scale):
            torch._dynamo.maybe_mark_dynamic(of_targets, 0)
        sums, grad, at_label = compiled_chunk(of_chunk, backend)(logits, of_label, scale)
    return sums, grad.scatter_(1, y, at_label.to(grad.dtype))


@functools.cache
def compiled_chunk(of_chunk: OfChunk, backend: str) -> OfChunk:
    """Return `narrowly(of_chunk)`, compiled when it is first called."""
    return torch.compile(narrowly(of_chunk), backend=backend)


def narrowly(of_chunk: OfChunk) -> OfChunk:
    """Return `of_chunk` for logits in any dtype, which the gradient has too."""

    def chunk(logits: Tensor, of_label: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums, grad, at_label = of_chunk(_wide(logits), of_label, scale)
        return sums, grad.to(logits.dtype), at_label

    return chunk


def scaled_gradients(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients that a forward pass saved, by `x` and `weight`, times that of its sum."""
    grad_x, grad_w = ctx.saved_tensors
    return grad_x * scale.to(grad_x.dtype), grad_w * scale.to(grad_w.dtype)
