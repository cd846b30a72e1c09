"""AdamW as language models use it: weight decay on matrices only."""

import torch
from torch import nn

from .config import OptimizerSection


def build_optimizer(model: nn.Module, section: OptimizerSection, fused: bool = False) -> torch.optim.AdamW:
    """Return AdamW over `model`: matrices of linear layers are decayed, norms and embeddings are not.

    fused: one kernel for all weights, for GPUs.
    """
    kept = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    named = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in named if p.ndim >= 2 and id(p) not in kept]
    others = [p for p in named if p.ndim < 2 or id(p) in kept]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=fused or None)
