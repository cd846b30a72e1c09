"""What blocks are made of: norms, and products, whose weights are narrowed once a step instead of once a micro-batch.

Under autocast each product narrows its weight to bfloat16 in every forward pass, and its gradient is widened to float32
before it is added to that of earlier micro-batches. Here the copy is made when the weight has changed, and the gradient
is added as the product wrote it: the sums are the same, bit for bit, since every bfloat16 number is a float32 number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .cross_entropy import compute_dtype

Narrow = tuple[Tensor | None, ...]
WIDE: Narrow = (None, None, None, None)
"""No copies of a block's weights (`qkv`, `out`, `gate_up`, `down`): products narrow them themselves, under autocast."""


def again(recompute: bool, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Return `function(*args)`; with `recompute` it keeps its arguments alone for the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019), computed in float32 or wider.

    Attributes:
        recompute: make it once more in the backward pass, instead of keeping it.
    """

    recompute: bool = False

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed `x`, same shape and dtype."""
        return again(self.recompute, self._normed, x)

    def _normed(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class ResidualLinear(nn.Linear):
    """A projection back into the residual stream: its initial weights shrink with depth."""


def product(layer: nn.Module, x: Tensor, narrow: Tensor | None) -> Tensor:
    """Return what a `layer` without a bias makes of `x`, (..., out); `narrow` stands for its weight where there is a
    copy of it."""
    found: Tensor = layer(x) if narrow is None else F.linear(x, narrow)
    return found


class NarrowWeights:
    """Keeps copies of the weights in blocks, in autocast's dtype, for the forward passes of training.

    A copy is made again when its weight has been written, whoever wrote it: torch counts that, but for the steps of
    fused optimizers, which are counted here (`stepped`). So what is computed follows from the weights alone, also in a
    run that is resumed.

    Not for FSDP, whose weights are whole only while their block is computed, and which narrows them itself.

    Attributes:
        adds: gradients are added to `weight.grad` here. Otherwise autograd adds them, and DDP is told of them.
    """

    def __init__(self, adds: bool) -> None:
        self.adds = adds
        self._steps = 0
        self._copies: dict[nn.Linear, _Copy] = {}

    def __call__(self, block: Any) -> Narrow:
        """Return the narrow weights of a `Block`, `WIDE` where nothing is trained or products do not narrow."""
        layers = block.attention.qkv, block.attention.out, block.mlp.gate_up, block.mlp.down
        weight = layers[0].weight
        if not (block.training and torch.is_grad_enabled()) or compute_dtype(weight) is weight.dtype:
            return WIDE
        return tuple(_Narrowed.apply(layer.weight, self._copy(layer), self.adds) for layer in layers)

    def stepped(self, *_: Any) -> None:
        """Note that the optimizer has taken a step: a hook of it, set by `build_optimizer`."""
        self._steps += 1

    @torch.no_grad()
    def _copy(self, layer: nn.Linear) -> Tensor:
        weight = layer.weight
        lies, written = weight.data_ptr(), (weight._version, self._steps)
        before = self._copies.get(layer)
        if before is None or before.lies != lies:
            self._copies[layer] = _Copy(lies, written, weight.to(compute_dtype(weight)))
        elif before.written != written:
            self._copies[layer] = _Copy(lies, written, before.of.copy_(weight))
        return self._copies[layer].of


class _Copy(NamedTuple):
    lies: int
    written: tuple[int, int]
    of: Tensor


class _Narrowed(torch.autograd.Function):
    """(weight, its copy, `NarrowWeights.adds`) -> the copy, whose gradient is the weight's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor, adds: bool) -> Tensor:
        ctx.weight, ctx.adds = weight, adds
        return copy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.adds and ctx.weight.grad is not None:
            ctx.weight.grad.add_(grads[0])
            return None, None, None
        return grads[0].to(ctx.weight.dtype), None, None
