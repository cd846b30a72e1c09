"""AdamW as language models use it (weight decay on matrices only), and its learning-rate schedules: multipliers of the
peak rate as pure functions of the step."""

import math
from collections.abc import Callable

import torch
from torch import nn

from .settings.optimization import OptimizerSection


def build_optimizer(model: nn.Module, section: OptimizerSection, fused: bool = False) -> torch.optim.AdamW:
    """Return AdamW over `model`: matrices of linear layers are decayed, norms and embeddings are not.

    Args:
        fused: one kernel for all weights, for GPUs.
    """
    kept = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    named = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in named if p.ndim >= 2 and id(p) not in kept]
    others = [p for p in named if p.ndim < 2 or id(p) in kept]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=fused or None)


def warmup(step: int, warmup_steps: int) -> float:
    """Return the linear warm-up's factor: (step + 1) / warmup_steps until it is 1, so that no step has rate 0."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def warmup_stable_decay(
    step: int, total_steps: int, warmup_steps: int, decay_steps: int, final: float, shape: str = "exponential"
) -> float:
    """Return the multiplier at `step` (from 0): linear warm-up, constant 1, then down to `final` at the end.

    exponential: final ** x, x going from 0 to 1 over the last `decay_steps`: equal ratios in equal times (the
    paper's: 2e-4 to 2e-5 over the last 10 %). linear: 1 - x * (1 - final).
    """
    x = _progress(step, total_steps - decay_steps, total_steps)
    tail = final**x if shape == "exponential" else 1.0 - x * (1.0 - final)
    return warmup(step, warmup_steps) * tail


def cosine(step: int, total_steps: int, warmup_steps: int, final: float) -> float:
    """Return the multiplier at `step`: linear warm-up, then half a cosine down to `final` at the last step."""
    x = _progress(step, warmup_steps, total_steps)
    return warmup(step, warmup_steps) * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * x)))


def _progress(step: int, start: int, end: int) -> float:
    """Return how far `step` is from `start` to the last step before `end`, in [0, 1]."""
    span = end - 1 - start
    if span <= 0:
        return 1.0 if step >= max(start, end - 1) and end > start else 0.0
    return min(1.0, max(0.0, (step - start) / span))


Schedule = Callable[[int], float]
